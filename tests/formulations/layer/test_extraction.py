"""Extraction: the same optimum, a convex loss, tighter roots; the best Δ against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_instances import all_supports, layer_problem, layer_problems

from formulations import LayerProblem, derive, refit, solve
from formulations.layer.big_m import bounded
from formulations.layer.extraction.conic import conic
from formulations.layer.extraction.extract import RULES, extract
from formulations.layer.extraction.schur import schur
from formulations.layer.solvers.branch_and_bound import relax
from formulations.numerics.indicator_newton import PerspectiveLayer, PerspectiveRelaxation
from formulations.solving.deadline import Deadline

few = settings(max_examples=20, deadline=None)
plain = layer_problems(bounds=(np.inf,))


@given(problem=layer_problems(), data=st.data())
@few
def test_objective_of_every_support_stays_and_the_loss_stays_convex(problem, data):
    extracted = extract(problem, "schur")
    inner = extracted.problem
    assert np.linalg.eigvalsh(inner.curvature)[0] >= -1e-9 * np.trace(problem.hessian)
    support = data.draw(st.sampled_from(all_supports(problem.groups)))
    own = refit(inner, support)
    back = extracted.weights(own)
    value = problem.objective(refit(problem, support), support)
    assert inner.objective(own, support) == pytest.approx(value, rel=1e-7, abs=1e-9)
    assert problem.objective(back, support) == pytest.approx(value, rel=1e-7, abs=1e-9)


@given(problem=plain)
@few
def test_the_better_the_rule_the_tighter_the_root_and_all_are_below_the_optimum(problem):
    optimum = solve(problem, gap=1e-7).objective
    bounds = {rule: relax(problem, extraction=rule).bound for rule in RULES}
    # the best Δ leave H − Δ singular: their relaxation is then solved less exactly
    slack = 1e-6 * abs(optimum)
    assert bounds["schur"] <= bounds["ascent"] + 1e3 * slack
    assert max(bounds["ascent"], bounds["none"]) <= bounds["sdp"] + 1e4 * slack
    assert bounds["sdp"] <= optimum + slack


@pytest.mark.parametrize("seed", range(3))
def test_ascent_comes_close_to_the_semidefinite_program(seed):
    problem = layer_problem(seed, groups=8, block=2, outputs=2, price=0.3, shrinkage=0.01)
    optimum = solve(problem).objective
    weak, near, best = (relax(problem, extraction=r).bound for r in ("schur", "ascent", "sdp"))
    assert near - weak >= 0.8 * (best - weak) - 1e-5 * optimum


def test_semidefinite_program_s_delta_leaves_a_convex_loss():
    problem = layer_problem(0, groups=5, block=2, outputs=3, price=0.3)
    delta, j = conic(problem, Deadline()), np.arange(5)
    slack = problem.hessian.copy()
    slack.reshape(5, 2, 5, 2)[j, :, j, :] -= delta
    assert np.linalg.eigvalsh(slack)[0] >= -1e-12
    assert (np.linalg.eigvalsh(delta) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_schur_tightens_the_root_where_the_ridge_is_small(seed):
    problem = layer_problem(seed, groups=6, block=2, outputs=2, shrinkage=1e-3, price=0.3)
    assert relax(problem, extraction="schur").bound > 1.05 * relax(problem).bound


@given(problem=plain)
@few
def test_schur_takes_the_largest_multiple(problem):
    delta, groups, block = schur(problem), problem.groups, problem.block
    slack, j = problem.hessian.copy(), np.arange(groups)
    slack.reshape(groups, block, groups, block)[j, :, j, :] -= delta
    lowest, scale = np.linalg.eigvalsh(slack)[0], np.linalg.eigvalsh(problem.hessian)[-1]
    assert -1e-10 * scale <= lowest <= 1e-3 * scale


@pytest.mark.parametrize("phi", ["a*r**3", "a*(sqrt(1 + r**2) - 1)", "a*r**2 + b*r"])
def test_any_norm_two_term_is_extracted_by_a_multiple_of_the_square(phi):
    base = layer_problem(1, groups=5, block=2, outputs=2)
    problem = LayerProblem(base.gram, base.cross, base.constant, derive(phi).term(price=0.3), 2)
    assert np.isinf(extract(problem, "schur").problem.term.bound).all()
    plain, tight = (relax(bounded(problem), extraction=rule).bound for rule in ("none", "schur"))
    assert tight > plain
    assert tight <= solve(problem).objective


def test_unknown_rules_and_impossible_ones_are_refused():
    with pytest.raises(ValueError, match="unknown extraction 'best'"):
        extract(layer_problem(0), "best")
    with pytest.raises(ValueError, match="use schur"):
        extract(layer_problem(0, bound=1.0), "sdp")
    with pytest.raises(ValueError, match="up to 64 rows"):
        extract(layer_problem(0, groups=70), "sdp")


# ---- the relaxation in the indicators ------------------------------------------------------------


def relaxation_of(problem):
    shape = (1, problem.groups)
    own = 2 * np.broadcast_to(problem.term.ridge, (problem.groups,))
    delta = own[:, None, None] * np.eye(problem.block)
    price = np.broadcast_to(problem.term.price, shape).astype(float)
    part = PerspectiveLayer(problem.hessian[None], problem.cross[None], delta[None])
    return PerspectiveRelaxation([part], price, np.zeros(shape), np.ones(shape))


@given(problem=plain, seed=st.integers(0, 100))
@few
def test_derivatives_in_the_indicators_are_those_of_differences(problem, seed):
    relaxation = relaxation_of(problem)
    y = np.random.default_rng(seed).uniform(0.2, 0.9, (1, problem.groups))
    _, gradient, curvature, _ = relaxation._derivatives(y)
    for j in range(problem.groups):
        move = np.zeros_like(y)
        move[0, j] = 1e-5
        ahead, behind = relaxation._derivatives(y + move), relaxation._derivatives(y - move)
        slope = (ahead[0] - behind[0]) / 2e-5
        assert slope == pytest.approx(gradient[:, j], rel=1e-5, abs=1e-7 * np.abs(gradient).max())
        bend = (ahead[1] - behind[1]) / 2e-5
        np.testing.assert_allclose(bend, curvature[:, j], atol=1e-5 * np.abs(curvature).max())


@given(problem=plain)
@few
def test_newton_s_weights_reach_the_dual_bound(problem):
    _, (weights,) = relaxation_of(problem).solve(np.full((1, problem.groups), 0.5), 1e-12)
    value = problem.relaxed_objective(weights[0])
    # Newton's method ended 2e-5 above the bound on an instance that hypothesis found
    assert problem.dual_bound(weights[0]) == pytest.approx(value, rel=1e-4, abs=1e-9)
