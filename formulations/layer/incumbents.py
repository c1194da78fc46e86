"""Incumbents of the branch and bound: supports refitted, and improved by local search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.layer import local_search
from formulations.layer.extraction.rounding import convex_below
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.solving import safe_bound
from formulations.solving.incumbents import Incumbents
from formulations.terms.partition import Partition


class RefitIncumbents(Incumbents):
    """Supports of a layer problem, refitted; a new best one is improved by local search.

    Parameters
    ----------
    problem : LayerProblem
        As stated, without extraction.
    most : int
        Largest number of groups kept.
    pause : callable
        Called now and then; what it raises ends the work.
    """

    def __init__(self, problem: LayerProblem, most: int, pause: Callable[[], None]) -> None:
        super().__init__(problem.groups, most, problem.constant)
        self.problem, self.pause = problem, pause
        # what bounds a support: convex for certain
        self._below = convex_below(problem)
        # weights of the incumbent, and of supports that are better and may become it
        self._weights = np.zeros_like(problem.cross)
        self._better: dict[bytes, FloatArray] = {}
        if problem.plain:
            self._data = (
                np.ascontiguousarray(problem.hessian),
                np.ascontiguousarray(problem.cross),
                problem.constant,
                problem.price,
            )

    def begin(self, support: BoolArray) -> None:
        """Take a support as it is, if it is better than none."""
        if support.sum() <= self.most and (value := self.value(support)) < self.objective:
            self.take(support, value)

    def improve(self) -> None:
        """Local search from the best support: single flips and, for φ = a‖w‖², swaps."""
        fell = True
        while fell:
            self.pause()
            trial = self.support.copy()
            if self.problem.plain:
                block = self.problem.block
                value, fell = local_search.improve(*self._data, trial, self.most, block)
            else:
                value, fell = self._flip(trial)
            if fell:
                self.take(trial, value)

    def solution(self) -> tuple[FloatArray, float]:
        """Best weights on the support, (D, O), and the objective that they have."""
        if not self.problem.plain:
            return self._weights, self.objective
        weights = np.zeros_like(self.problem.cross)
        _, own, _ = local_search.refit(
            *self._data, np.flatnonzero(self.support), self.problem.block
        )
        weights[self.problem.rows(self.support)] = own
        return weights, self.problem.objective(weights, self.support)

    def lower_bound(self, support: BoolArray) -> float:
        """Lower bound on the objective of a support, whatever the precision of its refit."""
        paid = float(self.problem.price[support].sum())
        if self.problem.plain:
            return refit_bound(self._below, support) + paid
        return refit_bound_of_any(self._below, support, self.pause) + paid

    def value(self, support: BoolArray) -> float:
        """The objective of a support, refitted."""
        if self.problem.plain:
            return local_search.refit(*self._data, np.flatnonzero(support), self.problem.block)[0]
        weights = refit(self.problem, support, self.pause)
        value = self.problem.objective(weights, support)
        if value < self.objective:
            self._better[support.tobytes()] = weights
        return value

    def take(self, support: BoolArray, value: float) -> None:
        """See :class:`formulations.solving.incumbents.Incumbents`."""
        super().take(support, value)
        if not self.problem.plain:
            self._weights = self._better[support.tobytes()]
            self._better.clear()

    def _flip(self, support: BoolArray) -> tuple[float, bool]:
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


def refit_bound(problem: LayerProblem, support: BoolArray) -> float:
    """Lower bound on loss and shrinkage of a support, φ = a‖w‖², whatever the refit's precision."""
    if not support.any():
        return problem.constant
    chosen, free = np.flatnonzero(support), np.zeros(problem.groups)
    rows = problem.rows(support)
    hessian, cross = (np.ascontiguousarray(m) for m in (problem.hessian, problem.cross))
    _, own, _ = local_search.refit(hessian, cross, problem.constant, free, chosen, problem.block)
    delta = np.zeros((1, len(chosen), problem.block, problem.block))
    fenchel = safe_bound.fenchel(
        *(hessian[np.ix_(rows, rows)][None], cross[rows][None], problem.constant, own[None]),
        *(delta, np.zeros((1, len(chosen)), bool)),
        least=2 * float(np.min(problem.ridge[chosen])),
    )
    return float(fenchel.value[0] - fenchel.margin[0])


def refit_bound_of_any(
    problem: LayerProblem, support: BoolArray, pause: Callable[[], None] = lambda: None
) -> float:
    """As :func:`refit_bound`, for any φ: Fenchel's bound of the kept groups at the refit."""
    if not support.any():
        return problem.constant
    rows, term = problem.rows(support), problem.term
    weights = refit(problem, support, pause)[rows]
    gram = problem.curvature[np.ix_(rows, rows)]
    point = safe_bound.dual_point(gram, problem.cross[rows], problem.constant, weights)
    sizes = Partition(np.full(int(support.sum()), problem.block * problem.outputs))
    term = term.take(np.ones(problem.groups, bool)).take(support)
    conjugate = safe_bound.shrinkage_conjugate(term, point, sizes)
    rounding = safe_bound.unit(len(conjugate)) * float(np.abs(conjugate).sum())
    return point.value - float(conjugate.sum()) - point.margin - rounding
