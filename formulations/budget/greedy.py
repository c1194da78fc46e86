"""Feasible choices of a budget problem by single steps: the incumbents of its exact solution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.budget.problem import BudgetProblem, Limit


def fill(problem: BudgetProblem, choice: Sequence[int]) -> list[int] | None:
    """A feasible choice near a given one, by single steps; None if the steps lead to none.

    While a limit is broken, the class goes one width down that loses the least value per cost;
    then, as long as one fits, the class goes one up that gains the most per cost.
    """
    walk = _Walk(problem, choice)
    while (walk.over > 0).any():
        allowed = walk.downwards()
        if not allowed.any():
            return None
        loss, change, saved = walk.look(-1, allowed)
        walk.go(_most(-loss, saved, allowed), -1, change)
    while True:
        short = not problem.feasible(walk.widths)
        gain, change, spent = walk.look(1, walk.choice < walk.last)
        fits = (walk.over[:, None] + change <= 0).all(axis=0) & (walk.choice < walk.last)
        fits &= (gain > 0) | short
        if not fits.any():
            return None if short else walk.choice.tolist()
        walk.go(_most(gain, spent, fits), 1, change)


def scaled(problem: BudgetProblem, limit: Limit) -> list[int]:
    """Choose the same share of every class, as large as the limit allows."""
    last = np.array([len(widths) - 1 for widths in problem.widths])
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        cost = limit.cost.value(problem.at(np.floor(middle * last).astype(int)))
        low, high = (middle, high) if cost <= limit.at_most else (low, middle)
    return np.floor(low * last).astype(int).tolist()


def _most(gain: FloatArray, spent: FloatArray, allowed: BoolArray) -> int:
    """The allowed class that gains most per cost; what costs nothing gains without end."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rate = np.where(gain == 0, 0.0, gain / spent)
    places = np.flatnonzero(allowed)
    return int(places[rate[places].argmax()])


class _Walk:
    """A choice with its costs, changed by steps."""

    def __init__(self, problem: BudgetProblem, choice: Sequence[int]) -> None:
        self.problem = problem
        self.choice = np.array(choice)
        self.last = np.array([len(widths) - 1 for widths in problem.widths])
        self.widths = problem.at(choice)
        polynomials = [limit.cost.polynomial() for limit in problem.limits]
        # shapes also of no limits at all
        shape = len(polynomials), problem.classes
        self.linear = np.reshape([linear for _, linear, _ in polynomials], shape).astype(int)
        products = [q + q.T for _, _, q in polynomials]
        self.products = np.reshape(products, (*shape, problem.classes)).astype(int)
        self.most = np.array([max(1, limit.at_most) for limit in problem.limits])
        self.over = np.array(
            [limit.cost.value(self.widths) - limit.at_most for limit in problem.limits]
        )

    def downwards(self) -> BoolArray:
        """Classes that can take the next smaller width, (C,)."""
        step = self._moved(-1) - self.widths
        room = self.problem.floors @ self.widths - self.problem.floor_sizes
        return (self.choice > 0) & (self.problem.floors * step + room[:, None] >= 0).all(axis=0)

    def look(self, direction: int, allowed: BoolArray) -> tuple[FloatArray, IntArray, FloatArray]:
        """What a step of every class would do: |value| (C,), costs (limits, C), |cost| in shares.

        Where no step is allowed the numbers mean nothing.
        """
        step = np.where(allowed, self._moved(direction) - self.widths, 0)
        # q(n + s·e_c) − q(n) = s·(q_c + Σ_d Q_cd n_d) + s²·Q_cc
        squares = np.diagonal(self.products, axis1=1, axis2=2) // 2
        change = step * (self.linear + self.products @ self.widths) + step**2 * squares
        value = np.array(
            [
                direction * (values[k + direction] - values[k]) if ok else 0.0
                for values, k, ok in zip(self.problem.values, self.choice, allowed, strict=True)
            ]
        )
        share = np.abs(change / self.most[:, None]).sum(axis=0)
        return value, change, share

    def go(self, c: int, direction: int, change: IntArray) -> None:
        """Take the step of class c."""
        self.choice[c] += direction
        self.widths[c] = self.problem.widths[c][self.choice[c]]
        self.over = self.over + change[:, c]

    def _moved(self, direction: int) -> IntArray:
        position = np.clip(self.choice + direction, 0, self.last)
        return np.array([w[k] for w, k in zip(self.problem.widths, position, strict=True)])
