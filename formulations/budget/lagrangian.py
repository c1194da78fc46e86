"""Lagrangian bounds of a budget problem, by max-plus variable elimination.

Moving one limit of :class:`formulations.budget.problem.BudgetProblem` into the objective and
dropping the others leaves, for a multiplier μ ≥ 0,

    D(μ) = μ·at_most + max_n Σ_c v_c(n_c) − μ·(q₀ + Σ_c q_c n_c + Σ_{c≤d} Q_cd n_c n_d)

an upper bound on the problem's optimum (Geoffrion 1974). Only classes of neighbouring layers share
a product, so the maximum is found exactly by eliminating one class after the other: the table of
the terms that hold class c is maximised over n_c, and what is left is a term in its neighbours
(nonserial dynamic programming, Bertele & Brioschi 1972). For a residual network the neighbours are
the stage and the other convolutions of the block, and the tables are small. A backward pass gives
the maximum for every single width of every class: a bound on all solutions that have that width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from formulations.arrays import FloatArray
from formulations.budget.problem import BudgetProblem, Limit

_CHUNK = 2_000_000
_KINK = 1e-10
_FIRST_STEP = 1.01


# Classes and the term's values over them.
_Summand = tuple[tuple[int, ...], FloatArray]


@dataclass(frozen=True)
class _Step:
    """One elimination: the classes of its table, and the step that takes its result."""

    scope: tuple[int, ...]  # the eliminated class first
    parent: int | None


class Lagrangian:
    """The Lagrangian function of one limit.

    Parameters
    ----------
    problem : BudgetProblem
    limit : Limit
        One of the problem's.
    """

    def __init__(self, problem: BudgetProblem, limit: Limit) -> None:
        self.problem, self.limit = problem, limit
        self.constant, self.linear, self.quadratic = limit.cost.polynomial()
        pairs = np.argwhere(np.triu(self.quadratic, 1))
        self.pairs = [(int(c), int(d)) for c, d in pairs]
        sizes = [len(widths) for widths in problem.widths]
        self.steps = _elimination_order(sizes, self.pairs)
        self.entries = [math.prod(sizes[c] for c in step.scope) for step in self.steps]

    def points(
        self, pause: Callable[[], None], start: float = 0.0
    ) -> Iterator[tuple[float, float, list[int]]]:
        """Minimise D, until no μ is better.

        D is convex and piecewise linear; the next μ is where the lines of the two neighbouring
        maximisers cross, one of them within the limit and one beyond.

        Parameters
        ----------
        pause : callable
            Called before every step; what it raises ends the work.
        start : float
            A μ; near the minimiser it saves steps.

        Yields
        ------
        (float, float, list of int)
            μ, D(μ) and a maximising choice.
        """
        problem = self.problem
        choice = [int(values.argmax()) for values in problem.values]
        beyond, within = self._line(choice), self._line([0] * problem.classes)
        yield 0.0, beyond[0], choice
        if beyond[1] <= 0 or within[1] > 0:
            return  # the limit does not bind, or nothing meets it
        low, high, factor = 0.0, math.inf, _FIRST_STEP
        while True:
            pause()
            mu = crossing = (beyond[0] - within[0]) / (beyond[1] - within[1])
            if start and low == 0 and math.isinf(high):
                mu = start
            elif start and (low == 0 or math.isinf(high)):
                # only one side is known well: step to the other, further each time
                mu = max(crossing, high / factor) if low == 0 else min(crossing, low * factor)
                factor *= factor
            bound, choice = self.maximise(mu)
            yield mu, bound, choice
            line = self._line(choice)
            expected = within[0] - mu * within[1]
            met = bound <= expected + _KINK * abs(expected) or line in (beyond, within)
            if mu == crossing and met:
                return
            if line[1] > 0:
                beyond, low = line, mu
            else:
                within, high = line, mu

    def _line(self, choice: list[int]) -> tuple[float, float]:
        """(value, cost − at_most): D(μ) is at least value − μ·excess."""
        excess = self.limit.cost.value(self.problem.at(choice)) - self.limit.at_most
        return self.problem.value(choice), float(excess)

    def maximise(self, mu: float) -> tuple[float, list[int]]:
        """Evaluate D(μ), with a maximising choice."""
        terms, total = self._eliminate(mu)
        choice = [0] * self.problem.classes
        for step, summands in zip(reversed(self.steps), reversed(terms), strict=True):
            first = step.scope[0]
            column = np.zeros(len(self.problem.widths[first]))
            for scope, term in summands:
                column += term[tuple(slice(None) if c == first else choice[c] for c in scope)]
            choice[first] = int(column.argmax())
        return total, choice

    def single_bounds(self, mu: float) -> list[FloatArray]:
        """Bound all solutions with a given width: an array like ``widths`` for every class.

        From the root down: every table plus the best that the classes outside it can do.
        """
        terms, total = self._eliminate(mu)
        bounds = [np.zeros(0)] * len(terms)
        best: dict[int, FloatArray] = {}
        for position in range(len(self.steps) - 1, -1, -1):
            step = self.steps[position]
            table = self._table(step, terms[position], slice(None))
            outside = best.pop(position, total) - table.max(axis=0)
            table += outside
            bounds[step.scope[0]] = table.max(axis=tuple(range(1, table.ndim)))
            for child, other in enumerate(self.steps):
                if other.parent == position:
                    dropped = tuple(i for i, c in enumerate(step.scope) if c not in other.scope)
                    shared = [c for c in step.scope if c in other.scope]
                    best[child] = _aligned(table.max(axis=dropped), shared, other.scope[1:])
        return bounds

    def _eliminate(self, mu: float) -> tuple[list[list[_Summand]], float]:
        """Summands of every step's table, results of earlier ones included; and D(μ)."""
        terms = self._terms(mu)
        total = mu * (self.limit.at_most - self.constant)
        for step, entries, summands in zip(self.steps, self.entries, terms, strict=True):
            count = len(self.problem.widths[step.scope[0]])
            rows = max(1, _CHUNK * count // entries)
            result = self._table(step, summands, slice(0, rows)).max(axis=0)
            for start in range(rows, count, rows):
                part = self._table(step, summands, slice(start, start + rows))
                np.maximum(result, part.max(axis=0), out=result)
            if step.parent is None:
                total += float(result)
            else:
                terms[step.parent].append((step.scope[1:], result))
        return terms, total

    def _table(self, step: _Step, summands: list[_Summand], rows: slice) -> FloatArray:
        """Sum of the terms over the step's classes, for some of the first one's widths."""
        shape = [len(self.problem.widths[c]) for c in step.scope]
        table = np.zeros((len(range(*rows.indices(shape[0]))), *shape[1:]))
        for scope, term in summands:
            aligned = _aligned(term, scope, step.scope)
            table += aligned[rows] if aligned.shape[0] > 1 else aligned
        return table

    def _terms(self, mu: float) -> list[list[_Summand]]:
        """Terms of the maximisation, each with the first step whose class is in it."""
        widths = self.problem.widths
        position = {step.scope[0]: i for i, step in enumerate(self.steps)}
        terms: list[list[_Summand]] = [[] for _ in self.steps]
        for c, (width, value) in enumerate(zip(widths, self.problem.values, strict=True)):
            own = width * (self.linear[c] + self.quadratic[c, c] * width)
            terms[position[c]].append(((c,), value - mu * own))
        for c, d in self.pairs:
            product = -mu * self.quadratic[c, d] * np.multiply.outer(widths[c], widths[d])
            terms[min(position[c], position[d])].append(((c, d), product))
        return terms


def _elimination_order(sizes: list[int], pairs: list[tuple[int, int]]) -> list[_Step]:
    """Eliminate the class with the smallest table next."""
    neighbours: dict[int, set[int]] = {c: set() for c in range(len(sizes))}
    for c, d in pairs:
        neighbours[c].add(d)
        neighbours[d].add(c)
    scopes = []
    while neighbours:
        c = min(neighbours, key=lambda c: math.prod(sizes[d] for d in (c, *neighbours[c])))
        around = neighbours.pop(c)
        scopes.append((c, *sorted(around)))
        for d in around:
            neighbours[d] |= around
            neighbours[d] -= {c, d}
    position = {scope[0]: i for i, scope in enumerate(scopes)}
    return [_Step(s, min((position[d] for d in s[1:]), default=None)) for s in scopes]


def _aligned(table: FloatArray, scope: Sequence[int], target: Sequence[int]) -> FloatArray:
    """The table with its axes in the order of ``target``, length 1 for the classes it lacks."""
    order = sorted(range(len(scope)), key=lambda i: target.index(scope[i]))
    return table.transpose(order)[tuple(slice(None) if c in scope else None for c in target)]
