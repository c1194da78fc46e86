"""Nodes by compiled block coordinate descent: φ = a‖w‖², small layers or a bound M."""

from __future__ import annotations

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.base import NodeRelaxation, Solved
from formulations.layer.relaxations.descent_kernel import descend
from formulations.numerics.block_diagonal import diagonal_blocks
from formulations.solving import safe_bound
from formulations.solving.node import REMOVED, Node

_SWEEPS = 3000


class CoordinateDescent(NodeRelaxation[LayerProblem]):
    """Compiled block coordinate descent (:mod:`.descent_kernel`) for φ = a‖w‖²."""

    def __post_init__(self) -> None:
        super().__post_init__()
        problem, term = self.problem, self.problem.term
        groups, block = problem.groups, problem.block
        self.gram = np.ascontiguousarray(problem.curvature)
        self.cross = np.ascontiguousarray(problem.cross)
        self.ridge = problem.ridge
        self.bound = np.broadcast_to(term.bound, (groups,)).astype(float)
        if block == 1:
            largest = np.diag(self.gram).copy()
        else:
            blocks = diagonal_blocks(self.gram, block)
            largest = np.linalg.eigvalsh(blocks)[:, -1] * (1 + 1e-12)
        self.lipschitz = np.maximum(largest, 1e-12 * largest.max() + 1e-300)
        # the kernel adds all entries up one after the other
        self.rounding = safe_bound.unit(self.cross.size, groups)

    def _solve(self, node: Node, price: FloatArray, cutoff: float) -> Solved:
        weights = np.zeros_like(self.cross) if node.warm is None else node.warm.copy()
        weights[self.problem.rows(node.state == REMOVED)] = 0.0
        _, bound, surplus = descend(
            *(self.gram, self.cross, self.problem.constant, self.ridge, price, self.bound),
            *(self.lipschitz, self.problem.block, node.state, weights, self.tolerance, cutoff),
            *(_SWEEPS, self.rounding),
        )
        groups = self.problem.by_group(weights)
        norm = np.sqrt((groups * groups).sum(axis=1))
        y = norm * np.sqrt(self.ridge / price)
        if np.isfinite(self.bound).any():
            y = np.maximum(y, np.abs(groups).max(axis=1) / self.bound)
        return Solved(bound, np.minimum(y, 1.0), surplus, weights)
