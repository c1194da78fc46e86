"""Nodes by accelerated proximal gradient, with the term's own proximal step: for any term."""

from __future__ import annotations

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.base import NodeRelaxation, Solved
from formulations.numerics.proximal_gradient import accelerated
from formulations.solving import safe_bound
from formulations.solving.node import KEPT, REMOVED, Node
from formulations.terms.partition import Partition


class ProximalGradient(NodeRelaxation[LayerProblem]):
    """Accelerated proximal gradient: for any term.

    Its bounds are as valid as the others, and slower to come by.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.step = 1 / max(float(np.linalg.eigvalsh(self.problem.curvature)[-1]), 1e-300)

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
        kept = node.state[alive] == KEPT

        def prox(w: FloatArray) -> FloatArray:
            flat = w.reshape(len(kept), -1)
            free = term.prox(flat, self.step)
            if kept.any():
                free[kept] = term.take(kept).shrinkage_prox(flat[kept], self.step)
            return free.reshape(w.shape)

        start = np.zeros_like(cross) if node.warm is None else node.warm[rows]
        inner = accelerated(
            *(lambda w: gram @ w - cross, prox, start, self.step),
            tolerance=1e-2 * self.tolerance,
            pause=self.pause,
        )
        point = safe_bound.dual_point(gram, cross, problem.constant, inner)
        partition = Partition(np.full(len(kept), problem.block * problem.outputs))
        own = safe_bound.shrinkage_conjugate(term, point, partition) - price[alive]
        surplus[alive] = own
        paid = own[kept].sum() + np.maximum(own[~kept], 0).sum()
        rounding = safe_bound.unit(len(own)) * (np.abs(own).sum() + price[alive].sum())
        bound = point.value - paid - rounding - point.margin
        weights[rows] = inner
        indicator[alive] = np.where(kept, 1.0, term.keep(inner.reshape(len(kept), -1)))
        return Solved(float(bound), indicator, surplus, weights)
