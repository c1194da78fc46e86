"""Files of a user's own: found by name, run once for every content, errors in one line."""

import sys

import pytest

from formulations.errors import InputError
from formulations.user_files import load, reference


@pytest.mark.parametrize(
    ("source", "file", "name"),
    [
        ("mine.py", "mine.py", "term"),
        ("mine.py:", "mine.py", "term"),
        ("mine.py:cube", "mine.py", "cube"),
        ("a.b/mine.py:cube", "a.b/mine.py", "cube"),
    ],
)
def test_file_and_name_are_told_apart(source, file, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reference(source, "term") == (tmp_path / file, name)


@pytest.mark.parametrize("source", ["square", "r**3", "timm:resnet18", ".py", "mine.pyx", ""])
def test_anything_else_is_no_file(source):
    assert reference(source, "term") is None


def test_a_file_runs_once_for_every_content_and_keeps_what_it_was(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("made = []\n")
    first = load(file)
    assert load(file) is first
    file.write_text("made = [1]\n")
    second = load(file)
    assert second.sha256 != first.sha256
    assert load(file, first.sha256) is first
    file.unlink()
    assert load(file, second.sha256).names["made"] == [1]
    with pytest.raises(InputError, match="there is no file"):
        load(file)


def test_modules_beside_it_can_be_imported_and_its_own_is_known(tmp_path):
    (tmp_path / "beside_mine.py").write_text("number = 3\n")
    file = tmp_path / "mine.py"
    file.write_text("from beside_mine import number\nclass Own: pass\n")
    before = list(sys.path)
    names = load(file).names
    assert names["number"] == 3
    assert sys.path == before
    assert sys.modules[names["Own"].__module__].Own is names["Own"]
    assert not (tmp_path / "__pycache__" / "mine.pyc").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n1 / 0", r"mine\.py does not run: ZeroDivisionError: .* \(line 2\)"),
        ("raise SystemExit('no\\nmore')", "does not run: SystemExit: no more"),
        ("def f(:", "does not run: SyntaxError"),
        ("import no_such_module", "does not run: ModuleNotFoundError"),
    ],
)
def test_a_file_that_does_not_run_is_one_line(text, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert not any(str(getattr(m, "__file__", "")) == str(file) for m in sys.modules.values())
