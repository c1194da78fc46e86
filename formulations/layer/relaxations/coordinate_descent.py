"""Nodes by block coordinate descent: φ = a‖w‖², small layers or a bound M."""

from __future__ import annotations

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.base import NodeRelaxation, Solved
from formulations.layer.relaxations.descent import Descent
from formulations.numerics.block_diagonal import diagonal_blocks
from formulations.solving import safe_bound
from formulations.solving.node import FREE, REMOVED, Node

_CHECK = 3  # sweeps between two looks at the bound
_LOOKS = 1000  # most of them
_PATIENCE = 12  # looks without progress
_WORK = 2e7  # operations between two pauses, some 10 ms


class CoordinateDescent(NodeRelaxation[LayerProblem]):
    """Block coordinate descent (:mod:`.descent`) for φ = a‖w‖²."""

    def __post_init__(self) -> None:
        super().__post_init__()
        problem, term = self.problem, self.problem.term
        groups, block = problem.groups, problem.block
        self.gram = np.ascontiguousarray(problem.curvature)
        self.cross = np.ascontiguousarray(problem.cross.T)
        self.ridge = problem.ridge
        self.bound = np.broadcast_to(term.bound, (groups,)).astype(float)
        self.boxed = bool(np.isfinite(self.bound).any())
        if block == 1:
            largest = np.diag(self.gram).copy()
        else:
            blocks = diagonal_blocks(self.gram, block)
            largest = np.linalg.eigvalsh(blocks)[:, -1] * (1 + 1e-12)
        self.lipschitz = np.maximum(largest, 1e-12 * largest.max() + 1e-300)
        # all entries are added up one after the other
        self.rounding = safe_bound.unit(self.cross.size, groups)

    def _solve(self, node: Node, price: FloatArray, cutoff: float) -> Solved:
        problem, alive = self.problem, node.state != REMOVED
        weights, y, surplus = np.zeros_like(problem.cross), *np.zeros((2, problem.groups))
        if not alive.any():
            return Solved(problem.constant, y, surplus, weights)
        rows = problem.rows(alive)
        start = weights if node.warm is None else node.warm
        descent = Descent(
            self.gram if alive.all() else self.gram[np.ix_(rows, rows)],
            *(np.ascontiguousarray(self.cross[:, rows]), problem.constant, self.ridge[alive]),
            *(price[alive], self.bound[alive], self.lipschitz[alive], node.state[alive] == FREE),
            *(start[rows].T.copy(), self.rounding),
        )
        bound, surplus[alive] = self._descend(descent, cutoff)
        weights[rows] = descent.weights.T
        groups = problem.by_group(weights)
        y = np.sqrt((groups * groups).sum(axis=1) * self.ridge / price)
        if self.boxed:
            y = np.maximum(y, np.abs(groups).max(axis=1) / self.bound)
        return Solved(bound, np.minimum(y, 1.0), surplus, weights)

    def _descend(self, descent: Descent, cutoff: float) -> tuple[float, FloatArray]:
        """The best bound on the way to the minimum or beyond the cutoff, and its surplus."""
        value, best = descent.look()
        surplus, idle = descent.surplus.copy(), 0
        for _ in range(_LOOKS):
            gap = value - best
            if best >= cutoff or gap <= self.tolerance * abs(value) or idle > _PATIENCE:
                break
            self._sweep(descent)
            value, bound = descent.look()
            if bound > best:
                best, surplus = bound, descent.surplus.copy()
            idle = idle + 1 if value - best > 0.999 * gap else 0
        return best, surplus

    def _sweep(self, descent: Descent) -> None:
        """All steps between two looks, with a pause now and then."""
        left = _CHECK * len(descent.surplus)
        most = 1 + int(_WORK / (2 * self.problem.block * descent.weights.size))
        while left > 0:
            descent.advance(min(left, most))
            left -= most
            self.pause()
