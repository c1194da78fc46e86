"""Incumbents of the branch and bound: supports refitted, and improved by local search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.layer.kernels import improve, refit
from formulations.layer.problem import LayerProblem
from formulations.solving.node import FREE

_ROUNDING = 1e-12  # relative


class Incumbents:
    """The best support met so far.

    Parameters
    ----------
    problem : LayerProblem
        As stated, without extraction.
    most : int
        Largest number of groups kept.
    pause : callable
        Called now and then; what it raises ends the work.

    Attributes
    ----------
    support : (J,) bool array
    objective : float
    """

    def __init__(self, problem: LayerProblem, most: int, pause: Callable[[], None]):
        self.problem, self.most, self.pause = problem, most, pause
        self.support, self.objective = np.zeros(problem.groups, bool), problem.constant
        self._free = np.full(problem.groups, FREE, np.int8)
        self._seen: set[bytes] = {self.support.tobytes()}
        if problem.plain:
            self._data = (
                np.ascontiguousarray(problem.hessian),
                np.ascontiguousarray(problem.cross),
                problem.constant,
                problem.price,
            )

    def begin(self, support: np.ndarray) -> None:
        """Take a support as it is, if it is better than none."""
        if support.sum() <= self.most and (value := self.value(support)) < self.objective:
            self.objective, self.support = value, support

    def offer(self, support: np.ndarray) -> None:
        """Refit a support; if it is the best yet, take it and improve it."""
        key = support.tobytes()
        if key in self._seen or support.sum() > self.most:
            return
        self._seen.add(key)
        value = self.value(support)
        if value < self.objective:
            self.objective, self.support = value, support
            self.search()

    def search(self) -> None:
        """Local search from the best support: single flips and, for φ = a‖w‖², swaps."""
        fell = True
        while fell:
            self.pause()
            trial = self.support.copy()
            if self.problem.plain:
                block = self.problem.block
                value, fell = improve(*self._data, self._free, trial, self.most, block)
            else:
                value, fell = self._flip(trial)
            if fell:
                self.objective, self.support = value, trial

    def solution(self) -> tuple[np.ndarray, float]:
        """Best weights on the support, (D, O), and the objective that they have."""
        if not self.problem.plain:
            weights = self.problem.refit(self.support)
            return weights, self.problem.objective(weights, self.support)
        hessian, cross, constant, price = self._data
        weights = np.zeros_like(cross)
        _, own, _ = refit(*self._data, np.flatnonzero(self.support), self.problem.block)
        weights[self.problem.rows(self.support)] = own
        quadratic = 0.5 * np.vdot(weights, hessian @ weights) - np.vdot(cross, weights)
        return weights, float(quadratic + constant + price[self.support].sum())

    def lower_bound(self, support: np.ndarray) -> float:
        """Lower bound on the objective of a support, whatever the precision of its refit."""
        if not self.problem.plain:
            value = self.value(support)
            return value - _ROUNDING * (abs(value) + self.problem.constant)
        return proved_refit(self.problem, support) + float(self.problem.price[support].sum())

    def value(self, support: np.ndarray) -> float:
        """The objective of a support, refitted."""
        if self.problem.plain:
            return refit(*self._data, np.flatnonzero(support), self.problem.block)[0]
        return self.problem.objective(self.problem.refit(support, self.pause), support)

    def _flip(self, support: np.ndarray) -> tuple[float, bool]:
        """The best single flip, in place; its objective and whether it fell."""
        best, group = self.objective, -1
        for j in range(len(support)):
            trial = support.copy()
            trial[j] = not trial[j]
            if trial.sum() <= self.most and (value := self.value(trial)) < best:
                best, group = value, j
        if group >= 0:
            support[group] = not support[group]
        return best, group >= 0


def proved_refit(problem: LayerProblem, support: np.ndarray) -> float:
    """Lower bound on loss and shrinkage of a support, φ = a‖w‖², whatever the refit's precision.

    At weights W on the support, H ⪰ 2a there: the minimum is at most ‖HW − B‖²/(4a) below.
    """
    chosen, free = np.flatnonzero(support), np.zeros(problem.groups)
    hessian, cross = (np.ascontiguousarray(m) for m in (problem.hessian, problem.cross))
    _, own, _ = refit(hessian, cross, problem.constant, free, chosen, problem.block)
    rows = problem.rows(support)
    image = hessian[np.ix_(rows, rows)] @ own
    quadratic = float(0.5 * np.vdot(own, image) - np.vdot(cross[rows], own))
    residual = image - cross[rows]
    ridge = np.broadcast_to(problem.term.ridge, (problem.groups,))[chosen]
    below = float(np.vdot(residual, residual)) / (4 * ridge.min()) if len(chosen) else 0.0
    rounding = _ROUNDING * (abs(quadratic) + problem.constant)
    return quadratic + problem.constant - below - rounding
