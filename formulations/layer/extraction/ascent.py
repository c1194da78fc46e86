"""The Δ of the best root bound, by ascent: for layers of any size.

With H the whole quadratic (:mod:`formulations.layer.extraction.extract`) the bound of the root,

    f(Δ) = min_{W, y ∈ [0,1]}  ½⟨W, (H − Δ) W⟩ − ⟨B, W⟩ + c₀ + Σ_j ½⟨W_j, Δ_j W_j⟩/y_j + c_j y_j,

is concave in Δ, with the gradient ½(1/y_j − 1)·W_j W_jᵀ in Δ_j at the minimiser (Zheng, Sun & Li
2014; Dong, Chen & Linderoth 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.numerics.block_diagonal import apply, congruent, diagonal_blocks, less_blocks
from formulations.numerics.indicator_newton import PerspectiveLayer, PerspectiveRelaxation
from formulations.solving.deadline import Deadline, Stopped

# weights of the barrier log det(H − Δ), in prices; each start is where the one before ended
_BARRIERS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_STEPS, _MEMORY = 40, 15


def ascend(problem: LayerProblem, delta: FloatArray, deadline: Deadline) -> FloatArray:
    """Increase the root bound over Δ: L-BFGS on f + μ·log det(H − Δ), μ decreasing.

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖² and no bound.
    delta : (J, b, b) array
        Where to start, positive definite with H − Δ ⪰ 0.
    deadline : Deadline
        By when it ends, with what it has then.

    Returns
    -------
    (J, b, b) array
        The Δ with the best bound met.
    """
    ascent = _Ascent(problem, delta, deadline.check)
    with suppress(Stopped):
        for barrier in _BARRIERS:
            ascent.run(barrier * float(np.mean(problem.term.price)))
    return ascent.best


class _Ascent:
    """Δ_j = L_j X_j² L_jᵀ with symmetric X, from X = I: L is renewed for every barrier."""

    def __init__(self, problem: LayerProblem, delta: FloatArray, pause: Callable[[], None]) -> None:
        self.problem, self.best, self.pause = problem, delta, pause
        self.delta = 0.99 * delta  # inside the cone
        self.groups, self.block = delta.shape[:2]
        self.price = problem.price[None]
        self.indicator = np.full((1, self.groups), 0.5)
        self.bound = -np.inf

    def run(self, barrier: float) -> None:
        """Ascend with this weight of the barrier; from the first call on the start counts too."""
        if np.isinf(self.bound):
            self.bound, _ = self._relax(self.problem.hessian, self.problem.cross, self.best)
        self.barrier = barrier
        self.factor = np.linalg.cholesky(self.delta)
        basis = np.linalg.inv(self.factor).transpose(0, 2, 1)
        self.hessian = congruent(self.problem.hessian, basis)
        self.cross = apply(basis.transpose(0, 2, 1), self.problem.cross)
        start = np.tile(np.eye(self.block), (self.groups, 1, 1)).ravel()
        end = _lbfgs(self._negative, start)
        self.delta = self._delta(self._blocks(end))

    def _blocks(self, flat: FloatArray) -> FloatArray:
        x = flat.reshape(self.groups, self.block, self.block)
        return (x + x.transpose(0, 2, 1)) / 2

    def _delta(self, x: FloatArray) -> FloatArray:
        # a trace of the identity keeps Δ invertible
        inner = (1 - 1e-6) * (x @ x + 1e-7 * np.eye(self.block))
        return self.factor @ inner @ self.factor.transpose(0, 2, 1)

    def _negative(self, flat: FloatArray) -> tuple[float, FloatArray]:
        """−(f + barrier) and its gradient; infinite, with any gradient, outside of the cone."""
        x = self._blocks(flat)
        inner = x @ x
        slack = less_blocks(self.hessian, inner)
        try:
            volume = 2 * float(np.log(np.diag(np.linalg.cholesky(slack))).sum())
        except np.linalg.LinAlgError:
            return np.inf, flat
        inverted = np.linalg.inv(slack)
        value, weights = self._relax(self.hessian, self.cross, inner + 1e-9 * np.eye(self.block))
        y = self.indicator[0]
        parts = weights.reshape(self.groups, self.block, -1)
        gradient = (0.5 * (1 / y - 1))[:, None, None] * (parts @ parts.transpose(0, 2, 1))
        if value > self.bound:
            self.bound, self.best = value, self._delta(x)
        gradient = gradient - self.barrier * diagonal_blocks(inverted, self.block)
        return -(value + self.barrier * volume), -(gradient @ x + x @ gradient).ravel()

    def _relax(
        self, hessian: FloatArray, cross: FloatArray, delta: FloatArray
    ) -> tuple[float, FloatArray]:
        """Value of the root, less c₀, and its weights."""
        shape = (1, self.groups)
        relaxation = PerspectiveRelaxation(
            [PerspectiveLayer(hessian[None], cross[None], delta[None])],
            *(self.price, np.zeros(shape), np.ones(shape), self.pause),
        )
        self.indicator, (weights,) = relaxation.solve(self.indicator, 1e-7)
        value = self.price[0] @ self.indicator[0] - 0.5 * float(np.vdot(cross, weights[0]))
        return float(value), weights[0]


def _lbfgs(
    function: Callable[[FloatArray], tuple[float, FloatArray]], point: FloatArray
) -> FloatArray:
    """Limited-memory BFGS with backtracking, which stays where the function is finite."""
    value, gradient = function(point)
    pairs: list[tuple[FloatArray, FloatArray]] = []
    for _ in range(_STEPS):
        direction = -_apply_inverse_hessian(pairs, gradient)
        slope = float(gradient @ direction)
        if slope >= 0:
            direction, pairs = -gradient, []
            slope = float(gradient @ direction)
        length = 1.0
        while True:
            ahead, new = function(point + length * direction)
            if ahead <= value + 1e-4 * length * slope:
                break
            length *= 0.5
            if length < 1e-6:
                return point
        step, change = length * direction, new - gradient
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            pairs = [*pairs[1 - _MEMORY :], (step, change)]
        small = value - ahead < 1e-5 * abs(ahead)
        point, value, gradient = point + step, ahead, new
        if small:
            break
    return point


def _apply_inverse_hessian(
    pairs: Sequence[tuple[FloatArray, FloatArray]], gradient: FloatArray
) -> FloatArray:
    """The two-loop recursion (Nocedal & Wright 2006, algorithm 7.4)."""
    result, factors = gradient.copy(), []
    for step, change in reversed(pairs):
        factors.append(step @ result / (step @ change))
        result -= factors[-1] * change
    if pairs:
        step, change = pairs[-1]
        result *= (step @ change) / (change @ change)
    else:
        result *= 0.1 / np.abs(result).max()
    for (step, change), factor in zip(pairs, reversed(factors), strict=True):
        result += step * (factor - change @ result / (step @ change))
    return result
