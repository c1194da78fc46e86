"""Engines that bound the nodes of the branch and bound.

All minimise the same function, the loss plus Σ φ of the kept and Σ h of the free groups, h the
projected regularizer, and bound it by Fenchel duality at the point they reach:

    D(V) = −½⟨V, M V⟩ + c₀ − Σ_kept (φ_B*(v_j) − c_j) − Σ_free max(0, φ_B*(v_j) − c_j),

v = B − M·V. :class:`BlockDescent` (compiled) is for φ = a‖w‖² and small layers or a bound M,
:class:`IndicatorNewton` for φ = a‖w‖² on layers of real size, :class:`ProximalGradient` for any
term.

With at most K groups, Σ y ≤ K is priced by a multiplier μ, c + μ for c; D then counts the K
largest of the free groups' φ_B* − c alone, which is the exact minimum over y.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from formulations.layer.extraction import tighten
from formulations.layer.kernels import descend
from formulations.layer.problem import LayerProblem
from formulations.layer.stack import Stack
from formulations.numerics.block_diagonal import apply, diagonal_blocks
from formulations.numerics.indicator_newton import Part, Relaxation
from formulations.numerics.proximal_gradient import accelerated
from formulations.solving.node import KEPT, REMOVED, Node
from formulations.terms.term import Partition

_SWEEPS = 3000
_MULTIPLIERS = 8  # values of μ tried at a node
_UNIT = 4 * np.finfo(float).eps  # of rounding, of every term of a sum


@cache
def _threads() -> tuple[ThreadPoolExecutor, ThreadpoolController]:
    """Threads for nodes, and the hand on the threads of the linear algebra libraries."""
    return ThreadPoolExecutor(os.cpu_count()), ThreadpoolController()


@dataclass(eq=False)
class _Base:
    """What the engines share: the limit on the number of groups.

    Parameters
    ----------
    problem : LayerProblem
        After the extraction; for :class:`IndicatorNewton` also a Stack.
    most : int
        Largest number of groups; all of them for no limit.
    tolerance : float
        Relative precision of a node's relaxation.
    """

    problem: LayerProblem | Stack
    most: int
    tolerance: float
    width: int = field(default=1, init=False)
    pause: Callable[[], None] = field(init=False)

    def __post_init__(self):
        self.pause = lambda: None
        self.price = self.problem.price
        self.limited = self.most < self.problem.groups

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`."""
        for node in nodes:
            if self.limited:
                self._evaluate_limited(node, cutoff)
            else:
                self._take(node, *self._solve(node, self.price, cutoff))

    def _solve(
        self, node: Node, price: np.ndarray, cutoff: float
    ) -> tuple[float, np.ndarray, np.ndarray, Any]:
        """(bound, y, surplus, warm start) of a node at these prices."""
        raise NotImplementedError

    def _take(self, node: Node, bound, indicator, surplus, warm) -> None:
        node.warm = warm
        if bound >= node.bound:
            node.bound, node.surplus = bound, surplus
        node.indicator = np.where(node.free, indicator, node.state)

    def _evaluate_limited(self, node: Node, cutoff: float) -> None:
        left = self.most - int((node.state == KEPT).sum())
        if left == 0:
            node.state = np.where(node.free, REMOVED, node.state).astype(np.int8)
        free = node.free
        low, high, multiplier = 0.0, np.inf, node.multiplier
        for _ in range(_MULTIPLIERS):
            bound, y, surplus, warm = self._solve(node, self.price + multiplier, np.inf)
            bound, surplus = self._at_most(node, left, bound, surplus, multiplier)
            node.multiplier = multiplier
            self._take(node, bound, y, surplus, warm)
            total = float(y[free].sum()) - left
            if node.bound >= cutoff or abs(total) <= 1e-2 or (total < 0 and multiplier == 0.0):
                break
            if total > 0:
                low = multiplier
            else:
                high = multiplier
            if np.isinf(high):
                multiplier = 2 * multiplier + 0.25 * float(self.price.mean())
            else:
                multiplier = 0.5 * (low + high) if high > 1e-9 * self.price.mean() else 0.0

    def _at_most(self, node: Node, left: int, bound, surplus, multiplier: float):
        """The bound that counts at most ``left`` of the free groups, and the surplus at c."""
        free, kept = node.free, node.state == KEPT
        base = bound + surplus[kept].sum() + np.maximum(surplus[free], 0).sum()
        surplus = np.where(node.state == REMOVED, 0.0, surplus + multiplier)
        gains = np.sort(np.maximum(surplus[free], 0))[::-1][:left]
        rounding = 1e-14 * (abs(base) + np.abs(surplus).sum())
        return base - surplus[kept].sum() - gains.sum() - rounding, surplus


