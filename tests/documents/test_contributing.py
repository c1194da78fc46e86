"""What CONTRIBUTING.md adds, as a package of its own, is found and works."""

import re
import tomllib

import blocks
import numpy as np
import pytest
from packages import install

from formulations import LayerProblem, find, solve, square
from mipprune import train

TEXT = (blocks.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {
    name: block for block in blocks.blocks(TEXT) for name in re.findall(r"\A# (\S+\.py)\n", block)
}
OWN = {name: block for name, block in FILES.items() if "/" not in name}
GROUPS = tomllib.loads("".join(blocks.blocks(TEXT, "toml")))["project"]["entry-points"]
RECIPE = {
    "budget": {"macs": 0.5},
    "regularize": {"epochs": 1},
    "finetune": {"epochs": 1},
}


@pytest.fixture(autouse=True)
def _package(tmp_path, monkeypatch):
    sections = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
        for group, names in GROUPS.items()
    )
    install(tmp_path, monkeypatch, OWN, "\n".join(sections))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if "/" in name])
def test_code_that_is_shown_of_the_repository_stands_there(name):
    shown = FILES[name].partition("\n")[2]
    assert shown in (blocks.ROOT / name).read_text(encoding="utf-8")


def test_the_term_is_found():
    assert find("soft-cube").term().price == 1.0


def test_the_solver_is_found():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((50, 6))
    problem = LayerProblem.from_data(inputs, inputs[:, :2], square(0.1, 0.05))
    found = solve(problem, solver="rounding")
    assert found.solver == "rounding"
    assert found.bound <= solve(problem).objective <= found.objective * (1 + 1e-9)


def test_the_method_is_trained_with():
    method = {"name": "loudest", "power": 2.0}
    result = train({**RECIPE, "method": method, "name": "own"})
    assert result["kept"]["macs"] <= 0.5


def test_the_data_set_is_a_data_set():
    (code,) = (block for block in blocks.blocks(TEXT) if "Source(" in block)
    exec(code, {})
