"""Bounds that a problem derives, and those that are proved, hold whatever limits the choice."""

import math

import numpy as np
import pytest
from fuzz_layers import best, faults, layer_case, phi_of

from formulations import LayerProblem, derive, solve
from formulations.layer.big_m import big_m
from formulations.layer.extraction.rounding import convex_below
from formulations.layer.refit import refit
from formulations.solving.safe_bound import definite, indefiniteness
from formulations.symbolic.catalogue import square

SOLVERS = [("branch-and-bound", {}), ("highs", {}), ("highs", {"form": "big-m"})]


def common_factor(term):
    """Four columns that are nearly one: a single weight has to do for all of them."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, 1)) + 0.1 * rng.standard_normal((400, 4))
    return LayerProblem.from_data(inputs, inputs.sum(axis=1, keepdims=True), term)


def least(problem, most):
    """The optimum of so few groups by trying each."""
    return min(
        problem.objective(refit(problem, choice), choice)
        for choice in [np.zeros(problem.groups, bool), *np.eye(problem.groups, dtype=bool)]
        if choice.sum() <= most
    )


@pytest.mark.parametrize(
    ("phi", "optimum", "solver", "options"),
    [
        *(("a*(sqrt(1 + r**2) - 1)", 0.210026, *which) for which in SOLVERS),
        *(("a*r**2", None, *which) for which in SOLVERS),
        ("a*log(cosh(r))", 0.219091, *SOLVERS[0]),
    ],
)
def test_a_limit_on_the_groups_needs_larger_weights(phi, optimum, solver, options):
    problem = common_factor(derive(phi).term(0.001, weight=0.05))
    found = solve(problem, solver=solver, cardinality=1, gap=1e-6, **options)
    assert found.status == "optimal"
    assert found.objective == pytest.approx(least(problem, 1), rel=1e-6)
    if optimum:
        assert found.objective == pytest.approx(optimum, abs=1e-6)


@pytest.mark.parametrize("most", [1, 2, None])
def test_the_box_of_a_model_holds_its_optimum(most):
    problem = common_factor(square(0.001, 0.001))
    found = solve(problem, cardinality=most, gap=1e-9)
    assert (np.abs(found.weights) <= big_m(problem, most)).all()


@pytest.mark.parametrize(("solver", "options"), [*SOLVERS, ("scip", {})])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e12])
def test_the_scale_of_the_data_does_not_matter(scale, solver, options):
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((50, 6)) @ (np.eye(6) + 0.5 * rng.standard_normal((6, 6)))
    outputs = inputs @ rng.standard_normal((6, 2))

    def at(scale):
        term = square(0.05 * scale**2, 0.3 * scale**2)
        return LayerProblem.from_data(scale * inputs, scale * outputs, term, 2)

    usual = solve(at(1.0), gap=1e-9)
    found = solve(at(scale), solver=solver, gap=1e-4, **options)
    assert found.status == "optimal"
    assert found.support.tolist() == usual.support.tolist()
    assert found.objective == pytest.approx(scale**2 * usual.objective, rel=1e-6)
    assert found.bound <= found.objective
    assert found.gap <= 1e-4
    assert found.weights == pytest.approx(usual.weights, rel=1e-4, abs=1e-6)


def test_progress_and_start_are_in_the_units_of_the_problem():
    scale, told = 1e-9, []
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((60, 20)) @ rng.standard_normal((20, 20))
    outputs = inputs @ rng.standard_normal((20, 3))
    term = square(1e-3 * scale**2, 5.0 * scale**2)
    problem = LayerProblem.from_data(scale * inputs, scale * outputs, term)
    known = solve(problem, gap=1e-6)
    found = solve(problem, gap=1e-6, start=known.weights, on_progress=told.append)
    assert found.objective == pytest.approx(known.objective, rel=1e-9)
    assert all(state.bound <= known.objective * (1 + 1e-9) for state in told)
    assert all(state.objective >= known.objective * (1 - 1e-9) for state in told)


def test_a_matrix_is_definite_for_certain_or_not():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((40, 20))
    singular = factor @ factor.T
    assert definite(factor.T @ factor)
    assert not definite(singular)
    shift = indefiniteness(singular)
    assert 0 < shift < 1e-9 * np.trace(singular)
    assert np.linalg.eigvalsh(singular)[0] > -shift
    assert math.isinf(indefiniteness(-np.eye(3)))
    assert indefiniteness(np.eye(3)) == 0


def test_a_loss_that_is_concave_by_rounding_is_replaced_by_one_below_it():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((30, 5))
    inputs = np.hstack([inputs, inputs])  # every column twice
    outputs = inputs @ rng.standard_normal((10, 2))
    problem = LayerProblem.from_data(inputs, outputs, square(1e-6, 0.1))
    below = convex_below(problem)
    assert definite(below.curvature)
    assert below.constant < problem.constant
    assert below.constant == pytest.approx(problem.constant, rel=1e-6)
    for _ in range(20):
        support = rng.random(10) < 0.5
        weights = refit(problem, support)
        assert below.objective(weights, support) <= problem.objective(weights, support)


# ---- a search of its own, see `make fuzz` --------------------------------------------------------


# the first seeds whose φ is a square, with which the weights of a choice are a linear solve; and
# some of other φ
SEEDS = [seed for seed in range(60) if phi_of(seed) in ("square", "mcp")] + [5, 6, 13]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_said_of_random_problems_is_true(seed):
    case = layer_case(seed)
    assert case.phi == phi_of(seed)
    lines, _ = faults(case)
    assert lines == []


def test_the_search_knows_a_bound_that_is_too_high(monkeypatch):
    case = layer_case(0)
    answer = solve(case.problem, cardinality=case.cardinality)
    from dataclasses import replace

    high = replace(answer, bound=float(best(case)) * (1 + 1e-12))
    monkeypatch.setattr("fuzz_layers.solve", lambda problem, **options: high)
    lines, _ = faults(case)
    assert any("above the optimum" in line for line in lines)
