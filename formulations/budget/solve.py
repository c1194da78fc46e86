"""The exact solution of a budget problem: Lagrangian bounds, then HiGHS on what they leave.

1. Every limit's Lagrangian function (:mod:`formulations.budget.lagrangian`) is minimised. Each
   maximiser on the way, made feasible by single steps, is a candidate incumbent; D(μ) is a bound.
2. A width whose own bound is no better than the incumbent goes (Lagrangian probing). If there are
   too many widths for the tables, cells of neighbouring ones are bounded first and the rest again.
3. HiGHS solves the mixed-integer program over the widths that are left, from the incumbent on
   (:mod:`formulations.budget.milp`).
"""

from __future__ import annotations

import time
from typing import NoReturn

import numpy as np

from formulations.budget.greedy import fill, scaled
from formulations.budget.lagrangian import LARGEST, LARGEST_KEPT, Lagrangian
from formulations.budget.milp import BudgetModel
from formulations.budget.problem import Allocation, BudgetProblem, Limit, OutOfReach
from formulations.errors import InputError
from formulations.solving.result import relative_gap

# Of the value: by how much a bound may be off from rounding.
_ROUNDING = 1e-9


def solve(problem: BudgetProblem, *, time_limit: float, tolerance: float) -> Allocation:
    """See :meth:`formulations.budget.problem.BudgetProblem.solve`."""
    if not time_limit > 0:
        raise InputError(f"the time limit must be positive: it is {time_limit:g}")
    if not tolerance > 0:
        raise InputError(f"the tolerance must be positive: it is {tolerance:g}")
    for limit in problem.limits:
        smallest = problem.smallest(limit)
        if smallest > limit.at_most:
            raise OutOfReach(
                f"no widths cost at most {limit.at_most}: the smallest cost is {smallest}", smallest
            )
    search = _Search(problem, tolerance, time_limit)
    status = search.run()
    if search.incumbent is None:
        _explain(problem, status)
    value = problem.value(search.incumbent)
    widths = problem.at(search.incumbent)
    if relative_gap(-value, -search.bound) <= tolerance:
        status = "optimal"
    elif status == "optimal":
        status = "numerical"
    return Allocation(
        widths=widths,
        costs=tuple(limit.cost.value(widths) for limit in problem.limits),
        value=value,
        bound=max(value, search.bound),
        status=status,
        nodes=search.nodes,
        seconds=time.perf_counter() - search.start,
    )


def _explain(problem: BudgetProblem, status: str) -> NoReturn:
    """Why there is no solution."""
    if status != "infeasible":
        raise InputError("no feasible widths were found in time: allow more seconds")
    for limit in problem.limits:
        largest = problem.largest(limit)
        if largest < limit.at_least:
            raise OutOfReach(
                f"no widths cost between {limit.at_least} and {limit.at_most}: "
                f"the nearest cost below is {largest}",
                largest,
            )
    raise InputError("no widths meet all limits and floors at once")


class _Search:
    """Incumbent and bound of one solve."""

    def __init__(self, problem: BudgetProblem, tolerance: float, time_limit: float):
        self.start, self.seconds = time.perf_counter(), time_limit
        self.problem, self.tolerance = problem, tolerance
        self.bound = sum(float(values.max()) for values in problem.values)
        self.incumbent: list[int] | None = None
        self.nodes = 0

    def run(self) -> str:
        """Lagrangian bounds, then HiGHS on the widths that may be better; how it ended."""
        try:
            keep = self._reduce()
            return "optimal" if self._closed() else self._branch_and_bound(keep)
        except KeyboardInterrupt:
            return "interrupted"
        except _Late:
            return "time_limit"

    def _reduce(self) -> list[np.ndarray]:
        """Which widths may be part of a better solution than the incumbent, a mask per class."""
        keep = [np.ones(len(widths), bool) for widths in self.problem.widths]
        for limit in self.problem.limits:
            self._offer(scaled(self.problem, limit))
            mu, finer = 0.0, True
            while finer and not self._closed():
                mu, finer = self._reduce_by(limit, keep, mu)
        return keep

    def _reduce_by(self, limit: Limit, keep: list[np.ndarray], mu: float) -> tuple[float, bool]:
        """Remove widths by one limit's bounds, from a multiplier on: the best one, whether finer
        bounds may follow.
        """
        function, cells, size = _finest(self.problem, limit, keep, LARGEST_KEPT)
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
        function, cells, finest = _finest(self.problem, limit, keep, LARGEST)
        if finest < size:
            mu = self._bound_by(function, cells, mu)
        return mu, False

    def _bound_by(self, function: Lagrangian, cells: list[np.ndarray], mu: float) -> float:
        """Minimise a Lagrangian function: the multiplier; sets bound and incumbent."""
        points = []
        for multiplier, bound, choice in function.points(self._check_clock, mu):
            points.append((bound, multiplier))
            self._offer([int(first[k]) for first, k in zip(cells, choice, strict=True)])
        bound, mu = min(points)
        # what was removed before is worth no more than the incumbent
        floor = -np.inf if self.incumbent is None else self.problem.value(self.incumbent)
        self.bound = min(self.bound, max(bound, floor))
        return mu

    def _branch_and_bound(self, keep: list[np.ndarray]) -> str:
        start = None
        if self.incumbent is not None:
            start = [int(m[:k].sum()) for m, k in zip(keep, self.incumbent, strict=True)]
        model = BudgetModel(self.problem.restricted(keep))
        choice, bound, status = model.maximise(
            start, tolerance=0.9 * self.tolerance, seconds=self._left()
        )
        self.nodes = model.nodes
        if choice is not None:
            self._offer([int(np.flatnonzero(m)[k]) for m, k in zip(keep, choice, strict=True)])
        # solutions with a width that was removed are worth no more than the incumbent
        if self.incumbent is not None:
            bound = max(bound, self.problem.value(self.incumbent))
        self.bound = min(self.bound, bound)
        return status

    def _offer(self, choice: list[int]) -> None:
        """Take a choice, made feasible and filled up, if it is better than the incumbent."""
        choice = fill(self.problem, choice)
        if choice is None:
            return
        if self.incumbent is None or self.problem.value(choice) > self.problem.value(
            self.incumbent
        ):
            self.incumbent = choice

    def _closed(self) -> bool:
        if self.incumbent is None:
            return False
        value = self.problem.value(self.incumbent)
        return relative_gap(-value, -self.bound) <= self.tolerance

    def _left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def _check_clock(self) -> None:
        if self._left() <= 0:
            raise _Late


def _finest(problem: BudgetProblem, limit: Limit, keep: list[np.ndarray], largest: int):
    """The Lagrangian function with no table above ``largest`` entries: (function, cells, size).

    Cells of ``size`` neighbouring widths, given by the position of the first, have the cost of
    their narrowest width and the value of their best: a relaxation.
    """
    size = 1
    while True:
        cells = [np.flatnonzero(mask)[::size] for mask in keep]
        widths = [w[first] for w, first in zip(problem.widths, cells, strict=True)]
        values = [
            np.maximum.reduceat(np.where(mask, v, -np.inf), first)
            for v, mask, first in zip(problem.values, keep, cells, strict=True)
        ]
        function = Lagrangian(BudgetProblem(widths, values, (limit,)), limit)
        if max(function.entries) <= largest or size > max(len(w) for w in problem.widths):
            return function, cells, size
        size *= 2


class _Late(Exception):
    """The time limit is over."""
