"""The branch and bound on a stack: at most so many groups of layers that share them.

Nodes are bounded by :class:`formulations.layer.relaxations.indicator_newton.IndicatorNewton`,
which adds up what the layers say of common indicators; supports are improved by swaps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.extraction.extract import extract
from formulations.layer.extraction.rounding import convex_below
from formulations.layer.incumbents import refit_bound
from formulations.layer.local_search import SWAPS
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.stack import Stack
from formulations.solving.deadline import Deadline, Stopped
from formulations.solving.incumbents import Incumbents
from formulations.solving.node import Node
from formulations.solving.safe_bound import unit
from formulations.solving.tree import Tree
from formulations.symbolic.catalogue import square

# rows of a layer up to which the best Δ is worth its time
SMALL = 600
_ROUNDING = 1e-12  # relative
_LEAST = 1e-3  # of indicators and shares of a price, lest they vanish


def improve(stack: Stack, support: BoolArray) -> BoolArray:
    """Swap groups of a (J,) support until no swap of those tried lowers the objective.

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


class _StackIncumbents(Incumbents):
    """Supports of a stack, improved by swaps.

    Parameters
    ----------
    stack : Stack
        With the price of a kept group.
    most : int
        Largest number of groups kept.
    pause : callable
        Called before every local search; what it raises ends the work.
    """

    def __init__(self, stack: Stack, most: int, pause: Callable[[], None]) -> None:
        super().__init__(stack.groups, most, stack.constant)
        self.stack, self.pause = stack, pause

    def value(self, support: BoolArray) -> float:
        return self.stack.objective(support) + self.stack.each * int(support.sum())

    def improve(self) -> None:
        self.pause()
        better = improve(self.stack, self.support)
        self.take(better, self.value(better))

    def lower_bound(self, support: BoolArray) -> float:
        return support_bound(self.stack, support) + self.stack.each * int(support.sum())


def support_bound(stack: Stack, support: BoolArray) -> float:
    """Lower bound on the objective of a support (J,), without prices, whatever the refits' error.

    It bounds those of all supports within it, too: more groups are never worse.
    """
    parts = [refit_bound(convex_below(problem), support) for problem in stack.problems]
    # the sum itself rounds
    return sum(parts) - unit(len(parts)) * sum(abs(part) for part in parts)


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

    support: BoolArray
    bound: float
    nodes: int
    seconds: float


def search(
    stack: Stack,
    most: int,
    start: BoolArray,
    *,
    gap: float,
    nodes: int,
    seconds: float | Deadline,
    small: int = SMALL,
) -> Found:
    """Search for the best at most ``most`` groups.

    Parameters
    ----------
    stack : Stack
        With the price of a kept group.
    most : int
    start : (J,) bool array
        A support to start from.
    gap : float
        Relative gap at which to stop, prices included.
    nodes : int
        Most open nodes, at least 1.
    seconds : float or Deadline
        Time limit; looked at from the root on.
    small : int
        Rows of a layer up to which the best extraction is worth its time.
    """
    deadline = Deadline.of(seconds)
    incumbents = _StackIncumbents(stack, most, deadline.check)
    with deadline.held():
        incumbents.offer(start)
        inner, root = _extract(stack, most, gap, incumbents.objective, small)
    tree = Tree(incumbents, IndicatorNewton(inner, most, 0.1 * gap), deadline, gap, nodes)
    with suppress(Stopped):  # Ctrl-C ends all work: no half-done search passes for a whole one
        tree.search(root)
    bound = min(tree.bound, incumbents.objective)
    return Found(incumbents.support, bound, tree.nodes, deadline.elapsed)


def _extract(
    stack: Stack, most: int, gap: float, objective: float, largest: int
) -> tuple[Stack, Node | None]:
    """The same stack after extraction, of every small layer the one best at its part of the prices.

    Of none where the first extraction's root proves an objective within the gap. With it the
    root that was solved on the way, to start from.

    At the minimiser of the relaxation every layer would pay −∂f_l/∂y_j for a group, and all of them
    together the price, with the multiplier of the limit. Divided like this, every layer's own
    relaxation has the same minimiser, and its bound is raised for itself.
    """
    first = [extract(problem, "schur").problem for problem in stack.problems]
    inner = replace(stack, problems=tuple(first))
    small = [len(problem.gram) <= largest for problem in first]
    if not any(small):
        return inner, None
    engine = IndicatorNewton(inner, most, 0.1 * gap)
    root = Node.root(stack.groups)
    engine.evaluate([root], np.inf)
    if objective - root.bound <= 0.99 * gap * objective:
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


def _priced(problem: LayerProblem, price: FloatArray) -> LayerProblem:
    """A problem with other prices, (J,); its data are not checked again."""
    term = square(problem.term.ridge, price)
    return problem.transformed(problem.gram, problem.cross, term)
