"""The exact solution of a budget problem: Lagrangian bounds, then HiGHS on what they leave.

1. Every limit's Lagrangian function (:mod:`formulations.budget.lagrangian`) is minimised. Each
   maximiser on the way, made feasible by single steps, is a candidate incumbent; D(μ) is a bound.
2. A width whose own bound is no better than the incumbent goes (Lagrangian probing). If there are
   too many widths for the tables, cells of neighbouring ones are bounded first and the rest again.
3. HiGHS solves the mixed-integer program over the widths that are left, from the incumbent on
   (:mod:`formulations.budget.milp`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NoReturn

import numpy as np

from formulations.arrays import BoolArray, IntArray
from formulations.budget.extremes import largest, smallest
from formulations.budget.greedy import fill, scaled
from formulations.budget.lagrangian import Lagrangian
from formulations.budget.milp import BudgetModel
from formulations.budget.problem import Allocation, BudgetProblem, Limit, OutOfReach
from formulations.errors import InputError
from formulations.solving.deadline import Deadline, Stopped, attempt
from formulations.solving.result import Status, check_positive, judge, relative_gap

# Entries of a table (8 bytes each): above the first there is no elimination; above the second no
# table is held as a whole, and only the bound of all solutions is to be had.
LARGEST = 200_000_000
LARGEST_KEPT = 40_000_000
# Of the value: by how much a bound may be off from rounding.
_ROUNDING = 1e-9


def solve(
    problem: BudgetProblem,
    *,
    gap: float = 1e-4,
    seconds: float | Deadline = float("inf"),
    tables: tuple[int, int] = (LARGEST, LARGEST_KEPT),
) -> Allocation:
    """Solve a budget problem exactly.

    Parameters
    ----------
    problem : BudgetProblem
    gap : float
        Relative gap at which to stop.
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its
        true bound.
    tables : (int, int)
        Entries of the largest table of the elimination, and of the largest that is held as a whole.

    Raises
    ------
    OutOfReach
        If no widths meet a limit: the message names the least cost, or the nearest one below
        the range.
    InputError
        If limits and floors exclude each other, or time ended before widths were found; gap or
        time limit not positive.
    """
    deadline = Deadline.of(seconds)
    check_positive("gap", gap)
    for limit in problem.limits:
        least = smallest(problem, limit)
        if least > limit.at_most:
            raise OutOfReach(
                f"no widths cost at most {limit.at_most}: the smallest cost is {least}", least
            )
    # values of any scale become numbers up to 1; a power of two changes none of their digits
    scale = int(np.frexp(max(np.abs(values).max() for values in problem.values))[1])
    scaled_values = [np.ldexp(values, -scale) for values in problem.values]
    work = _BudgetSolve(replace(problem, values=scaled_values), gap, deadline, tables)
    status = attempt(work.run)
    if work.incumbent is None:
        _explain(problem, status)
    value, bound = work.problem.value(work.incumbent), work.bound
    widths = problem.at(work.incumbent)
    return Allocation(
        widths=widths,
        costs=tuple(limit.cost.value(widths) for limit in problem.limits),
        value=problem.value(work.incumbent),
        bound=math.ldexp(max(value, bound), scale),
        status=judge(status, closed=relative_gap(-value, -bound) <= gap),
        nodes=work.nodes,
        seconds=deadline.elapsed,
    )


def _explain(problem: BudgetProblem, status: Status) -> NoReturn:
    """Why there is no solution."""
    if status != Status.INFEASIBLE:
        raise InputError("no feasible widths were found in time: allow more seconds")
    for limit in problem.limits:
        most = largest(problem, limit)
        if most < limit.at_least:
            raise OutOfReach(
                f"no widths cost between {limit.at_least} and {limit.at_most}: "
                f"the nearest cost below is {most}",
                most,
            )
    raise InputError("no widths meet all limits and floors at once")


class _BudgetSolve:
    """Incumbent and bound of one solve."""

    def __init__(
        self, problem: BudgetProblem, gap: float, deadline: Deadline, tables: tuple[int, int]
    ) -> None:
        self.problem, self.gap, self.deadline = problem, gap, deadline
        self.largest, self.largest_kept = tables
        self.bound = sum(float(values.max()) for values in problem.values)
        self.incumbent: list[int] | None = None
        self.nodes = 0

    def run(self) -> None:
        """Lagrangian bounds, then HiGHS on the widths that may be better.

        Raises
        ------
        Stopped
            If HiGHS ended otherwise than at an optimum, or the time is over.
        """
        keep = self._reduce()
        if not self._closed():
            self._branch_and_bound(keep)

    def _reduce(self) -> list[BoolArray]:
        """Which widths may be part of a better solution than the incumbent, a mask per class."""
        keep = [np.ones(len(widths), bool) for widths in self.problem.widths]
        for limit in self.problem.limits:
            self._offer(scaled(self.problem, limit))
            mu, finer = 0.0, True
            while finer and not self._closed():
                mu, finer = self._reduce_by(limit, keep, mu)
        return keep

    def _reduce_by(self, limit: Limit, keep: list[BoolArray], mu: float) -> tuple[float, bool]:
        """Remove widths by one limit's bounds, from a multiplier on.

        Returns the best multiplier, and whether finer bounds may follow.
        """
        function, cells, size = _finest(self.problem, limit, keep, self.largest_kept)
        mu = self._bound_by(function, cells, mu)
        if self.incumbent is None or self._closed():
            return mu, False
        value = self.problem.value(self.incumbent)
        least = value - _ROUNDING * max(abs(value), abs(self.bound))
        before = sum(int(mask.sum()) for mask in keep)
        for mask, first, bounds in zip(keep, cells, function.single_bounds(mu), strict=True):
            cell = np.searchsorted(first, np.arange(len(mask)), side="right") - 1
            mask &= (bounds >= least)[cell]
        for mask, k in zip(keep, self.incumbent, strict=True):
            mask[k] = True
        if size == 1 or sum(int(mask.sum()) for mask in keep) < before:
            return mu, size > 1
        function, cells, finest = _finest(self.problem, limit, keep, self.largest)
        if finest < size:
            mu = self._bound_by(function, cells, mu)
        return mu, False

    def _bound_by(self, function: Lagrangian, cells: list[IntArray], mu: float) -> float:
        """Minimise a Lagrangian function: the multiplier; sets bound and incumbent."""
        points = []
        for multiplier, bound, choice in function.points(self.deadline.check, mu):
            points.append((bound, multiplier))
            self._offer([int(first[k]) for first, k in zip(cells, choice, strict=True)])
        bound, mu = min(points)
        # what was removed before is worth no more than the incumbent
        floor = -np.inf if self.incumbent is None else self.problem.value(self.incumbent)
        self.bound = min(self.bound, max(bound, floor))
        return mu

    def _branch_and_bound(self, keep: list[BoolArray]) -> None:
        start = None
        if self.incumbent is not None:
            start = [int(m[:k].sum()) for m, k in zip(keep, self.incumbent, strict=True)]
        model = BudgetModel(self.problem.restricted(keep))
        choice, bound, status = model.maximise(start, gap=0.9 * self.gap, deadline=self.deadline)
        self.nodes = model.nodes
        if choice is not None:
            self._offer([int(np.flatnonzero(m)[k]) for m, k in zip(keep, choice, strict=True)])
        # solutions with a width that was removed are worth no more than the incumbent
        if self.incumbent is not None:
            bound = max(bound, self.problem.value(self.incumbent))
        self.bound = min(self.bound, bound)
        if status != Status.OPTIMAL:
            raise Stopped(status)

    def _offer(self, choice: list[int]) -> None:
        """Take a choice, made feasible and filled up, if it is better than the incumbent."""
        filled = fill(self.problem, choice)
        if filled is None:
            return
        best = self.incumbent
        if best is None or self.problem.value(filled) > self.problem.value(best):
            self.incumbent = filled

    def _closed(self) -> bool:
        if self.incumbent is None:
            return False
        value = self.problem.value(self.incumbent)
        return relative_gap(-value, -self.bound) <= self.gap


def _finest(
    problem: BudgetProblem, limit: Limit, keep: list[BoolArray], entries: int
) -> tuple[Lagrangian, list[IntArray], int]:
    """The Lagrangian function with no table above so many entries: (function, cells, size).

    Cells of ``size`` neighbouring widths, given by the position of the first, have the cost of
    their narrowest width and the value of their best: a relaxation.
    """
    size = 1
    while True:
        cells: list[IntArray] = [np.flatnonzero(mask)[::size] for mask in keep]
        widths = [w[first] for w, first in zip(problem.widths, cells, strict=True)]
        values = [
            np.maximum.reduceat(np.where(mask, v, -np.inf), first)
            for v, mask, first in zip(problem.values, keep, cells, strict=True)
        ]
        function = Lagrangian(BudgetProblem(widths, values, (limit,)), limit)
        if max(function.entries) <= entries or size > max(len(w) for w in problem.widths):
            return function, cells, size
        size *= 2
