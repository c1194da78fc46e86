"""Batched nodes: the answers of the one-by-one engine, on whatever device there is."""

import numpy as np
import pytest

from formulations import LayerProblem, square
from formulations.layer.extraction.extract import extract
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.solvers.branch_and_bound import solve
from formulations.solving.node import FREE, KEPT, REMOVED, Node
from mipprune.oneshot.gpu_relaxation import BatchedNewton


def layer(seed: int, groups=8, block=2, outputs=3, price=0.5) -> LayerProblem:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, groups * block)) + rng.normal(size=(80, 1))
    y = x @ rng.normal(size=(groups * block, outputs)) + 0.5 * rng.normal(size=(80, outputs))
    return LayerProblem.from_data(x, y, square(0.01, price), block)


@pytest.mark.parametrize("seed", range(4))
def test_batch_bounds_its_nodes_like_the_engine_for_one(seed):
    problem = extract(layer(seed)).problem
    rng = np.random.default_rng(seed)

    def nodes():
        return [Node(state.copy(), -np.inf, np.full(8, 0.5), np.zeros(8)) for state in states]

    states = rng.choice([REMOVED, KEPT, FREE, FREE], (6, 8)).astype(np.int8)
    states[0], states[1] = FREE, KEPT
    one, batch = nodes(), nodes()
    IndicatorNewton(problem, 8, 1e-10).evaluate(one, np.inf)
    BatchedNewton(problem, 8, 1e-10).evaluate(batch, np.inf)
    for a, b in zip(one, batch, strict=True):
        assert b.bound == pytest.approx(a.bound, rel=1e-7)
        np.testing.assert_allclose(b.indicator, a.indicator, atol=1e-4)
        np.testing.assert_allclose(b.surplus[b.free], a.surplus[a.free], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_batched_tree_proves_the_same_optimum(seed):
    problem = layer(seed, groups=14, price=1.5)
    one = solve(problem, gap=1e-6)
    many = solve(problem, gap=1e-6, relaxation=BatchedNewton)
    assert many.status == "optimal"
    assert many.objective == pytest.approx(one.objective, rel=1e-6)
    assert many.support.tolist() == one.support.tolist()
    assert many.bound <= one.objective * (1 + 1e-12)


def test_batches_refuse_what_they_are_not_for():
    with pytest.raises(ValueError, match="batched nodes"):
        solve(layer(0), relaxation=BatchedNewton, cardinality=2)
