"""The exact solver on HiGHS, against enumeration, independent relaxations and proved optima."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_instances import brute_force, direct_objective, layer_problem, layer_problems
from scipy.optimize import minimize

from formulations import LayerProblem, Solution, load_problem, refit, square
from formulations import relax as relax_by_name
from formulations import solve as solve_by_name
from formulations.layer.big_m import valid_bounds
from formulations.layer.solvers.outer_approximation import relax, solve
from formulations.solving.deadline import Deadline
from formulations.solving.result import relative_gap

few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
FORMS = ("perspective", "big-m")


def assert_consistent(problem: LayerProblem, solution: Solution):
    """The solution's own numbers fit together."""
    assert solution.weights.shape == problem.cross.shape
    assert (solution.weights[~problem.rows(solution.support)] == 0).all()
    expected = direct_objective(problem, solution.weights, solution.support)
    assert solution.objective == pytest.approx(expected, rel=1e-9)
    assert (np.abs(solution.weights) <= problem.per_row(problem.term.bound)[:, None]).all()
    assert solution.bound <= solution.objective
    assert solution.gap == pytest.approx(relative_gap(solution.objective, solution.bound))
    assert solution.kept == solution.support.sum()
    assert solution.nodes >= 0
    assert solution.seconds > 0


def hard_problem() -> LayerProblem:
    """Takes HiGHS much longer than a test may."""
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(400, 60))
        @ np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(60), np.arange(60)))).T
    )
    true = rng.normal(size=(60, 8)) * (rng.random(60) < 0.5)[:, None]
    return LayerProblem.from_data(x, x @ true + rng.normal(size=(400, 8)), square(0.02, 0.1))


# ---- the optimum ---------------------------------------------------------------------------------


@given(problem=layer_problems(max_groups=7, max_size=12))
@settings(few, max_examples=25)
def test_optimum_and_bound_agree_with_enumeration_in_both_forms(problem):
    best, _, _ = brute_force(problem)
    for form in FORMS:
        solution = solve(problem, form, gap=1e-5)
        assert solution.status == "optimal"
        assert solution.objective == pytest.approx(best, rel=1.1e-5)
        assert solution.bound <= best * (1 + 1e-9)
        assert solution.gap <= 1e-5
        assert solution.solver == f"highs/{form}"
        assert_consistent(problem, solution)


def test_public_verbs_are_the_functions():
    problem = layer_problem(5)
    assert solve_by_name(problem, solver="highs", form="big-m").objective == pytest.approx(
        solve(problem, "big-m").objective
    )
    assert relax_by_name(problem, tolerance=1e-7).objective == pytest.approx(
        relax(problem, tolerance=1e-7).objective
    )


def test_nothing_is_kept_at_a_high_price_and_everything_at_a_low_one():
    dear, cheap = layer_problem(6, price=1e4), layer_problem(6, price=1e-5, shrinkage=1e-3)
    for form in FORMS:
        assert solve(dear, form).kept == 0
        assert solve(dear, form).objective == pytest.approx(dear.constant)
        assert solve(cheap, form).kept == cheap.groups


@pytest.mark.parametrize("form", FORMS)
def test_layer_without_any_use_for_its_inputs_keeps_none(form):
    problem = LayerProblem(np.eye(3), np.zeros((3, 1)), 2.0, square(0.1, 0.2))
    solution = solve(problem, form)
    assert (solution.kept, solution.status) == (0, "optimal")
    assert solution.objective == 2.0
    assert relax(problem, form).objective == 2.0


@pytest.mark.parametrize("form", FORMS)
def test_optimum_is_proved_where_the_gram_matrix_is_singular(form):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 6))
    problem = LayerProblem.from_data(x, x @ rng.normal(size=(6, 2)), square(0.05, 0.2))
    best, _, _ = brute_force(problem)
    solution = solve(problem, form)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1.1e-4)
    assert solution.bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_optimum_is_proved_with_a_cut_pool_that_is_emptied_all_the_time(form):
    problem = layer_problem(4, groups=7, outputs=2, price=0.1)
    best, _, _ = brute_force(problem)
    solution = solve(problem, form, pool=8)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1.1e-4)
    assert solution.bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("name", ["ar-12x1", "ar-20x2", "ar-40x1", "ar-32x8"])
