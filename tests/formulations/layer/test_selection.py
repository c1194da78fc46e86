"""Elimination, choice and proof of so many groups of a stack of layers, against enumeration."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import LayerProblem, refit, square
from formulations.errors import InputError
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.solvers import selection
from formulations.layer.solvers.branch_and_bound import relax
from formulations.layer.solvers.selection import Proof, choose, eliminate
from formulations.layer.solvers.stack_search import Found, improve, search
from formulations.layer.stack import Stack
from formulations.solving.node import Node


def layer(seed, groups=5, block=2, outputs=3, samples=60):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((groups * block, groups * block))
    inputs = generator.standard_normal((samples, groups * block)) @ mixing
    weights = generator.standard_normal((groups * block, outputs))
    ridge = 10.0 ** generator.uniform(-4, -2)
    return LayerProblem.from_data(inputs, inputs @ weights, square(ridge, 1.0), block)


def stack(seed, readers=3, groups=5):
    """Layers with blocks and outputs of their own."""
    generator = np.random.default_rng(seed)
    sizes = [generator.integers(1, 4, 2) for _ in range(readers)]
    return Stack(
        tuple(
            layer(100 * seed + number, groups, int(block), int(outputs))
            for number, (block, outputs) in enumerate(sizes)
        )
    )


def least_squares(stack, support):
    """Loss and shrinkage of all layers by NumPy's own solver."""
    total = 0.0
    for problem in stack.problems:
        rows = problem.rows(support)
        hessian = problem.gram[np.ix_(rows, rows)] + 2 * problem.term.ridge * np.eye(rows.sum())
        best = np.linalg.solve(hessian, problem.cross[rows])
        total += problem.constant - 0.5 * np.vdot(problem.cross[rows], best)
    return total


def all_costs(stack, kept):
    """What every choice of so many groups costs, by its groups."""
    return {
        members: least_squares(stack, np.isin(np.arange(stack.groups), members))
        for members in combinations(range(stack.groups), kept)
    }


seeds, readers = st.integers(0, 10_000), st.integers(1, 4)


@settings(max_examples=15, deadline=None)
@given(seeds, readers)
def test_a_path_says_what_every_support_on_it_costs(seed, readers):
    layers = stack(seed, readers)
    path = eliminate(layers)
    assert sorted(path.order) == list(range(layers.groups))
    full = least_squares(layers, np.ones(layers.groups, bool))
    for kept in range(layers.groups + 1):
        cost = least_squares(layers, path.support(kept)) - full
        assert path.errors[kept] == pytest.approx(cost, rel=1e-6, abs=1e-9 * cost + 1e-9)
        assert layers.objective(path.support(kept)) == pytest.approx(full + cost, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seeds, readers)
def test_every_removal_is_the_best_of_all(seed, readers):
    layers = stack(seed, readers)
    support = np.ones(layers.groups, bool)
    for group in eliminate(layers).order:
        costs = {}
        for other in np.flatnonzero(support):
            support[other] = False
            costs[int(other)] = least_squares(layers, support)
            support[other] = True
        assert costs[int(group)] == pytest.approx(min(costs.values()), rel=1e-9)
        support[group] = False


def joined(stack, price):
    """The one layer problem of the same objective, of a Hessian block-diagonal over the layers.

    All layers get the least of their ridges; what theirs are above it goes to G.
    """
    least = min(float(problem.term.ridge) for problem in stack.problems)
    block = sum(problem.block for problem in stack.problems)
    rows = np.arange(stack.groups * block).reshape(stack.groups, block)
    gram = np.zeros((rows.size, rows.size))
    outputs = [problem.outputs for problem in stack.problems]
    cross = np.zeros((rows.size, sum(outputs)))
    row, column = 0, 0
    for problem in stack.problems:
        own = rows[:, row : row + problem.block].ravel()
        more = 2 * (float(problem.term.ridge) - least) * np.eye(len(own))
        gram[np.ix_(own, own)] = problem.gram + more
        cross[own, column : column + problem.outputs] = problem.cross
        row, column = row + problem.block, column + problem.outputs
    return LayerProblem(gram, cross, stack.constant, square(least, price), block)


@settings(max_examples=15, deadline=None)
@given(seeds, readers, st.integers(0, 31))
def test_a_stack_and_its_block_diagonal_problem_are_one(seed, readers, number):
    layers = stack(seed, readers)
    whole, support = joined(layers, 1e-9), (number >> np.arange(5)) % 2 == 1
    expected = least_squares(layers, support)
    got = whole.objective(refit(whole, support), support)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-8 * layers.constant)
    assert layers.objective(support) == pytest.approx(expected, rel=1e-6)
    one, several = eliminate(Stack((whole,))), eliminate(layers)
    np.testing.assert_allclose(several.errors, one.errors, rtol=1e-6, atol=1e-9 * layers.constant)


@settings(max_examples=15, deadline=None)
@given(seeds, readers, st.floats(1e-3, 0.3))
def test_the_root_of_a_stack_is_that_of_its_block_diagonal_problem(seed, readers, share):
    layers = stack(seed, readers)
    price = share * layers.constant / layers.groups
    whole = joined(layers, price)
    shares = tuple(
        LayerProblem(p.gram + more * np.eye(len(p.gram)), p.cross, p.constant, whole.term, p.block)
        for p in layers.problems
        for more in [2 * (float(p.term.ridge) - whole.term.ridge)]
    )
    root = Node.root(layers.groups)
    # without a limit: the search for its multiplier ends where rounding leads it
    IndicatorNewton(Stack(shares, price), layers.groups, 1e-9).evaluate([root], np.inf)
    expected = relax(whole, tolerance=1e-8).bound
    # either may stop some 1e-5 below its own minimum: the bounds of both are valid
    assert root.bound == pytest.approx(expected, rel=1e-4, abs=1e-7 * layers.constant)


