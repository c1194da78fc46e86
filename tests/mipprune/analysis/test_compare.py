"""mipprune compare: every kind of problem, its rows, curves and pictures."""

import itertools
import json
import re
from dataclasses import replace
from functools import partial
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from formulations import LayerProblem, load_problem, save_problem, solve
from formulations.errors import InputError
from formulations.layer.refit import refit
from formulations.solving.result import Status
from formulations.symbolic.catalogue import find
from mipprune.analysis.compare import layers
from mipprune.analysis.compare.compare import compare
from mipprune.analysis.compare.comparison import Comparison
from mipprune.analysis.compare.layers import layer_jobs
from mipprune.analysis.compare.networks import toy_jobs
from mipprune.analysis.compare.problems import generate
from mipprune.cli import main
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import configure
from mipprune.report import tables
from mipprune.report.pictures import _draw_progress, _draw_rows, _draw_sweep, draw_comparison


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


def test_the_front_is_the_best_of_every_number_and_nothing_lies_below(layer):
    problem = generate(settings("groups=10"))
    nothing = np.zeros(10, bool)
    best = []
    for kept in range(11):
        supports = (np.isin(range(10), chosen) for chosen in combinations(range(10), kept))
        best.append(min(problem.objective(refit(problem, s), nothing) for s in supports))
    assert [point["kept"] for point in layer["front"]] == list(range(11))
    np.testing.assert_allclose([point["loss"] for point in layer["front"]], best, rtol=1e-3)
    for point in layer["sweep"]:
        for name in ("exact", "rounded"):
            assert point[f"{name}_loss"] >= best[point[f"{name}_kept"]] * (1 - 1e-9)


def test_a_gap_is_how_far_a_row_is_from_the_optimum_at_most(layer):
    rows = by_name(layer)
    exact = rows["exact"]
    for row in layer["rows"]:
        upper, lower = (exact["objective"], row["bound"])
        if row["bound"] is None:
            upper, lower = (row["objective"], exact["bound"])
        assert row["gap"] == pytest.approx((upper - lower) / upper, abs=1e-12)
    trained, relaxed = rows["spr-trained"], rows["perspective-relaxation"]
    assert trained["gap"] == pytest.approx(relaxed["gap"], rel=1e-3)
    assert trained["gap"] > 1e-3


def test_every_row_has_the_limit_of_its_own_and_shows_what_it_has():
    """By a clock that counts how often it is looked at."""
    comparison = Comparison(settings("time_limit=200", "lam=[1]"), clock=itertools.count().__next__)
    comparison.run(toy_jobs("xor", comparison, steps=10**9))
    rows = by_name(comparison.found())
    assert rows["exact"]["status"] == "optimal"
    for name in ("spr λ=1", "group-lasso", "magnitude"):
        assert rows[name]["status"] == "time_limit"
        assert rows[name]["objective"] >= 0
    comparison = Comparison(settings("time_limit=20"), clock=itertools.count().__next__)
    comparison.run(layer_jobs(generate(settings("groups=6")), comparison))
    rows = by_name(comparison.found())
    for name in ("spr-trained", "spr λ=1, ranked", "group-lasso"):
        assert rows[name]["status"] == "time_limit"
    assert rows["magnitude"]["status"] == "heuristic"


def test_what_is_worked_on_is_said_with_its_share():
    lines = []
    compare("layer:generated", settings("groups=4"), lines.append)
    assert lines[0] == "0% exact"
    assert any(re.match(r"0% exact: incumbent .* gap .*%, 1 nodes$", x) for x in lines)
    assert re.match(r"9\d% magnitude$", lines[-1])


