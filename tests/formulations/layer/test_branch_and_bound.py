"""The branch and bound: optima by enumeration, bounds that are never above them, limits."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_instances import (
    all_supports,
    brute_force,
    direct_objective,
    direct_refit,
    layer_problem,
    layer_problems,
)

from formulations import LayerProblem, derive, load_problem, refit, square
from formulations import relax as relax_by_cuts
from formulations import solve as solve_by_any
from formulations.layer.extraction.extract import extract
from formulations.layer.extraction.schur import tighten
from formulations.layer.local_search import improve
from formulations.layer.relaxations.coordinate_descent import CoordinateDescent
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.relaxations.proximal_gradient import ProximalGradient
from formulations.layer.solvers import branch_and_bound
from formulations.layer.solvers.branch_and_bound import solve
from formulations.solving.deadline import Deadline
from formulations.solving.node import FREE, KEPT, REMOVED, Node
from formulations.symbolic.catalogue import entry

ENGINES = [CoordinateDescent, IndicatorNewton, ProximalGradient]
many = settings(max_examples=30, deadline=None)
few = settings(max_examples=20, deadline=None)
plain = layer_problems(bounds=(np.inf,))


def best_of(problem, most):
    """Optimum with at most so many groups, by enumeration."""
    supports = [s for s in all_supports(problem.groups) if s.sum() <= most]
    return min(direct_objective(problem, direct_refit(problem, s), s) for s in supports)


def assert_proved(problem, solution, best, most=None):
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1.1e-5, abs=1e-9)
    assert solution.bound <= best + 1e-7 * abs(best)
    value = direct_objective(problem, solution.weights, solution.support)
    assert value == pytest.approx(solution.objective, rel=1e-8, abs=1e-9)
    assert (solution.weights[~problem.rows(solution.support)] == 0).all()
    if most is not None:
        assert solution.kept <= most


@given(problem=layer_problems(), extraction=st.sampled_from(["none", "schur"]))
@many
def test_enumeration_of_all_supports_agrees(problem, extraction):
    best, _, _ = brute_force(problem)
    assert_proved(problem, solve(problem, gap=1e-5, extraction=extraction), best)


@given(
    problem=layer_problems(), most=st.integers(0, 4), extraction=st.sampled_from(["none", "schur"])
)
@many
def test_enumeration_agrees_with_a_limit_on_the_number_of_groups(problem, most, extraction):
    most = min(most, problem.groups)
    solution = solve(problem, gap=1e-5, extraction=extraction, cardinality=most)
    assert_proved(problem, solution, best_of(problem, most), most)


@given(problem=plain, engine=st.sampled_from(ENGINES), data=st.data())
@many
def test_every_engine_finds_the_optimum(problem, engine, data):
    most = data.draw(st.sampled_from([None, 2]))
    best = best_of(problem, problem.groups if most is None else most)
    solution = solve(problem, gap=1e-5, relaxation=engine, cardinality=most)
    assert_proved(problem, solution, best, most)


@given(problem=layer_problems(max_groups=5, max_size=8), most=st.integers(1, 5))
@few
def test_the_outer_approximation_agrees_with_extraction_and_cardinality(problem, most):
    most = min(most, problem.groups)
    own = solve(problem, gap=1e-5, cardinality=most)
    other = solve_by_any(problem, solver="highs", gap=1e-5, cardinality=most, extraction="schur")
    assert other.status == "optimal"
    assert other.objective == pytest.approx(own.objective, rel=2.2e-5, abs=1e-9)
    value = direct_objective(problem, other.weights, other.support)
    assert value == pytest.approx(other.objective, rel=1e-6)


@pytest.mark.parametrize("cardinality", [None, 2])
@pytest.mark.parametrize("bound", [np.inf, 0.5])
def test_scip_agrees(bound, cardinality):
    pytest.importorskip("pyscipopt")
    problem = layer_problem(2, groups=4, block=2, outputs=2, price=0.4, bound=bound)
    own = solve(problem, cardinality=cardinality)
    other = solve_by_any(problem, solver="scip", cardinality=cardinality)
    assert other.status == "optimal"
    assert other.objective == pytest.approx(own.objective, rel=2e-4)
    assert other.support.tolist() == own.support.tolist()
    assert other.bound <= own.objective * (1 + 1e-6)


@pytest.mark.parametrize("most", [None, 2])
@pytest.mark.parametrize(
    "term",
    [
        derive("a*r**3").term(price=0.3),
        derive("a*(sqrt(1 + r**2) - 1)").term(price=0.5),
        derive("a*r**2", ball=True, bound=0.8).term(price=0.3),
        derive("a*r**2 + b*r").term(price=0.2, bound=0.7),
        derive("a*r**2", extract=0.02).term(price=0.3),
    ],
    ids=["cube", "pseudo-Huber", "ball", "elastic net in a box", "MCP"],
)
def test_any_term_is_solved_with_and_without_extraction(term, most):
    base = layer_problem(1, groups=5, block=2, outputs=2)
    problem = LayerProblem(base.gram, base.cross, base.constant, term, base.block)
    supports = [s for s in all_supports(5) if most is None or s.sum() <= most]
    best = min(problem.objective(refit(problem, s), s) for s in supports)
    for extraction in ("none", "schur"):
        solution = solve(problem, gap=1e-5, cardinality=most, extraction=extraction)
        assert solution.status == "optimal"
        assert solution.objective == pytest.approx(best, rel=1e-5)
        assert solution.bound <= best * (1 + 1e-8)


# ---- bounds --------------------------------------------------------------------------------------


def node_optimum(problem, state):
    """Best objective among the supports that a node allows, by enumeration."""
    fits = [
        s
        for s in all_supports(problem.groups)
        if not (s & (state == REMOVED)).any() and s[state == KEPT].all()
    ]
    return min(direct_objective(problem, direct_refit(problem, s), s) for s in fits)


@given(problem=plain, engine=st.sampled_from(ENGINES), data=st.data())
@many
def test_bound_of_a_node_is_valid_whatever_the_precision(problem, engine, data):
    """Also with a relaxation stopped at once, and for what the surplus says of the children."""
    groups = problem.groups
    choice = st.lists(st.sampled_from([REMOVED, KEPT, FREE]), min_size=groups, max_size=groups)
    state = np.array(data.draw(choice), np.int8)
    tolerance = data.draw(st.sampled_from([1e-8, 1e-2, 10.0]))
    extraction = data.draw(st.sampled_from(["none", "schur"]))
    inner = extract(problem, extraction).problem
    node = Node(state, -np.inf, np.full(groups, 0.5), np.zeros(groups))
    engine(inner, groups, tolerance).evaluate([node], np.inf)
    best = node_optimum(problem, state)
    assert node.bound <= best + 1e-12 * abs(best)
    for group in np.flatnonzero(state == FREE)[:2]:
        for fixed, lift in ((REMOVED, node.surplus[group]), (KEPT, -node.surplus[group])):
            child = node.child(int(group), fixed)
            assert node.bound + max(lift, 0) <= node_optimum(problem, child.state) * (1 + 1e-9)


@given(problem=plain, seed=st.integers(0, 1000))
@few
def test_engines_bound_the_same_relaxation(problem, seed):
    rng = np.random.default_rng(seed)
    state = rng.choice([REMOVED, KEPT, FREE, FREE], problem.groups).astype(np.int8)
    bounds = []
    for engine in ENGINES:
        node = Node(state.copy(), -np.inf, np.full(problem.groups, 0.5), np.zeros(problem.groups))
        engine(problem, problem.groups, 1e-9).evaluate([node], np.inf)
        bounds.append(node.bound)
    # the dual bound is as wrong as the point, the value only as its square
    assert np.ptp(bounds) <= 1e-4 * abs(max(bounds))


def test_relaxation_without_extraction_is_the_perspective_relaxation():
    problem = layer_problem(3, groups=6, block=2, outputs=2)
    assert branch_and_bound.relax(problem).bound == pytest.approx(
        relax_by_cuts(problem, tolerance=1e-8).objective, rel=1e-6
    )


@given(problem=plain)
@few
def test_extracting_again_at_a_node_leaves_a_convex_loss(problem):
    inner = extract(problem).problem
    block = problem.block
    delta = np.tile(np.eye(block), (problem.groups, 1, 1))
    more = tighten(inner.hessian, delta)
    slack = inner.hessian.copy()
    j = np.arange(problem.groups)
    slack.reshape(problem.groups, block, problem.groups, block)[j, :, j, :] -= more
    scale = np.trace(inner.hessian)
    assert np.linalg.eigvalsh(slack)[0] >= -1e-12 * scale
    assert (np.linalg.eigvalsh(more - delta) >= -1e-12 * scale).all()


# ---- incumbents ----------------------------------------------------------------------------------


@given(problem=plain, seed=st.integers(0, 1000))
@few
def test_local_search_ends_where_no_flip_helps(problem, seed):
    groups = problem.groups
    support = np.random.default_rng(seed).random(groups) < 0.5
    start = problem.objective(refit(problem, support), support)
    price = np.broadcast_to(problem.term.price, (groups,)).astype(float)
    data = (problem.hessian, problem.cross, problem.constant, price)
    fell, value = True, start
    while fell:
        value, fell = improve(*data, support, groups, problem.block)
    assert value <= start * (1 + 1e-9)
    assert value == pytest.approx(problem.objective(refit(problem, support), support), rel=1e-7)
    for group in range(groups):
        other = support.copy()
        other[group] = not other[group]
        assert problem.objective(refit(problem, other), other) >= value * (1 - 1e-7)


@pytest.mark.parametrize("ridge", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("most", [None, 1])
def test_identical_groups_end_the_search_and_nothing_is_claimed_that_is_not_so(ridge, most):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(30, 1)), 4, axis=1)
    y = x[:, :1] @ rng.normal(size=(1, 2)) + 0.1 * rng.normal(size=(30, 2))
    problem = LayerProblem.from_data(x, y, square(ridge, 1e-3))
    solution = solve(problem, cardinality=most)
    value = problem.objective(solution.weights, solution.support)
    assert solution.objective == pytest.approx(value, rel=1e-9)
    supports = [s for s in all_supports(4) if most is None or s.sum() <= most]
    best = min(problem.objective(refit(problem, s), s) for s in supports)
    assert solution.bound <= best * (1 + 1e-7)
    assert solution.objective >= best * (1 - 1e-7)


# ---- real and known instances --------------------------------------------------------------------

KNOWN = {
    **dict.fromkeys(["ar-12x1", "ar-20x2", "ar-32x8", "ar-40x1", "ar-64x64", "ar-128x64"], 1e-4),
    "resnet56-layer1.4-c0.002": 1e-4,
    "resnet56-layer1.4-c0.01": 1e-4,
    "resnet56-layer2.4-c0.002": 1e-4,
    "resnet56-layer3.4-c0.002": 1e-4,
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_instance_is_certified_at_its_stored_optimum(name, known_instances):
    path = known_instances / f"{name}.npz"
    with np.load(path) as data:
        optimum, gap = float(data["optimum"]), float(data["gap"])
    assert gap == 0
    solution = solve(load_problem(path), gap=KNOWN[name])
    assert solution.status == "optimal"
    assert solution.objective <= optimum * (1 + 1e-4)
    assert solution.bound <= optimum * (1 + 1e-9)


def test_open_instance_has_a_better_incumbent_than_the_stored_one(known_instances):
    path = known_instances / "resnet56-layer3.4-c0.01.npz"
    with np.load(path) as data:
        stored = float(data["optimum"])
    solution = solve(load_problem(path), node_limit=5)
    assert solution.objective < 0.9 * stored
    assert solution.bound > 0.7


# ---- limits and wrong input ----------------------------------------------------------------------


def hard_problem() -> LayerProblem:
    """Many like groups: the tree is large."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 160)) + 2 * rng.normal(size=(400, 1))
    y = x @ rng.normal(size=(160, 8))
    return LayerProblem.from_data(x, y, square(1e-3, 2.0))


