"""mipprune derive, and the commands that take a term."""

import json

import numpy as np
import pytest
from command import refused, run

from formulations.symbolic import checks


@pytest.fixture
def unchecked(monkeypatch):
    """Where the checks are not what is looked at: they take seconds."""
    monkeypatch.setattr(checks, "check", lambda derivation: [])


def test_cube_is_derived_checked_drawn_and_written(tmp_path):
    files = [tmp_path / name for name in ("cube.svg", "cube.py", "cube.json")]
    result = run(
        "derive", "a*r**3", "a=2", "price=0.5", "--plot", str(files[0]),
        "--python", str(files[1]), "--json", str(files[2]), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "r* =" in result.stdout
    assert result.stdout.count("passed") == 7
    assert files[0].read_text().lstrip().startswith("<?xml")
    module = {}
    exec(files[1].read_text(), module)
    assert module["value"](np.array([[0.1, 0.0]])).shape == (1,)
    told = json.loads(files[2].read_text())
    assert all(check["passed"] for check in told["checks"])
    assert any(statement["name"] == "h(w)" for statement in told["statements"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("price", "said"), [("0.5", "c < a"), ("1.5", "recession form")])
def test_pseudo_huber_says_both_cases(price, said, tmp_path):
    result = run("derive", "a*(sqrt(1+r**2)-1)", f"price={price}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert said in result.stdout


@pytest.mark.usefixtures("unchecked")
def test_catalogue_is_listed_and_latex_is_all_that_is_printed(tmp_path):
    listed = run("derive", "--list", cwd=tmp_path).stdout
    for name in ("square", "power", "elastic-net", "pseudo-huber", "big-m", "mcp", "nested"):
        assert name in listed
    written = run("derive", "square", "--latex", cwd=tmp_path).stdout
    assert written.startswith("\\begin{align*}")
    assert written.rstrip().endswith("\\end{align*}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sqrt(r)"], "not convex"),
        (["r**2 + 1"], "φ(0) must be 0"),
        (["a*x**2"], "unknown symbol 'x'"),
        (["a*r**2", "price=-1"], "price must be positive"),
        (["import os"], "not an expression"),
        (["a*r**2", "price=much"], "not a number"),
        (["a*r**2", "price"], "key=value"),
        (["a*r**2", "--plot", "here.pdf"], ".png or .svg"),
        (["a*r**2", "--plot", "nowhere/x.png"], "no folder"),
        (["a*r**2", "--python", "x.txt"], ".py"),
        (["absent.py"], "no file"),
        ([], "name a term"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(words, message, tmp_path):
    refused(run("derive", *words, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("term", ["a*r**3", "mcp", "nested", "pseudo-huber"])
def test_compare_takes_any_term_and_training_meets_its_relaxation(term, tmp_path):
    words = ["groups=4", f"term={term}", "price=0.02", "time_limit=1e6", "--json", "rows.json"]
    result = run("compare", "layer:generated", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["exact"]["status"] == "optimal"
    relaxed = rows["perspective-relaxation"]["objective"]
    assert rows["spr-trained"]["objective"] == pytest.approx(relaxed, rel=1e-5)
    assert relaxed <= rows["exact"]["objective"] * (1 + 1e-9)


def test_compare_refuses_blocks_that_do_not_divide(tmp_path):
    words = ["groups=7", "term=nested", "blocks=2"]
    refused(run("compare", "layer:generated", *words, cwd=tmp_path), "does not divide")


def test_a_term_of_five_lines_removes_half_of_the_macs(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from formulations import derive\n\nterm = derive('a*r**3 + b*r', a=0.5, b=0.1)\n"
    )
    result = run(
        "train", "digits-spr", "method.term=mine.py:term", "budget.macs=0.5", "model=resnet8",
        "reference=false", "regularize.epochs=8", "finetune.epochs=6", "name=own", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    told = json.loads((tmp_path / "runs/own/result.json").read_text())
    assert told["kept"]["macs"] <= 0.5
    assert told["pruned"]["accuracy"] > 90