@settings(max_examples=10, deadline=None)
@given(seeds, readers, st.integers(1, 30))
def test_changes_are_those_of_refits(seed, readers, number):
    layers = stack(seed, readers)
    support = (number >> np.arange(5)) % 2 == 1
    value, change = layers.changes(support)
    assert value == pytest.approx(least_squares(layers, support), rel=1e-6)
    for group in range(layers.groups):
        other = support.copy()
        other[group] = not other[group]
        moved = least_squares(layers, other) - value
        assert change[group] == pytest.approx(moved, rel=1e-5, abs=1e-9 * layers.constant)


@settings(max_examples=8, deadline=None)
@given(seeds, readers)
def test_after_the_swaps_no_swap_is_better(seed, readers):
    layers = stack(seed, readers)
    begun = np.arange(5) < 2
    support = improve(layers, begun)
    value = least_squares(layers, support)
    assert value <= least_squares(layers, begun)
    for out in np.flatnonzero(support):
        for into in np.flatnonzero(~support):
            other = support.copy()
            other[[out, into]] = False, True
            assert least_squares(layers, other) >= value * (1 - 1e-9)


@settings(max_examples=8, deadline=None)
@given(seeds, readers, st.integers(1, 4))
def test_a_choice_is_the_best_of_all_and_its_bound_below_them(seed, readers, kept):
    layers = stack(seed, readers)
    choice = choose(layers, kept, gap=1e-4, nodes=1000)
    least = min(all_costs(layers, kept).values())
    assert choice.support.sum() == kept
    assert choice.objective == pytest.approx(least, rel=1e-3)
    assert choice.bound <= least * (1 + 1e-9)
    assert choice.gap <= 2e-4


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_a_bound_is_valid_however_early_the_search_ends(readers):
    layers = stack(3, readers, groups=10)
    least = min(all_costs(layers, 4).values())
    assert choose(layers, 4, nodes=0).bound <= least * (1 + 1e-9)
    start = eliminate(layers).support(4)
    price = 1e-3 * layers.constant
    bounds = [
        search(
            *(Stack(layers.problems, price), 4, start),
            gap=1e-6,
            nodes=nodes,
            seconds=float("inf"),
        ).bound
        for nodes in (1, 2, 1000)
    ]
    assert bounds[0] < bounds[2]  # it did end early
    assert max(bounds) - 4 * price <= least * (1 + 1e-9)


def test_groups_that_no_layer_sees_go_first():
    blind = []
    for problem in stack(2, 2, groups=5).problems:
        gram, cross = problem.gram.copy(), problem.cross.copy()
        own = problem.rows(np.arange(5) == 3)
        gram[own], gram[:, own], cross[own] = 0.0, 0.0, 0.0
        blind.append(LayerProblem(gram, cross, problem.constant + 1, problem.term, problem.block))
    choice = choose(Stack(tuple(blind)), 4, gap=1e-6, nodes=100)
    assert not choice.support[3]
    assert choice.gap <= 1e-6


def test_the_parts_of_a_price_raise_the_bound_of_the_root():
    layers = stack(1, 3, groups=10)
    own = Stack(layers.problems, 1e-3 * layers.constant)
    start = eliminate(layers).support(4)
    roots = []
    for small in (0, 600):
        found = search(own, 4, start, gap=1e-6, nodes=1, seconds=float("inf"), small=small)
        roots.append(found.bound)
    assert roots[1] > roots[0]


def test_a_better_start_is_taken():
    layers = stack(5)
    best = choose(layers, 3, gap=1e-4, nodes=1000)
    again = choose(layers, 3, start=best.support, gap=10.0, nodes=1)
    assert again.objective <= best.objective * (1 + 1e-9)


def test_wrong_numbers_are_refused():
    with pytest.raises(InputError, match="7 groups"):
        choose(stack(0), 7)
    with pytest.raises(InputError, match="same groups"):
        Stack((layer(0, groups=4), layer(0, groups=5)))


def test_a_bound_that_no_relaxation_lifts_is_said_to_be_trivial(monkeypatch):
    layers = stack(1)
    everything = layers.objective(np.ones(layers.groups, bool))
    assert choose(layers, 2, nodes=0).status == Proof.TRIVIAL
    proved = choose(layers, 2, gap=1e-6, nodes=1000)
    assert proved.status in (Proof.ROOT, Proof.TREE)
    assert proved.bound > everything
    found = Found(eliminate(layers).support(2), -np.inf, 9, 0.0)  # a tree that was cut short
    monkeypatch.setattr(selection, "search", lambda *_, **__: found)
    stopped = choose(layers, 2, nodes=1000)
    assert stopped.status == Proof.TRIVIAL
    assert stopped.bound <= everything
    assert stopped.bound == pytest.approx(everything, rel=1e-6)
    assert (stopped.nodes, stopped.support.sum()) == (9, 2)
