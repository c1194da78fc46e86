"""The branch and bound on a stack: at most so many groups of layers that share them.

Nodes are bounded by :class:`formulations.layer.relaxations.indicator_newton.IndicatorNewton`,
which adds up what the layers say of common indicators; supports are improved by swaps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from formulations.layer.extraction.extract import extract
from formulations.layer.incumbents import refit_bound
from formulations.layer.local_search import SWAPS
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.stack import Stack
from formulations.solving.deadline import Clock, Stopped
from formulations.solving.node import Node
from formulations.solving.tree import Tree
from formulations.symbolic.catalogue import square

# rows of a layer up to which the best Δ is worth its time
_SMALL = 600
_ROUNDING = 1e-12  # relative
_LEAST = 1e-3  # of indicators and shares of a price, lest they vanish


def improve(stack: Stack, support: np.ndarray) -> np.ndarray:
    """Swap groups until no swap of those tried lowers the objective; (J,) bool.

    Dropped may be those that cost least to drop.
    """
    value, change = stack.changes(support)
    while True:
        lowest, better = value - _ROUNDING * (abs(value) + stack.constant), None
        cheapest = [group for group in np.argsort(change, kind="stable") if support[group]]
        for dropped in cheapest[:SWAPS]:
            trial = support.copy()
            trial[dropped] = False
            without, added = stack.changes(trial)
            group = int(np.where(support, np.inf, added).argmin())
            if not support[group] and without + added[group] < lowest:
                trial[group] = True
                lowest, better = without + added[group], trial
        if better is None:
            return support
        found, change = stack.changes(better)
        # a promise counts only if the refit keeps it: rounding must not make the search circular
        if found >= value - _ROUNDING * (abs(value) + stack.constant):
            return support
        value, support = found, better


class _Supports:
    """The best support met so far: :class:`formulations.solving.tree.Supports`."""

    def __init__(self, stack: Stack, most: int, pause: Callable[[], None]):
        self.stack, self.most, self.pause = stack, most, pause
        self.support, self.objective = np.zeros(stack.groups, bool), stack.constant
        self._seen: set[bytes] = {self.support.tobytes()}

    def value(self, support: np.ndarray) -> float:
        return self.stack.objective(support) + self.stack.each * int(support.sum())

    def offer(self, support: np.ndarray) -> None:
        if support.tobytes() in self._seen or support.sum() > self.most:
            return
        self._seen.add(support.tobytes())
        if self.value(support) >= self.objective:
            return
        self.pause()
        better = improve(self.stack, support)
        self.support, self.objective = better, self.value(better)
        self._seen.add(better.tobytes())

    def lower_bound(self, support: np.ndarray) -> float:
        least = sum(refit_bound(problem, support) for problem in self.stack.problems)
        return least + self.stack.each * int(support.sum())


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to.

    Attributes
    ----------
    support : (J,) bool array
    bound : float
        No choice of at most so many groups has an objective, with its price, below it; −∞ where
        not even the root was solved.
    nodes : int
    seconds : float
    """

    support: np.ndarray
    bound: float
    nodes: int
    seconds: float


def search(
    stack: Stack,
    most: int,
    start: np.ndarray,
    *,
    tolerance: float,
    nodes: int,
    time_limit: float,
) -> Found:
    """Search for the best at most ``most`` groups.

    Parameters
    ----------
    stack : Stack
        With the price of a kept group.
    most : int
    start : (J,) bool array
        A support to start from.
    tolerance : float
        Relative gap at which to stop, prices included.
    nodes : int
        Most open nodes, at least 1.
    time_limit : float
        Seconds; looked at from the root on.
    """
    clock = Clock(float("inf"))
    supports = _Supports(stack, most, clock.check)
    supports.offer(start)
    inner, root = _extract(stack, most, tolerance, supports.objective)
    tree = Tree(supports, IndicatorNewton(inner, most, 0.1 * tolerance), clock, tolerance, nodes)
    clock.limit = time_limit
    with suppress(Stopped):  # Ctrl-C ends all work: no half-done search passes for a whole one
        tree.search(root)
    bound = min(tree.bound, supports.objective)
    return Found(supports.support, bound, tree.nodes, clock.elapsed)


def _extract(
    stack: Stack, most: int, tolerance: float, objective: float
) -> tuple[Stack, Node | None]:
    """The same stack after extraction, of every small layer the one best at its part of the prices.

    Of none where the first extraction's root proves an objective within the tolerance. With it the
    root that was solved on the way, to start from.

    At the minimiser of the relaxation every layer would pay −∂f_l/∂y_j for a group, and all of them
    together the price, with the multiplier of the limit. Divided like this, every layer's own
    relaxation has the same minimiser, and its bound is raised for itself.
    """
    first = [extract(problem, "schur").problem for problem in stack.problems]
    inner = replace(stack, problems=tuple(first))
    small = [len(problem.gram) <= _SMALL for problem in first]
    if not any(small):
        return inner, None
    engine = IndicatorNewton(inner, most, 0.1 * tolerance)
    root = Node.root(stack.groups)
    engine.evaluate([root], np.inf)
    if objective - root.bound <= 0.99 * tolerance * objective:
        return inner, root
    paid = engine.paid(np.clip(root.indicator, _LEAST, 1.0))
    paid = np.maximum(paid, _LEAST * paid.sum(axis=0) + np.finfo(float).tiny)  # if all are zero
    prices = (stack.each + root.multiplier) * paid / paid.sum(axis=0)
    second = [
        extract(_priced(problem, price), "ascent").problem if fits else problem
        for problem, price, fits in zip(first, prices, small, strict=True)
    ]
    near = replace(Node.root(stack.groups), indicator=root.indicator, multiplier=root.multiplier)
    return replace(stack, problems=tuple(second)), near


def _priced(problem: LayerProblem, price: np.ndarray) -> LayerProblem:
    """A problem with other prices, (J,); its data are not checked again."""
    term = square(problem.term.ridge, price)
    return problem.transformed(problem.gram, problem.cross, term)
