"""SCIP on models of every scale, what it cannot read, and its time limit."""

from itertools import count

import numpy as np
import pytest
from layer_instances import brute_force, layer_data, layer_problem

from formulations import LayerProblem, solve, square, write_model
from formulations.errors import InputError
from formulations.solving.deadline import Deadline

pytest.importorskip("pyscipopt")

FORMS = ("perspective", "big-m")
_BEYOND = "minimize\n obj: 1e30 x\nsubject to\n c: x >= 1\nend\n"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_the_optimum_has_the_scale_of_the_data(form, scale):
    x, y = layer_data(4, 4, 1)
    plain = LayerProblem.from_data(x, y, square(0.05, 0.6))
    scaled = LayerProblem.from_data(x * scale, y * scale, square(0.05 * scale**2, 0.6 * scale**2))
    best, support, _ = brute_force(plain)
    found = solve(scaled, solver="scip", form=form)
    assert found.status == "optimal"
    assert (found.support == support).all()
    assert found.objective / scale**2 == pytest.approx(best, rel=1e-6)
    assert found.bound / scale**2 == pytest.approx(best, rel=2e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("term", "message"),
    [
        (square(0.05, 1e300), "the price holds"),
        (square(0.05, 0.6, bound=1e300), "the bound M holds"),
    ],
)
def test_numbers_that_a_solver_takes_for_infinite_are_named(form, term, message, tmp_path):
    problem = LayerProblem.from_data(*layer_data(4, 4, 1), term)
    with pytest.raises(InputError, match=message):
        solve(problem, solver="scip", form=form)
    for ending in (".lp", ".mps", ".nl"):
        with pytest.raises(InputError, match=message):
            write_model(problem, tmp_path / f"model{ending}", form)
    assert not list(tmp_path.iterdir())


def test_a_model_that_scip_refuses_is_an_input_error(monkeypatch, capfd):
    module = "formulations.layer.solvers.scip.write_file"
    monkeypatch.setattr(module, lambda model, path: path.write_text(_BEYOND))
    with pytest.raises(InputError, match="SCIP cannot read the model"):
        solve(layer_problem(4, groups=4), solver="scip")
    capfd.readouterr()


@pytest.mark.parametrize("ticks", [2, 4, 8])
def test_a_limit_that_is_over_before_scip_reads_leaves_the_empty_choice_and_a_bound(ticks):
    problem = layer_problem(4, groups=4, price=0.6)
    found = solve(problem, solver="scip", seconds=Deadline(ticks, count().__next__))
    assert found.status == "time_limit"
    assert found.kept == 0
    assert found.objective == problem.constant
    assert np.isfinite(found.bound)
    assert found.bound <= brute_force(problem)[0]


def test_least_numbers_end_in_a_status_and_bounds_that_hold():
    x, y = layer_data(4, 4, 1)
    for term in (square(0.05, 1e-310), square(1e-310, 0.6), square(0.05, 0.6, bound=1e-310)):
        problem = LayerProblem.from_data(x, y, term)
        best = brute_force(problem)[0]
        for form in FORMS:
            found = solve(problem, solver="scip", form=form, gap=1e-3)
            assert found.bound <= best * (1 + 1e-9)
            assert found.objective >= best * (1 - 1e-9)
