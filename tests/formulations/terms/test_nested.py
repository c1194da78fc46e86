"""Nested indicators: the closed form of the square, brute force, duality, and the MIP."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from formulations import LayerProblem, derive, refit, relax, solve
from formulations.symbolic.catalogue import entry

few = settings(max_examples=15, deadline=None)
scales = st.floats(-1, 1).map(lambda e: 10.0**e)
seeds = st.integers(0, 10_000)
CUBE = derive("a*r**3", block_price=0.7)
HUBER = derive("a*(sqrt(1 + r**2) - 1)", price=0.4, block_price=0.7)


def case(seed, derivation, price, block_price, a=1.0):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 8))
    blocks = rng.integers(0, 3, count)
    _, blocks = np.unique(blocks, return_inverse=True)
    term = derivation.nested(blocks, block_price, price, a=a)
    scale = float(term.radius) if np.isfinite(term.radius) else 1.0
    w = rng.normal(size=(count, 2)) * scale * 10 ** rng.uniform(-1, 0.7, size=(count, 1))
    w[rng.random(count) < 0.15] = 0
    return term, w


@given(seeds, scales, scales, scales)
@few
def test_square_follows_the_sorted_formula(seed, price, block_price, a):
    """z = min(1, √(a·Σ_{i≤k} s_(i)² / (c·k + C))) for the k with s_(k) ≥ r*·z ≥ s_(k+1)."""
    term, w = case(seed, entry("nested"), price, block_price, a)
    got = term.block_indicator(np.linalg.norm(w, axis=1), 1.0)
    radius = np.sqrt(price / a)
    for block, z in enumerate(got):
        norms = np.sort(np.linalg.norm(w[term.blocks == block], axis=1))[::-1]
        fitting = [
            candidate
            for k in range(1, len(norms) + 1)
            for candidate in [np.sqrt(a * (norms[:k] ** 2).sum() / (price * k + block_price))]
            if norms[k - 1] >= radius * candidate * (1 - 1e-9)
            and (k == len(norms) or radius * candidate * (1 + 1e-9) >= norms[k])
        ]
        expected = min(1, fitting[0]) if norms[0] > 0 else 0.0
        assert z == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("derivation", [entry("nested"), CUBE, HUBER], ids=["a", "cube", "huber"])
@given(seeds, st.floats(0.1, 0.9), scales)
@few
def test_value_is_the_least_over_the_block_indicator(derivation, seed, price, block_price):
    term, w = case(seed, derivation, price, block_price)
    for block in range(len(term.block_price)):
        norms = np.linalg.norm(w[term.blocks == block], axis=1)

        def cost(z, norms=norms):
            y = np.minimum(z, norms / float(term.radius))
            return (term.perspective_of(norms, y) + price * y).sum() + block_price * z

        inside = minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
        least = min(inside.fun, cost(1.0), cost(0.0))
        value = term.value(w)[term.blocks == block].sum()
        assert value == pytest.approx(least, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("derivation", [entry("nested"), CUBE, HUBER], ids=["a", "cube", "huber"])
@given(seeds, st.floats(0.1, 0.9), scales, st.floats(0.05, 2))
@few
def test_prox_residual_is_a_subgradient(derivation, seed, price, block_price, step):
    term, v = case(seed, derivation, price, block_price)
    x = term.prox(v, step)
    u = (v - x) / step * (1 - 1e-13)
    total = term.value(x).sum() + term.conjugate(u).sum()
    assert total == pytest.approx((u * x).sum(), rel=1e-7, abs=1e-7 * (1 + (u * v).sum()))


@given(seeds, scales, scales)
@few
def test_gradient_agrees_with_differences_of_the_value(seed, price, block_price):
    term, w = case(seed, entry("nested"), price, block_price)
    small = 1e-6 * np.abs(w).max()
    gradient = term.gradient(w)
    for j in np.flatnonzero(w.any(axis=1)):
        move = np.zeros_like(w)
        move[j] = small * w[j] / np.linalg.norm(w[j])
        up, down = term.value(w + move).sum(), term.value(w - move).sum()
        expected = float((gradient * move).sum()) * 2
        # a kink of the slope within the step costs its share
        assert up - down == pytest.approx(expected, rel=2e-3, abs=1e-12 * (1 + up))


def test_keep_scores_rank_by_block_and_are_zero_only_at_zero():
    term = entry("nested").nested(np.array([0, 0, 1]))
    w = np.array([[3.0, 0.0], [0.1, 0.0], [0.0, 0.0]])
    scores = term.keep(w)
    assert scores[0] > scores[1] > scores[2] == 0
    assert scores[1] == pytest.approx(0.1)  # s/r* of the group's own


@pytest.mark.parametrize(
    ("blocks", "price", "message"),
    [([0, 2], 1.0, "gaps"), ([0.5, 1.0], 1.0, "whole"), ([0, 1], -1.0, "block_price")],
)
def test_wrong_blocks_are_refused(blocks, price, message):
    with pytest.raises(ValueError, match=message):
        entry("nested").nested(np.array(blocks), price)
    with pytest.raises(ValueError, match="block_price"):
        entry("square").nested(np.array([0, 1]))


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_exact_solution_with_blocks_agrees_with_enumeration(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 6))
    y = x @ (rng.normal(size=(6, 2)) * (rng.random(6) < 0.6)[:, None])
    term = entry("nested").nested(np.array([0, 0, 1, 1, 2, 2]), 0.3, 0.1, a=0.05)
    problem = LayerProblem.from_data(x, y + 0.1 * rng.normal(size=y.shape), term)
    best = np.inf
    for chosen in itertools.product([False, True], repeat=6):
        support = np.array(chosen)
        weights = refit(problem, support)
        alive = len(set(term.blocks[support]))
        ridge = 0.05 * (weights**2).sum()
        best = min(best, problem.loss(weights) + ridge + 0.1 * support.sum() + 0.3 * alive)
    solution = solve(problem, gap=1e-6)
    assert solution.objective == pytest.approx(best, rel=2e-6)
    assert solution.bound <= best * (1 + 1e-9)
    relaxed = relax(problem)
    assert relaxed.bound <= best
    assert problem.dual_bound(relaxed.weights) <= relaxed.objective * (1 + 1e-9)
    assert problem.dual_bound(relaxed.weights) == pytest.approx(relaxed.objective, rel=1e-2)
