"""Bounds of every engine against exact rational arithmetic."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from formulations import LayerProblem, square
from formulations.layer.relaxations.coordinate_descent import CoordinateDescent
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.solving.node import FREE, KEPT, Node

GROUPS, BLOCK = 4, 2


def ill_conditioned(seed, condition=1e7):
    """Inputs of this condition, and outputs that they explain but for a millionth."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((30, GROUPS * BLOCK)))
    right, _ = np.linalg.qr(rng.standard_normal((GROUPS * BLOCK,) * 2))
    inputs = left * np.geomspace(1, condition**-0.5, GROUPS * BLOCK) @ right.T
    outputs = inputs @ rng.standard_normal((GROUPS * BLOCK, 2))
    outputs += 1e-6 * rng.standard_normal(outputs.shape)
    return LayerProblem.from_data(inputs, outputs, square(1e-9, 1e-9), BLOCK)


def exact(problem, support):
    """The objective of a support in rational arithmetic, of the data as they are."""
    rows = np.flatnonzero(problem.rows(support))
    value = Fraction(problem.constant) + sum(map(Fraction, problem.price[support].tolist()))
    matrix = [[Fraction(float(problem.hessian[i, j])) for j in rows] for i in rows]
    right = [[Fraction(float(x)) for x in problem.cross[i]] for i in rows]
    given = [list(row) for row in right]
    for k in range(len(rows)):  # elimination; the matrix is positive definite
        for i in range(k + 1, len(rows)):
            factor = matrix[i][k] / matrix[k][k]
            matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[k], strict=True)]
            right[i] = [a - factor * b for a, b in zip(right[i], right[k], strict=True)]
    solved = [None] * len(rows)
    for k in reversed(range(len(rows))):
        rest = [sum(matrix[k][j] * solved[j][o] for j in range(k + 1, len(rows))) for o in range(2)]
        solved[k] = [(right[k][o] - rest[o]) / matrix[k][k] for o in range(2)]
    pairs = zip(given, solved, strict=True)
    return value - sum(b * w for bs, ws in pairs for b, w in zip(bs, ws, strict=True)) / 2


def best(problem, state):
    """The optimum of a node, by enumeration of its free groups."""
    free = np.flatnonzero(state == FREE)
    values = []
    for choice in product([False, True], repeat=len(free)):
        support = state == KEPT
        support[free] = choice
        values.append(exact(problem, support))
    return min(values)


@pytest.mark.parametrize("engine", [IndicatorNewton, CoordinateDescent])
@pytest.mark.parametrize("free", [0, 1, 2])
def test_no_bound_of_a_node_is_above_its_optimum_however_badly_conditioned(engine, free):
    above = []
    for seed in range(30):
        problem = ill_conditioned(seed)
        node = Node.root(GROUPS)
        node.state[free:] = KEPT
        engine(problem, GROUPS, 1e-9).evaluate([node], np.inf)
        optimum = best(problem, node.state)
        if Fraction(node.bound) > optimum:
            above.append((seed, float(Fraction(node.bound) / optimum - 1)))
    assert above == []
