"""Elimination, choice and proof of so many groups, against enumeration."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import LayerProblem, square
from formulations.errors import InputError
from formulations.selection import choose, eliminate, objective


def layer(seed, groups=5, block=2, outputs=3, samples=60):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((groups * block, groups * block))
    inputs = generator.standard_normal((samples, groups * block)) @ mixing
    weights = generator.standard_normal((groups * block, outputs))
    return LayerProblem.from_data(inputs, inputs @ weights, square(1e-3, 1.0), block)


def least_squares(problem, support):
    """Loss and shrinkage by NumPy's own solver."""
    rows = problem.rows(support)
    hessian = problem.gram[np.ix_(rows, rows)] + 2 * problem.term.ridge * np.eye(rows.sum())
    best = np.linalg.solve(hessian, problem.cross[rows])
    return problem.constant - 0.5 * np.vdot(problem.cross[rows], best)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_path_says_what_every_support_on_it_costs(seed):
    problem = layer(seed)
    path = eliminate(problem)
    assert sorted(path.order) == list(range(problem.groups))
    full = least_squares(problem, np.ones(problem.groups, bool))
    for kept in range(problem.groups + 1):
        cost = least_squares(problem, path.support(kept)) - full
        assert path.errors[kept].sum() == pytest.approx(cost, rel=1e-6, abs=1e-9 * cost + 1e-9)
        assert objective(problem, path.support(kept)) == pytest.approx(full + cost, rel=1e-6)


def test_the_first_removal_is_the_best_of_all():
    problem = layer(1)
    first = eliminate(problem).order[0]
    costs = []
    for group in range(problem.groups):
        support = np.ones(problem.groups, bool)
        support[group] = False
        costs.append(least_squares(problem, support))
    assert first == np.argmin(costs)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_choice_is_the_best_of_all_and_its_bound_below_them(seed, kept):
    problem = layer(seed)
    choice = choose(problem, kept, tolerance=1e-4, nodes=1000)
    costs = [
        least_squares(problem, np.isin(np.arange(problem.groups), members))
        for members in combinations(range(problem.groups), kept)
    ]
    assert choice.support.sum() == kept
    assert choice.objective == pytest.approx(min(costs), rel=1e-3)
    assert choice.bound <= min(costs) * (1 + 1e-9)
    assert choice.gap <= 2e-4


def test_a_bound_is_valid_however_early_the_tree_ends():
    problem = layer(3, groups=10, block=1)
    for nodes in (1, 2):
        choice = choose(problem, 4, nodes=nodes, tolerance=1e-6)
        costs = [
            least_squares(problem, np.isin(np.arange(10), members))
            for members in combinations(range(10), 4)
        ]
        assert choice.bound <= min(costs) * (1 + 1e-9)


def test_a_better_start_is_taken():
    problem = layer(5)
    best = choose(problem, 3, tolerance=1e-4, nodes=1000)
    again = choose(problem, 3, start=best.support, tolerance=10.0, nodes=1)
    assert again.objective <= best.objective * (1 + 1e-9)


def test_a_number_that_cannot_be_kept_is_refused():
    with pytest.raises(InputError, match="7 groups"):
        choose(layer(0), 7)
