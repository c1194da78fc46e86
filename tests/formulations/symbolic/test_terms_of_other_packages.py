"""Terms that other packages announce as entry points."""

import pytest
from packages import install

from formulations import find
from formulations.errors import InputError
from mipprune.report.derivations import print_catalogue

TERM = 'from formulations import derive\n\ncube = derive("a*r**3", price=2.0, a=0.5)\nlist = []\n'
POINTS = """
[formulations.terms]
soft-cube = my_terms:cube
square = my_terms:cube
no-term = my_terms:list
gone = my_terms:nothing
"""


@pytest.fixture(autouse=True)
def _package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"my_terms.py": TERM}, POINTS)


def test_a_term_of_another_package_is_found_by_its_name():
    assert find("soft-cube").term().price == 2.0


def test_the_catalogue_s_own_names_come_first():
    assert str(find("square").phi) == "a*r**2"


def test_what_is_no_derivation_is_refused():
    with pytest.raises(InputError, match=r"no-term of formulations.terms is no derivation"):
        find("no-term")


def test_what_does_not_load_is_named():
    with pytest.raises(InputError, match="gone, the entry point my_terms:nothing"):
        find("gone")


def test_a_term_of_another_package_takes_no_options():
    with pytest.raises(InputError, match="says all of its term: price cannot be given"):
        find("soft-cube", price=1.0)


def test_a_package_that_is_installed_meanwhile_is_found(tmp_path):
    find("soft-cube")
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[formulations.terms]\nlate-cube = my_terms:cube\n")
    assert find("late-cube").term().price == 2.0


def test_the_list_names_terms_of_other_packages(tmp_path, monkeypatch, capsys):
    points = POINTS.replace("no-term", "#").replace("gone", "#")
    (tmp_path / "my_package-1.0.dist-info" / "entry_points.txt").write_text(points)
    print_catalogue()
    assert "soft-cube" in capsys.readouterr().out
