"""Incumbents of the branch and bound: supports refitted, and improved by local search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.block_descent import FREE, improve, refit
from formulations.layer import LayerProblem


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
            price = np.broadcast_to(problem.term.price, (problem.groups,)).astype(float)
            self._data = (
                np.ascontiguousarray(problem.hessian),
                np.ascontiguousarray(problem.cross),
                problem.constant,
                price,
            )

    def begin(self, support: np.ndarray) -> None:
        """Take a support as it is, if it is better than none."""
        if support.sum() <= self.most and (value := self.value(support)) < self.objective:
            self.objective, self.support = value, support

    def offer(self, support: np.ndarray) -> None:
        """Refit a support; if it is the best yet, improve it."""
        key = support.tobytes()
        if key in self._seen or support.sum() > self.most:
            return
        self._seen.add(key)
        if self.value(support) < self.objective:
            self.search(support)

    def search(self, support: np.ndarray) -> None:
        """Local search from a support: single flips and, for φ = a‖w‖², swaps."""
        self.pause()
        if support.sum() > self.most:
            return
        if self.problem.plain:
            trial = support.copy()
            value = improve(*self._data, self._free, trial, self.most, self.problem.block)
        else:
            value, trial = self._flip(support)
        if value < self.objective:
            self.objective, self.support = value, trial

    def weights(self) -> np.ndarray:
        """Best weights on the support, (D, O)."""
        if not self.problem.plain:
            return self.problem.refit(self.support)
        weights = np.zeros_like(self.problem.cross)
        _, own, _ = refit(*self._data, np.flatnonzero(self.support), self.problem.block)
        weights[self.problem.rows(self.support)] = own
        return weights

    def value(self, support: np.ndarray) -> float:
        """The objective of a support, refitted."""
        if self.problem.plain:
            return refit(*self._data, np.flatnonzero(support), self.problem.block)[0]
        return self.problem.objective(self.problem.refit(support, self.pause), support)

    def _flip(self, support: np.ndarray) -> tuple[float, np.ndarray]:
        value = self.value(support)
        while True:
            best = support
            for group in range(len(support)):
                trial = support.copy()
                trial[group] = not trial[group]
                if trial.sum() <= self.most and (ahead := self.value(trial)) < value:
                    value, best = ahead, trial
            if best is support:
                return value, support
            support = best