def test_known_instance_is_certified_at_its_stored_optimum(name, known_instances):
    path = known_instances / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no known instance at {path}")
    problem = load_problem(path)
    with np.load(path) as data:
        optimum, support = float(data["optimum"]), data["support"]
    stored = problem.objective(refit(problem, support), support)
    assert stored == pytest.approx(optimum, rel=1e-6)
    solution = solve(problem, gap=1e-4)
    assert solution.status == "optimal"
    assert solution.gap <= 1e-4
    assert solution.bound <= optimum * (1 + 1e-6)
    assert optimum * (1 - 1e-6) <= solution.objective <= optimum * (1 + 1.1e-4)
    assert_consistent(problem, solution)


# ---- the relaxations -----------------------------------------------------------------------------


def perspective_relaxation(problem: LayerProblem) -> float:
    """Minimum of loss + Σ h by accelerated proximal gradient with restarts."""
    step = 1 / np.linalg.eigvalsh(problem.gram)[-1]
    x = ahead = np.zeros_like(problem.cross)
    momentum, value = 1.0, problem.relaxed_objective(x)
    for _ in range(20_000):
        moved = ahead - step * (problem.gram @ ahead - problem.cross)
        new = problem.term.prox(problem.by_group(moved), step).reshape(x.shape)
        new_value = problem.relaxed_objective(new)
        if new_value >= value:
            if momentum == 1:
                break
            ahead, momentum = x, 1.0
            continue
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - x)
        x, momentum, value = new, following, new_value
    return value


@given(problem=layer_problems())
@settings(few, max_examples=20)
def test_perspective_relaxation_is_the_minimum_of_the_relaxed_objective(problem):
    expected = perspective_relaxation(problem)
    relaxed = relax(problem, "perspective", tolerance=1e-7)
    assert relaxed.status == "optimal"
    assert relaxed.objective == pytest.approx(expected, rel=1e-5)
    assert relaxed.bound == pytest.approx(expected, rel=1e-5)
    assert relaxed.bound <= expected * (1 + 1e-8)
    assert problem.relaxed_objective(relaxed.weights) == pytest.approx(relaxed.objective, rel=1e-9)
    keep = problem.term.keep(problem.by_group(relaxed.weights))
    assert (relaxed.support == (keep > 0.5)).all()


def tight_box(problem: LayerProblem) -> bool:
    """Whether M is so small that valid bounds cannot improve on it."""
    nothing, everything = np.zeros(problem.groups, bool), np.ones(problem.groups, bool)
    upper = min(problem.objective(refit(problem, s), s) for s in (nothing, everything))
    return bool((valid_bounds(problem, upper) == float(problem.term.bound)).all())