class BlockDescent(_Base):
    """Compiled block coordinate descent (:func:`block_descent.descend`) for φ = a‖w‖²."""

    def __post_init__(self):
        super().__post_init__()
        problem, term = self.problem, self.problem.term
        groups, block = problem.groups, problem.block
        self.gram = np.ascontiguousarray(problem.curvature)
        self.cross = np.ascontiguousarray(problem.cross)
        self.ridge, self.bound = (
            np.broadcast_to(v, (groups,)).astype(float) for v in (term.ridge, term.bound)
        )
        if block == 1:
            largest = np.diag(self.gram).copy()
        else:
            blocks = diagonal_blocks(self.gram, block)
            largest = np.linalg.eigvalsh(blocks)[:, -1] * (1 + 1e-12)
        self.lipschitz = np.maximum(largest, 1e-12 * largest.max() + 1e-300)

    def _solve(self, node: Node, price: np.ndarray, cutoff: float):
        weights = np.zeros_like(self.cross) if node.warm is None else node.warm.copy()
        weights[self.problem.rows(node.state == REMOVED)] = 0.0
        _, bound, surplus = descend(
            *(self.gram, self.cross, self.problem.constant, self.ridge, price, self.bound),
            *(self.lipschitz, self.problem.block, node.state, weights, self.tolerance, cutoff),
            _SWEEPS,
        )
        groups = self.problem.by_group(weights)
        norm = np.sqrt((groups * groups).sum(axis=1))
        y = norm * np.sqrt(self.ridge / price)
        if np.isfinite(self.bound).any():
            y = np.maximum(y, np.abs(groups).max(axis=1) / self.bound)
        return bound, np.minimum(y, 1.0), surplus, weights


class ProximalGradient(_Base):
    """Accelerated proximal gradient with the term's own proximal step: for any term.

    Its bounds are as valid as the others, and slower to come by.
    """

    def __post_init__(self):
        super().__post_init__()
        self.step = 1 / max(float(np.linalg.eigvalsh(self.problem.curvature)[-1]), 1e-300)

    def _solve(self, node: Node, price: np.ndarray, cutoff: float):
        problem = self.problem
        alive = node.state != REMOVED
        indicator, surplus = node.state.astype(float), np.zeros(problem.groups)
        weights = np.zeros_like(problem.cross)
        if not alive.any():
            return problem.constant, indicator, surplus, weights
        rows = problem.rows(alive)
        gram, cross = problem.curvature[np.ix_(rows, rows)], problem.cross[rows]
        term = problem.term.take(np.ones(problem.groups, bool)).priced(price).take(alive)
        kept = node.state[alive] == KEPT
        partition = Partition(np.full(len(kept), problem.block * problem.outputs))

        def prox(w):
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
        image = gram @ inner
        v = cross - image
        conjugate = term.shrinkage_conjugate(v.reshape(-1), partition)
        # rounding of v, to which the conjugate answers with the norm of its maximiser, and of sums
        unit = 4 * sum(cross.shape) * np.finfo(float).eps
        spread = unit * (np.linalg.norm(cross) + np.linalg.norm(gram) * np.linalg.norm(inner))
        slope = (term.shrinkage_conjugate((v * (1 + 1e-6)).reshape(-1), partition) - conjugate) / (
            1e-6 * np.maximum(np.linalg.norm(v.reshape(len(kept), -1), axis=1), 1e-300)
        )
        conjugate = conjugate + spread * slope + unit * np.abs(conjugate)
        own = conjugate - price[alive]
        surplus[alive] = own
        quadratic = 0.5 * float(np.vdot(inner, image))
        paid = own[kept].sum() + np.maximum(own[~kept], 0).sum()
        magnitude = abs(problem.constant) + abs(quadratic) + np.abs(own).sum()
        bound = problem.constant - quadratic - paid - unit * magnitude
        weights[rows] = inner
        indicator[alive] = np.where(kept, 1.0, term.keep(inner.reshape(len(kept), -1)))
        return float(bound), indicator, surplus, weights


@dataclass(frozen=True, eq=False)
class _Reduced:
    """A layer at a node, in its free groups: the removed dropped, the kept minimised over.

    ``magnitude`` is that of the constants, of which rounding is a share.
    """

    hessian: np.ndarray
    cross: np.ndarray
    constant: float
    magnitude: float