def test_ctrl_c_keeps_the_rows_that_are_finished(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "group_lasso", interrupted)
    found = compare("layer:generated", settings("groups=4"))
    assert found["interrupted"]
    assert found["rows"][-1]["name"] == "spr λ=1, ranked"
    table, picture = tmp_path / "out.json", tmp_path / "out.png"
    words = ["compare", "layer:generated", "groups=4", "time_limit=1e6"]
    words += ["--json", table, "--plot", picture]
    monkeypatch.setattr("sys.argv", ["mipprune", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert len(json.loads(table.read_text())["rows"]) == len(found["rows"])
    assert picture.stat().st_size > 5000
    printed = capsys.readouterr()
    assert "perspective-relaxation" in printed.out
    assert printed.err.endswith("mipprune: interrupted\n")


def test_a_solver_that_ctrl_c_ended_ends_the_comparison(monkeypatch):
    def interrupted(*_, **__):
        return replace(solve(generate(settings("groups=4"))), status=Status.INTERRUPTED)

    monkeypatch.setattr(layers, "solve", interrupted)
    found = compare("layer:generated", settings("groups=4"))
    assert found["interrupted"]
    assert [row["name"] for row in found["rows"]] == ["exact"]


def test_ctrl_c_within_a_curve_keeps_its_points_and_trains_no_more(monkeypatch):
    exact, calls = layers.solve, itertools.count()

    def interrupted(*words, **options):
        found = exact(*words, **options)
        return replace(found, status=Status.INTERRUPTED) if next(calls) == 7 else found

    monkeypatch.setattr(layers, "solve", interrupted)
    lines = []
    found = compare("layer:generated", settings("groups=4", "sweep=3"), lines.append)
    assert found["interrupted"]
    assert (len(found["front"]), len(found["sweep"])) == (5, 1)
    assert by_name(found)["magnitude"]["status"] == "heuristic"


def test_a_bound_m_is_derived_for_the_prices_and_the_number_of_groups_at_hand():
    """With one group of four alike its weight is larger than all groups' weights bound it."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, 1)) + 0.1 * rng.standard_normal((400, 4))
    term = find("pseudo-huber").term(0.001, weight=0.05)
    problem = LayerProblem.from_data(inputs, inputs.sum(axis=1, keepdims=True), term)
    choices = [np.zeros(4, bool), *np.eye(4, dtype=bool)]
    best = min(problem.objective(refit(problem, choice), choice) for choice in choices)
    comparison = Comparison(settings("cardinality=1", "sweep=1", "lam=[1]"))
    names = ("exact", "spr-trained", "spr λ=1, ranked", "1 groups", "price × 0.0333")
    comparison.run(job for job in layer_jobs(problem, comparison) if job.name in names)
    rows = by_name(comparison.found())
    for name in ("exact", "spr λ=1, ranked"):
        assert rows[name]["objective"] == pytest.approx(best, rel=1e-3), name
    assert rows["spr-trained"]["bound"] <= best
    assert comparison.front[0]["loss"] == pytest.approx(best - 0.001, rel=1e-3)
    assert comparison.sweep[0]["exact_kept"] == 1


def test_labels_stand_beyond_the_ends_of_their_bars(layer):
    figure, axes = plt.subplots()
    _draw_rows(axes, layer)
    for bar, label in zip(axes.patches, axes.texts, strict=True):
        below = bar.get_width() < 0
        assert label.get_horizontalalignment() == ("right" if below else "left")
        assert label.xy[0] == bar.get_width()
        assert label.get_text() != "-0.00 %"
    plt.close(figure)


def test_the_axis_of_time_holds_the_whole_solve(layer):
    figure, axes = plt.subplots()
    _draw_progress(axes, layer)
    left, right = axes.get_xlim()
    assert left == 0
    assert right > layer["progress"][-1]["seconds"]
    plt.close(figure)


def test_points_of_the_front_that_are_not_proved_are_marked(layer):
    figure, (plain, marked) = plt.subplots(1, 2)
    _draw_sweep(plain, layer)
    _draw_sweep(marked, {**layer, "front": [{**p, "status": "time_limit"} for p in layer["front"]]})
    labels = [line.get_label() for line in marked.lines]
    assert "not proved" in labels
    assert len(labels) == len(plain.lines) + 1
    plt.close(figure)


def test_a_terminal_shows_the_time_so_far_and_what_is_worked_on(monkeypatch, capsys):
    monkeypatch.setattr(tables, "Console", partial(Console, force_terminal=True, width=100))
    with tables.status() as show:
        show("12% group-lasso [of 2]")
    shown = capsys.readouterr().err
    assert "0:00:00" in shown
    assert "12% group-lasso [of 2]" in shown


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
    comparison = Comparison(settings("restarts=1", "sweep=2"))
    comparison.run(toy_jobs(name, comparison, steps=300))
    found = comparison.found()
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
    for number, found in enumerate((layer, long, {**layer, "sweep": [], "front": []})):
        path = tmp_path / f"{number}.{ending}"
        draw_comparison(path, found)
        assert found["progress"]
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