def ticking(looks, then=None):
    """A deadline that is over after so many looks at its clock, or where this one is raised."""
    count = itertools.count()

    def clock():
        now = next(count)
        if then is not None and now == looks:
            raise then
        return now

    return Deadline(looks if then is None else np.inf, clock, start=0.0)


@pytest.mark.parametrize("looks", [0.5, 40])
def test_time_limit_returns_the_incumbent_with_a_valid_bound(looks):
    problem = hard_problem()
    solution = solve(problem, seconds=ticking(looks))
    assert solution.status == "time_limit"
    assert solution.bound <= solution.objective
    assert np.isfinite(solution.bound)
    value = problem.objective(solution.weights, solution.support)
    assert value == pytest.approx(solution.objective)


def test_node_limit_bounds_the_memory_and_is_said():
    solution = solve(hard_problem(), node_limit=5)
    assert solution.status == "node_limit"
    assert solution.bound <= solution.objective


def test_interrupt_returns_the_incumbent_with_a_valid_bound():
    solution = solve(hard_problem(), seconds=ticking(40, KeyboardInterrupt))
    assert solution.status == "interrupted"
    assert solution.bound <= solution.objective


def test_progress_is_reported_with_a_shrinking_gap():
    seen = []
    solve(hard_problem(), seconds=ticking(400), on_progress=seen.append)
    assert len(seen) > 2
    assert all(a.bound <= b.bound and a.objective >= b.objective for a, b in pairwise(seen))
    assert seen[-1].gap < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0.0}, "time limit must be positive"),
        ({"gap": 0.0}, "gap must be positive"),
        ({"cardinality": -1}, "cardinality"),
        ({"cardinality": 1.5}, "cardinality"),
        ({"node_limit": 0}, "node limit"),
        ({"extraction": "all"}, "unknown extraction 'all'"),
    ],
)
def test_wrong_option_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        solve(layer_problem(0), **options)


def test_start_is_the_first_incumbent_and_is_checked():
    problem = hard_problem()
    good = solve(problem, node_limit=20)
    again = solve(problem, seconds=1e-9, start=good.weights)
    assert again.objective <= good.objective * (1 + 1e-12)
    boxed = layer_problem(0, bound=0.3)
    with pytest.raises(ValueError, match=r"M = 0\.3 is smaller than the start needs: 2 in group 0"):
        solve(boxed, start=np.full(boxed.cross.shape, 2.0))
    with pytest.raises(ValueError, match="start must be"):
        solve(boxed, start=np.zeros((1, 1)))


def test_unknown_solver_is_refused_and_nested_indicators_go_to_highs():
    problem = layer_problem(0, groups=4)
    with pytest.raises(ValueError, match="unknown solver 'cplex'"):
        solve_by_any(problem, solver="cplex")
    term = entry("nested").nested(np.array([0, 0, 1, 1]), block_price=0.1, price=0.1, weight=0.05)
    nested = LayerProblem(problem.gram, problem.cross, problem.constant, term, 1)
    assert solve_by_any(nested).solver.startswith("highs")
    with pytest.raises(ValueError, match="highs"):
        solve(nested)