class IndicatorNewton(_Base):
    """Newton's method in the indicators (:mod:`formulations.numerics.indicator_newton`), φ = a‖w‖².

    For one layer, or for the layers of a stack, whose values add up. Every node extracts again:
    with groups removed or kept, what is left of a loss has more curvature to give, and Δ grows by θ
    times the Schur complements of H − Δ.
    """

    def __post_init__(self):
        super().__post_init__()
        stacked = isinstance(self.problem, Stack)
        self.layers = self.problem.problems if stacked else (self.problem,)
        self.hessians = [layer.hessian for layer in self.layers]
        own = [2 * np.broadcast_to(p.term.ridge, (p.groups,)) for p in self.layers]
        self.deltas = [
            ridge[:, None, None] * np.eye(layer.block)
            for ridge, layer in zip(own, self.layers, strict=True)
        ]

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`.

        One thread a node, because these matrices are too small to share.
        """
        work = super().evaluate
        pool, libraries = _threads()
        with libraries.limit(limits=1):
            list(pool.map(lambda node: work([node], cutoff), nodes))

    def _solve(self, node: Node, price: np.ndarray, cutoff: float):
        groups = self.problem.groups
        indicator, deltas = (node.indicator, self.deltas) if node.warm is None else node.warm
        free, kept = node.free, node.state == KEPT
        y, surplus = node.state.astype(float), np.zeros(groups)
        layers = [self._reduce(number, kept, free) for number in range(len(self.layers))]
        constant = sum(layer.constant for layer in layers) + float(price[kept].sum())
        # the objective of the kept groups is in the constant: their surplus is never used
        if not free.any():
            rounding = 1e-12 * abs(constant)
            return constant - rounding, y, surplus, (y, deltas)
        if node.warm is not None:
            deltas = [delta.copy() for delta in deltas]
            for layer, delta in zip(layers, deltas, strict=True):
                delta[free] = tighten(layer.hessian, delta[free])
        own = [delta[free] for delta in deltas]
        ones = np.ones((1, int(free.sum())))
        relaxation = Relaxation(
            [
                Part(layer.hessian[None], layer.cross[None], delta[None])
                for layer, delta in zip(layers, own, strict=True)
            ],
            *(price[free][None], 0 * ones, ones, self.pause),
        )
        start = np.clip(indicator[free], 0.02, 1.0)[None]
        solved, weights = relaxation.solve(start, self.tolerance)
        y[free] = solved[0]
        fenchel = [_fenchel(*given) for given in zip(layers, weights, own, strict=True)]
        value, conjugate, rounding = (sum(terms) for terms in zip(*fenchel, strict=True))
        surplus[free] = conjugate - price[free]
        value += float(price[kept].sum()) - np.maximum(surplus, 0).sum()
        rounding += _UNIT * groups * float(price.sum())
        return value - rounding, y, surplus, (y, deltas)

    def paid(self, y: np.ndarray) -> np.ndarray:
        """−∂f_l/∂y_j of every layer at the root, without prices, (L, J), at indicators y (J,)."""
        parts = [
            Part(hessian[None], layer.cross[None], delta[None])
            for hessian, layer, delta in zip(self.hessians, self.layers, self.deltas, strict=True)
        ]
        return np.array([-part.derivatives(y[None])[1][0] for part in parts])

    def _reduce(self, number: int, kept: np.ndarray, free: np.ndarray) -> _Reduced:
        layer, whole = self.layers[number], self.hessians[number]
        inside, outside = layer.rows(kept), layer.rows(free)
        hessian, cross = whole[np.ix_(outside, outside)], layer.cross[outside]
        constant = layer.constant
        if inside.any():
            solved = np.linalg.inv(whole[np.ix_(inside, inside)])
            coupling = whole[np.ix_(outside, inside)] @ solved
            hessian = hessian - coupling @ whole[np.ix_(inside, outside)]
            hessian = (hessian + hessian.T) / 2
            cross = cross - coupling @ layer.cross[inside]
            constant -= 0.5 * float(np.vdot(layer.cross[inside], solved @ layer.cross[inside]))
        return _Reduced(hessian, cross, constant, abs(constant) + abs(layer.constant))


def _fenchel(
    layer: _Reduced, weights: np.ndarray, delta: np.ndarray
) -> tuple[float, np.ndarray, float]:
    """D(V) of a layer at weights (1, D, O) without its terms, φ* of every group, and rounding.

    φ* is from above; by as much as is given third, rounding can have raised all the rest.
    """
    weights = weights[0]
    groups, block = delta.shape[:2]
    image = layer.hessian @ weights - apply(delta, weights)
    v = (layer.cross - image).reshape(groups, block, -1)
    solved = np.linalg.solve(delta, v)
    conjugate = 0.5 * (v * solved).sum(axis=(1, 2))
    length, maximiser = np.linalg.norm(weights), np.sqrt((solved**2).sum(axis=(1, 2)))
    unit = _UNIT * sum(weights.shape)
    spread = unit * (np.linalg.norm(layer.cross) + 2 * np.linalg.norm(layer.hessian) * length)
    least = np.linalg.eigvalsh(delta)[:, 0]
    conjugate = conjugate + spread * maximiser + 0.5 * spread**2 / least
    quadratic = 0.5 * float(np.vdot(weights, image))
    magnitude = layer.magnitude + abs(quadratic) + conjugate.sum() + spread * length
    return layer.constant - quadratic, conjugate, unit * magnitude
