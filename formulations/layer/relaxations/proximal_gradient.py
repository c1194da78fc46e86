"""Nodes by accelerated proximal gradient, with the term's own proximal step: for any term.

On an ill-conditioned loss the steps get short long before the minimum, and far too many are taken
if they alone decide. So every now and then the relaxation's value is held against the bound of the
point, and the work ends when they meet, or when the bound closes the node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.base import NodeRelaxation, Solved
from formulations.numerics.proximal_gradient import accelerated, scaled_steps
from formulations.solving import safe_bound
from formulations.solving.node import KEPT, REMOVED, Node
from formulations.terms.partition import Partition
from formulations.terms.term import Term


class ProximalGradient(NodeRelaxation[LayerProblem]):
    """Accelerated proximal gradient: for any term.

    Its bounds are as valid as the others, and slower to come by.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps = scaled_steps(self.problem.curvature, self.problem.block)

    def _solve(self, node: Node, price: FloatArray, cutoff: float) -> Solved:
        problem = self.problem
        alive = node.state != REMOVED
        indicator, surplus = node.state.astype(float), np.zeros(problem.groups)
        weights = np.zeros_like(problem.cross)
        if not alive.any():
            return Solved(problem.constant, indicator, surplus, weights)
        rows = problem.rows(alive)
        gram, cross = problem.curvature[np.ix_(rows, rows)], problem.cross[rows]
        term = problem.term.take(np.ones(problem.groups, bool)).priced(price).take(alive)
        kept, steps = node.state[alive] == KEPT, self.steps[alive]

        def prox(w: FloatArray) -> FloatArray:
            flat = w.reshape(len(kept), -1)
            free = term.prox(flat, steps)
            if kept.any():
                free[kept] = term.take(kept).shrinkage_prox(flat[kept], steps[kept])
            return free.reshape(w.shape)

        state = _Alive(problem, term, price[alive], gram, cross, kept)
        unlimited = bool((price == self.price).all())

        def enough(w: FloatArray) -> bool:
            value, (bound, own) = state.value(w), state.bound(w)
            if unlimited and bound > node.bound:  # it stays, should the time end before the work
                node.bound, node.surplus = bound, np.zeros(problem.groups)
                node.surplus[alive] = own
            return bound >= min(cutoff, value - self.tolerance * abs(value))

        start = np.zeros_like(cross) if node.warm is None else node.warm[rows]
        inner = accelerated(
            *(lambda w: gram @ w - cross, prox, start, np.repeat(steps, problem.block)[:, None]),
            tolerance=1e-2 * self.tolerance,
            pause=self.pause,
            enough=enough,
        )
        bound, surplus[alive] = state.bound(inner)
        weights[rows] = inner
        indicator[alive] = np.where(kept, 1.0, term.keep(inner.reshape(len(kept), -1)))
        return Solved(bound, indicator, surplus, weights)


@dataclass(frozen=True, eq=False)
class _Alive:
    """What is there of a problem at a node: its relaxation, and Fenchel's bound on it.

    Attributes
    ----------
    problem : LayerProblem
    term : Term
        Of the groups that are there, like ``price`` and ``kept``, which says whether they stay.
    gram, cross : arrays
        Their rows.
    """

    problem: LayerProblem
    term: Term
    price: FloatArray
    gram: FloatArray
    cross: FloatArray
    kept: BoolArray

    def value(self, weights: FloatArray) -> float:
        """Loss, φ and c of the kept groups, h of the free ones."""
        loss = 0.5 * np.vdot(weights, self.gram @ weights) - np.vdot(self.cross, weights)
        groups, term = weights.reshape(len(self.kept), -1), self.term.without_extraction()
        paid = np.where(self.kept, term.shrinkage(groups) + self.price, term.value(groups))
        return float(loss + paid.sum() + self.problem.constant)

    def bound(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """A bound on the relaxation, and φ_B*(v_j) − c_j of every group."""
        problem, price = self.problem, self.price
        point = safe_bound.dual_point(self.gram, self.cross, problem.constant, weights)
        partition = Partition(np.full(len(self.kept), problem.block * problem.outputs))
        own = safe_bound.shrinkage_conjugate(self.term, point, partition) - price
        paid = own[self.kept].sum() + np.maximum(own[~self.kept], 0).sum()
        rounding = safe_bound.unit(len(own)) * (np.abs(own).sum() + price.sum())
        return float(point.value - paid - rounding - point.margin), own
