"""Nodes by Newton's method in the indicators: φ = a‖w‖² on layers of real size, and stacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.extraction.schur import tighten
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.base import NodeRelaxation, Solved
from formulations.layer.stack import Stack
from formulations.numerics.block_diagonal import less_blocks
from formulations.numerics.indicator_newton import PerspectiveLayer, PerspectiveRelaxation
from formulations.solving import safe_bound
from formulations.solving.node import KEPT, Node
from formulations.solving.safe_bound import unit
from formulations.solving.threads import one_blas_thread


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for nodes."""
    return ThreadPoolExecutor(os.cpu_count())


@dataclass(frozen=True, eq=False)
class _Reduced:
    """A layer at a node, in its free groups: the removed dropped, the kept minimised over.

    The kept groups' weights are ``solved`` − ``coupling``ᵀ·W, W those of the free ones.
    """

    hessian: FloatArray
    cross: FloatArray
    solved: FloatArray
    coupling: FloatArray


class IndicatorNewton(NodeRelaxation[LayerProblem | Stack]):
    """Newton's method in the indicators (:mod:`formulations.numerics.indicator_newton`).

    For φ = a‖w‖² without a bound, on one layer, or on the layers of a stack, whose values add up.
    Every node extracts again: with groups removed or kept, what is left of a loss has more
    curvature to give, and Δ grows by θ times the Schur complements of H − Δ.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        stack = self.problem
        self.layers = stack.problems if isinstance(stack, Stack) else (stack,)
        self.hessians = [layer.hessian for layer in self.layers]
        own = [2 * layer.ridge for layer in self.layers]
        self.least = [float(ridge.min()) for ridge in own]
        self.deltas = [
            ridge[:, None, None] * np.eye(layer.block)
            for ridge, layer in zip(own, self.layers, strict=True)
        ]

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`.

        One thread a node, because these matrices are too small to share.
        """
        work = super().evaluate
        with one_blas_thread():
            list(_threads().map(lambda node: work([node], cutoff), nodes))

    def _solve(self, node: Node, price: FloatArray, cutoff: float) -> Solved:
        groups = self.problem.groups
        indicator, deltas = (node.indicator, self.deltas) if node.warm is None else node.warm
        free, kept = node.free, node.state == KEPT
        y, surplus = node.state.astype(float), np.zeros(groups)
        layers = [self._reduce(number, kept, free) for number in range(len(self.layers))]
        weights = [layer.cross[:0] for layer in layers]
        if free.any():
            if node.warm is not None:
                deltas = [
                    self._tightened(number, layer, delta, kept, free)
                    for number, (layer, delta) in enumerate(zip(layers, deltas, strict=True))
                ]
            ones = np.ones((1, int(free.sum())))
            relaxation = PerspectiveRelaxation(
                [
                    PerspectiveLayer(layer.hessian[None], layer.cross[None], delta[free][None])
                    for layer, delta in zip(layers, deltas, strict=True)
                ],
                *(price[free][None], 0 * ones, ones, self.pause),
            )
            start = np.clip(indicator[free], 0.02, 1.0)[None]
            solved, batches = relaxation.solve(start, self.tolerance)
            y[free], weights = solved[0], [batch[0] for batch in batches]
        value, conjugate, margin = self._fenchel(layers, weights, deltas, kept, free)
        # the objective of the kept groups is in the value: their surplus is never used
        surplus[free] = conjugate[free] - price[free]
        paid = float(price[kept].sum())
        bound = value + paid - np.maximum(surplus, 0).sum()
        margin += unit(groups) * (float(price.sum()) + abs(value))
        return Solved(float(bound - margin), y, surplus, (y, deltas))

    def paid(self, y: FloatArray) -> FloatArray:
        """−∂f_l/∂y_j of every layer at the root, without prices, (L, J), at indicators y (J,)."""
        layers = [
            PerspectiveLayer(hessian[None], layer.cross[None], delta[None])
            for hessian, layer, delta in zip(self.hessians, self.layers, self.deltas, strict=True)
        ]
        return np.array([-layer.derivatives(y[None])[1][0] for layer in layers])

    def _tightened(
        self, number: int, layer: _Reduced, delta: FloatArray, kept: BoolArray, free: BoolArray
    ) -> FloatArray:
        """A larger Δ of a layer's free groups, (J, b, b), if H − Δ ⪰ 0 is certain; else the same.

        The given Δ is right for every node below the one that it comes from: fewer rows, or less
        of Δ, leave H − Δ as definite as it was.
        """
        more, alive = delta.copy(), kept | free
        more[free] = tighten(layer.hessian, delta[free])
        rows = self.layers[number].rows(alive)
        whole = np.where(free[alive][:, None, None], more[alive], 0.0)
        slack = less_blocks(self.hessians[number][np.ix_(rows, rows)], whole)
        return more if safe_bound.definite(slack) else delta

    def _fenchel(
        self,
        reduced: Sequence[_Reduced],
        weights: Sequence[FloatArray],
        deltas: Sequence[FloatArray],
        kept: BoolArray,
        free: BoolArray,
    ) -> tuple[float, FloatArray, float]:
        """Value, conjugates (J,) and margin of all layers, from the weights of the free groups."""
        value, conjugate, margin = 0.0, np.zeros(self.problem.groups), 0.0
        alive = kept | free
        for number, (layer, own) in enumerate(zip(reduced, weights, strict=True)):
            problem, rows = self.layers[number], self.layers[number].rows(alive)
            whole = np.zeros_like(problem.cross)
            whole[problem.rows(free)] = own
            whole[problem.rows(kept)] = layer.solved - layer.coupling.T @ own
            fenchel = safe_bound.fenchel(
                self.hessians[number][np.ix_(rows, rows)][None],
                problem.cross[rows][None],
                problem.constant,
                whole[rows][None],
                deltas[number][alive][None],
                free[alive][None],
                self.least[number],
            )
            value += float(fenchel.value[0])
            conjugate[alive] += fenchel.conjugate[0]
            margin += float(fenchel.margin[0])
        return value, conjugate, margin

    def _reduce(self, number: int, kept: BoolArray, free: BoolArray) -> _Reduced:
        layer, whole = self.layers[number], self.hessians[number]
        inside, outside = layer.rows(kept), layer.rows(free)
        hessian, cross = whole[np.ix_(outside, outside)], layer.cross[outside]
        if not inside.any():
            return _Reduced(hessian, cross, layer.cross[:0], np.zeros((len(cross), 0)))
        inverse = np.linalg.inv(whole[np.ix_(inside, inside)])
        coupling = whole[np.ix_(outside, inside)] @ inverse
        hessian = hessian - coupling @ whole[np.ix_(inside, outside)]
        cross = cross - coupling @ layer.cross[inside]
        return _Reduced((hessian + hessian.T) / 2, cross, inverse @ layer.cross[inside], coupling)
