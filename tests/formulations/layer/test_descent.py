"""Block coordinate descent: compiled and in NumPy the same steps, with pauses between them."""

import numpy as np
import pytest
from layer_instances import layer_problem

from formulations.layer.relaxations import coordinate_descent, descent, descent_numpy
from formulations.layer.relaxations.coordinate_descent import CoordinateDescent
from formulations.layer.solvers.branch_and_bound import solve
from formulations.numerics.block_diagonal import diagonal_blocks
from formulations.solving import safe_bound
from formulations.solving.deadline import Stopped
from formulations.solving.node import FREE, KEPT, REMOVED, Node
from formulations.solving.result import Status


def random_node(seed, block):
    """What both are made from: some groups kept, the others free, some with a bound M."""
    rng = np.random.default_rng(seed)
    groups, columns = rng.integers(1, 9), rng.integers(1, 7)
    rows = groups * block
    inputs = rng.normal(size=(3 * rows, rows)) @ (
        np.eye(rows) + 0.3 * rng.normal(size=(rows, rows))
    )
    gram = inputs.T @ inputs / len(inputs)
    return {
        "gram": gram,
        "cross": rng.normal(size=(columns, rows)),
        "constant": 3.0,
        "ridge": rng.uniform(0.01, 0.5, groups),
        "price": rng.uniform(0.01, 0.5, groups),
        "bound": rng.choice([np.inf, 0.3, 0.02], groups),
        "lipschitz": np.linalg.eigvalsh(diagonal_blocks(gram, block))[:, -1].copy(),
        "free": rng.random(groups) < 0.6,
        "weights": rng.normal(size=(columns, rows)),
        "rounding": safe_bound.unit(rows * columns, groups),
    }


@pytest.mark.parametrize("block", [1, 9])
@pytest.mark.parametrize("seed", range(25))
def test_compiled_and_in_numpy_the_steps_and_bounds_are_the_same(block, seed):
    compiled = pytest.importorskip("formulations.layer.relaxations._descent")
    node = random_node(seed, block)
    first = compiled.Descent(**{**node, "weights": node["weights"].copy()})
    second = descent_numpy.Descent(**node)
    for _ in range(10):
        assert first.look() == pytest.approx(second.look(), rel=1e-11, abs=1e-11)
        for ours, theirs in ((first.weights, second.weights), (first.surplus, second.surplus)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        for one in (first, second):
            one.advance(2 * len(node["ridge"]) + 1)


@pytest.mark.parametrize("bound", [np.inf, 0.3])
def test_the_branch_and_bound_is_the_same_with_both(bound, monkeypatch):
    problem = layer_problem(3, groups=6, block=2, bound=bound)
    found = []
    for implementation in (descent.Descent, descent_numpy.Descent):
        monkeypatch.setattr(coordinate_descent, "Descent", implementation)
        found.append(solve(problem, gap=1e-7, relaxation=CoordinateDescent))
    assert found[0].status == found[1].status == "optimal"
    assert found[0].support.tolist() == found[1].support.tolist()
    assert found[0].bound == pytest.approx(found[1].bound, rel=1e-7)


def test_a_node_without_its_removed_groups_is_the_node():
    problem = layer_problem(1, groups=5, block=2)
    state = np.array([FREE, REMOVED, KEPT, FREE, REMOVED], np.int8)
    node = Node.root(5)
    node.state = state
    CoordinateDescent(problem, 5, 1e-8).evaluate([node], np.inf)
    assert (node.warm[problem.rows(state == REMOVED)] == 0).all()
    assert node.indicator[[1, 4]].tolist() == [0, 0]
    assert node.surplus[[1, 4]].tolist() == [0, 0]


def test_long_work_pauses_between_its_steps_and_ends_there(monkeypatch):
    monkeypatch.setattr(coordinate_descent, "_WORK", 1.0)
    problem = layer_problem(0, groups=4)
    engine, left = CoordinateDescent(problem, 4, 1e-12), iter([None] * 6)

    def pause():
        if next(left, "over") == "over":
            raise Stopped(Status.TIME_LIMIT)

    engine.pause = pause
    with pytest.raises(Stopped):
        engine.evaluate([Node.root(4)], np.inf)
    assert next(left, "over") == "over"
