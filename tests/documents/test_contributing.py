"""What CONTRIBUTING.md adds, as a package of its own, is found and works."""

import re
import tomllib

import blocks
import numpy as np
import pytest
import torch
from packages import install

from formulations import LayerProblem, find, solve, square
from mipprune import build, find_groups, prune_groups, train
from mipprune.data.registry import load
from mipprune.models.registry import describe
from mipprune.structure.cost import count_params

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


def test_the_data_set_is_found():
    data = load("stripes", None, torch.device("cpu"))
    assert next(data.train_batches(32, seed=0, epoch=0))[0].shape == (32, 1, 8, 8)


def test_the_model_is_built_and_pruned():
    network = build({"name": "two-layers", "shape": (1, 8, 8), "classes": 2, "width": 4})
    groups = find_groups(network, (1, 8, 8))
    kept = np.arange(groups.count) % 2 == 0
    smaller = prune_groups(network, groups, kept)
    assert count_params(smaller) < count_params(build(describe(network)))
    again = build(describe(smaller))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in smaller.state_dict().items()
    }
