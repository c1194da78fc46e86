"""A first incumbent for training on a grid: coordinate descent, one weight at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from formulations.arrays import FloatArray
from formulations.relu.network import Network, Support, pre_activations
from formulations.solving.deadline import Deadline

if TYPE_CHECKING:
    from formulations.relu.problems import Training

_SWEEPS = 30


def grid_descent(
    problem: Training, starts: int, rng: np.random.Generator, deadline: Deadline
) -> tuple[Network, Support]:
    """Take the best of so many descents from random points of the grid, and of the zero network.

    A descent moves each weight in turn to its best grid point and removes each unit whose loss is
    worth less than its price, until nothing helps.

    Parameters
    ----------
    problem : Training
    starts : int
        Descents from random points.
    rng : Generator
        Of the points and of the order in which weights are moved.
    deadline : Deadline
        When it is over, the descent at hand ends where it is, and no further one starts.
    """
    found = [_descend(problem, _zero(problem), rng, deadline)]
    while len(found) <= starts and not deadline.over:
        found.append(_descend(problem, _random(problem, rng), rng, deadline))
    _, layers, support = min(found, key=lambda trial: trial[0])
    for layer, keep in enumerate(support):  # what a removed unit has left means nothing
        layers[layer][~keep] = 0.0
        layers[layer + 1][:, :-1][:, ~keep] = 0.0
    return Network([w[:, :-1] for w in layers], [w[:, -1] for w in layers]), support


def in_order(problem: Training, network: Network, support: Support) -> tuple[Network, Support]:
    """Put the interchangeable units of each layer in the MILP's order; the network is the same.

    Kept units first, then by bias and incoming weights, descending, as in
    :func:`formulations.relu.milp.break_symmetry`.
    """
    weights, biases, kept = list(network.weights), list(network.biases), []
    for layer, (price, keep) in enumerate(zip(problem.prices, support, strict=True)):
        order = np.arange(len(keep))
        keys = np.column_stack([keep, biases[layer], weights[layer]])
        for value in np.unique(price):
            same = np.flatnonzero(price == value)
            order[same] = sorted(same, key=lambda unit: tuple(-keys[unit]))
        weights[layer], biases[layer] = weights[layer][order], biases[layer][order]
        weights[layer + 1] = weights[layer + 1][:, order]
        kept.append(keep[order])
    return Network(weights, biases), tuple(kept)


def _zero(problem: Training) -> list[FloatArray]:
    return [np.zeros((n, m + 1)) for m, n in pairwise(problem.sizes)]


def _random(problem: Training, rng: np.random.Generator) -> list[FloatArray]:
    return [rng.choice(problem.grid, size=layer.shape) for layer in _zero(problem)]


def _descend(
    problem: Training, layers: list[FloatArray], rng: np.random.Generator, deadline: Deadline
) -> tuple[float, list[FloatArray], Support]:
    """(objective, layers with the bias as last column, support)."""
    support = tuple(np.ones(width, bool) for width in problem.hidden)

    def value() -> float:
        weights, biases = [w[:, :-1] for w in layers], [w[:, -1] for w in layers]
        outputs = pre_activations(weights, biases, problem.inputs, support)[-1]
        return problem.criterion.value(outputs, problem.targets) + problem.price_of(support)

    places = [(layer, at) for layer, w in enumerate(layers) for at in np.ndindex(w.shape)]
    best = value()
    for _ in range(_SWEEPS):
        before = best
        for index in rng.permutation(len(places)):
            if deadline.over:
                return best, layers, support
            layer, at = places[index]
            kept = layers[layer][at]
            for point in problem.grid:
                layers[layer][at] = point
                trial = value()
                if trial < best:
                    best, kept = trial, point
            layers[layer][at] = kept
        for keep in support:
            for unit in np.flatnonzero(keep):
                keep[unit] = False
                trial = value()
                if trial <= best:
                    best = trial
                else:
                    keep[unit] = True
        if best >= before:
            break
    return best, layers, support
