"""mipprune compare: every kind of problem, its rows, curves and pictures."""

import json

import numpy as np
import pytest

from formulations import load_problem, save_problem
from formulations.errors import InputError
from mipprune.analysis.compare.compare import compare
from mipprune.analysis.compare.networks import compare_toy
from mipprune.analysis.compare.problems import generate
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import configure
from mipprune.report.pictures import draw_comparison


def settings(*words) -> CompareConfig:
    """Without a limit on the time, so that a busy machine proves as much."""
    return configure(CompareConfig, {}, ["time_limit=1e6", *words])


def by_name(found):
    return {row["name"]: row for row in found["rows"]}


@pytest.fixture(scope="module")
def layer():
    return compare("layer:generated", settings("groups=10", "sweep=5"))


def test_relaxations_of_a_layer_get_tighter_and_heuristics_stay_above(layer):
    rows = by_name(layer)
    exact = rows["exact"]["objective"]
    order = ["big-m-relaxation", "perspective-relaxation", "perspective+schur", "exact"]
    values = [rows[name]["objective"] for name in order]
    assert values == sorted(values)
    assert rows["perspective+ascent"]["objective"] >= values[2] * (1 - 1e-9)
    trained = rows["spr-trained"]["objective"]
    assert trained == pytest.approx(rows["perspective-relaxation"]["objective"], rel=1e-5)
    heuristics = [row for row in layer["rows"] if row["status"] == "heuristic"]
    assert len(heuristics) == 4
    for row in heuristics:
        assert row["objective"] >= exact * (1 - 1e-9)


def test_trade_off_curve_falls_and_the_exact_one_lies_below(layer):
    points = sorted(layer["sweep"], key=lambda point: point["price"])
    kept = [point["exact_kept"] for point in points]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]
    for point in points:
        if point["rounded_kept"] == point["exact_kept"]:
            assert point["exact_loss"] <= point["rounded_loss"] * (1 + 1e-6)


def test_cardinality_holds_in_every_row_that_chooses():
    found = compare("layer:generated", settings("groups=8", "cardinality=3"))
    chosen = [row for row in found["rows"] if "relax" not in row["name"] and "+" not in row["name"]]
    assert all(row["kept"] <= 3 for row in chosen if row["name"] != "spr-trained")
    assert by_name(found)["exact"]["status"] == "optimal"


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_exact_row_is_the_same_by_other_solvers(solver):
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    own = by_name(compare("layer:generated", settings("groups=5")))["exact"]
    other = by_name(compare("layer:generated", settings("groups=5", f"solver={solver}")))["exact"]
    assert other["support"] == own["support"]
    assert other["objective"] == pytest.approx(own["objective"], rel=2e-4)


@pytest.mark.parametrize("name", ["xor", "toy-mlp"])
def test_toys_are_proved_and_heuristics_stay_above(name):
    found = compare_toy(name, settings("restarts=1", "sweep=2"), steps=300)
    rows = by_name(found)
    assert rows["exact"]["status"] == "optimal"
    assert rows["big-m-relaxation"]["objective"] <= rows["exact"]["objective"] + 1e-9
    assert len(found["sweep"]) == 2
    if name == "xor":
        assert rows["exact"]["kept"] == 2
    else:
        for row in found["rows"][3:]:
            assert row["objective"] >= rows["exact"]["objective"] * (1 - 1e-9)


def test_budget_s_exact_widths_lose_least():
    found = compare("budget:resnet20", settings("macs=0.5"))
    rows = by_name(found)
    assert rows["exact"]["status"] == "optimal"
    assert rows["exact"]["objective"] <= min(
        rows[name]["objective"] for name in ("uniform", "threshold")
    )


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_drawn_of_any_comparison(ending, layer, tmp_path):
    long = {
        **layer,
        "progress": [
            {"seconds": s, "objective": 2.0, "bound": 1 + s / 5, "nodes": s} for s in range(4)
        ],
    }
    for number, found in enumerate((layer, long, {**layer, "sweep": []})):
        path = tmp_path / f"{number}.{ending}"
        draw_comparison(path, found)
        assert path.stat().st_size > 5000


def test_what_compare_returns_is_json(layer):
    assert json.loads(json.dumps(layer))["problem"] == "layer:generated"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("or", "unknown problem 'or': xor, toy-mlp, layer"),
        ("layer:", "unknown problem"),
        ("budget:vgg99", "name a checkpoint folder or a model"),
        ("layer:absent.npz", "no layer problem at absent.npz"),
    ],
)
def test_unknown_problem_is_refused_in_one_line(source, message):
    with pytest.raises(InputError, match=message):
        compare(source, settings())


def test_infeasible_budget_names_the_smallest_network():
    with pytest.raises(
        InputError, match=r"budget\.macs=0\.0001 is unreachable: the smallest network"
    ):
        compare("budget:resnet8", settings("macs=0.0001"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"G": np.nan}, r"G\[0, 0\] is not a finite number"),
        ({"cost": -1.0}, "price must be positive"),
        ({"bound": 0.0}, "bound must be positive"),
    ],
)
def test_wrong_layer_file_is_refused_in_one_line(change, message, tmp_path):
    path = tmp_path / "layer.npz"
    save_problem(generate(settings("groups=4")), path)
    with np.load(path) as data:
        arrays = dict(data)
    for name, value in change.items():
        if arrays[name].ndim > 1:
            arrays[name][0, 0] = value
        else:
            arrays[name] = np.asarray(value)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        load_problem(path)