@pytest.mark.parametrize("seed", range(6))
def test_big_m_relaxation_is_the_minimum_over_weights_and_indicators(seed):
    m = 0.3
    problem = layer_problem(seed, groups=5, shrinkage=0.05, price=0.3, bound=m)
    assert tight_box(problem)
    d, a, c = 5, 0.05, 0.3

    def value(z):
        w, y = z[:d], z[d:]
        cross = problem.cross[:, 0]
        loss = 0.5 * w @ problem.gram @ w - cross @ w + problem.constant
        slope = problem.gram @ w - cross + 2 * a * w
        return loss + a * w @ w + c * y.sum(), np.concatenate([slope, np.full(d, c)])

    box = np.hstack([np.vstack([np.eye(d), -np.eye(d)]), np.vstack([m * np.eye(d)] * 2)])
    box[:d, :d] *= -1
    box[d:, :d] *= -1
    found = minimize(
        value,
        np.concatenate([np.zeros(d), np.full(d, 0.5)]),
        jac=True,
        bounds=[(-m, m)] * d + [(0, 1)] * d,
        constraints={"type": "ineq", "fun": lambda z: box @ z, "jac": lambda z: box},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert found.success
    relaxed = relax(problem, "big-m", tolerance=1e-7)
    assert relaxed.objective == pytest.approx(found.fun, rel=1e-5)
    assert relaxed.bound == pytest.approx(found.fun, rel=1e-5)


@given(problem=layer_problems(max_groups=6, max_size=10))
@few
def test_relaxations_never_exceed_the_optimum(problem):
    best, _, _ = brute_force(problem)
    for form in FORMS:
        relaxed = relax(problem, form)
        assert relaxed.bound <= best * (1 + 1e-9)
        assert relaxed.bound <= relaxed.objective
        assert relaxed.gap <= 1e-6
        assert relaxed.solver == f"highs/{form}-relaxation"


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_perspective_relaxation_is_at_least_the_big_m_relaxation_of_the_same_box(seed, block):
    problem = layer_problem(seed, groups=5, block=block, outputs=2, price=0.5, bound=0.3)
    assert tight_box(problem)
    strong, weak = relax(problem, "perspective"), relax(problem, "big-m")
    assert strong.objective >= weak.bound
    assert strong.bound >= weak.bound * (1 - 2e-6)


# ---- stopping early and bad options --------------------------------------------------------------


def ticking(looks, then=None):
    """A deadline that is over after so many looks at its clock, or where this one is raised."""
    count = itertools.count()

    def clock():
        now = next(count)
        if then is not None and now == looks:
            raise then
        return now

    return Deadline(looks if then is None else np.inf, clock, start=0.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("looks", [0.5, 100, 300])
def test_time_limit_returns_the_incumbent_with_a_valid_bound(form, looks):
    problem = hard_problem()
    solution = solve(problem, form, seconds=ticking(looks))
    assert solution.status == "time_limit"
    assert_consistent(problem, solution)
    nothing, everything = np.zeros(problem.groups, bool), np.ones(problem.groups, bool)
    known = min(problem.objective(refit(problem, s), s) for s in (nothing, everything))
    assert solution.objective <= known * (1 + 1e-12)
    assert solution.bound <= solution.objective


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_bound_under_a_time_limit_never_exceeds_the_optimum(form, seed):
    problem = layer_problem(seed, groups=7, outputs=2)
    best, _, _ = brute_force(problem)
    for looks in (0.5, 10, 40, 150):
        solution = solve(problem, form, seconds=ticking(looks))
        assert solution.status in {"time_limit", "optimal"}
        assert solution.bound <= best * (1 + 1e-9)
        assert solution.objective >= best * (1 - 1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_time_limit_of_the_relaxation_returns_its_best_point(form):
    problem = hard_problem()
    relaxed = relax(problem, form, seconds=1e-9)
    assert relaxed.status == "time_limit"
    assert np.isfinite(relaxed.objective)
    assert relaxed.bound <= relaxed.objective


@pytest.mark.parametrize("form", FORMS)
def test_interrupt_returns_the_incumbent_with_a_valid_bound(form):
    problem = hard_problem()
    solution = solve(problem, form, seconds=ticking(300, KeyboardInterrupt))
    assert solution.status == "interrupted"
    assert_consistent(problem, solution)


@pytest.mark.parametrize("function", [solve, relax])
@pytest.mark.parametrize(
    ("option", "named"),
    [("seconds", "time limit"), ("precision", "(gap|tolerance)")],
)
@pytest.mark.parametrize("bad", [0.0, -1e-4, np.nan])
def test_bad_option_is_refused_by_name(function, option, named, bad):
    if option == "precision":
        option = "gap" if function is solve else "tolerance"
    with pytest.raises(ValueError, match=f"{named} must be positive"):
        function(layer_problem(0), **{option: bad})


@pytest.mark.parametrize("function", [solve, relax])
def test_unknown_form_is_refused_by_name(function):
    with pytest.raises(ValueError, match="'conic'"):
        function(layer_problem(0), "conic")


@given(st.floats(-10, 10), st.floats(0, 5))
def test_relative_gap_is_never_negative_and_zero_at_equality(objective, distance):
    assert relative_gap(objective, objective) == 0
    assert relative_gap(objective, objective + distance) == 0
    assert relative_gap(objective, objective - distance) >= 0
    assert relative_gap(4.0, 3.0) == 0.25
