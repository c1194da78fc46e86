"""The best groups of a given number: backward elimination, local search, and a proof.

For φ = a‖w‖² the objective of a support S is a Schur complement of the Hessian H = G + 2a. Without
group j it rises by exactly ½⟨W_j, ((H_SS⁻¹)_jj)⁻¹ W_j⟩, W the best weights on S (the formula of
Optimal Brain Surgeon, Hassibi & Stork 1993, for a group): eliminating one group after another, with
a rank-b update of inverse and weights each time, traces the error over all numbers of groups. Where
several layers read the groups (:mod:`formulations.layer.stack`) the rises of all layers add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.solvers.stack_search import improve, search, support_bound
from formulations.layer.stack import Stack
from formulations.numerics.block_diagonal import diagonal_blocks

# rows of a layer of whose tree the open nodes are limited as told; and from which on groups are not
# swapped and no tree is grown
_USUAL, _LARGE = 600, 1500
# a price that is none, as a share of c₀: a term's must be positive
_FREE = 1e-12
# a bound that is higher by this share of the objective proves nothing more
_NOTHING = 1e-9
# prices, of the least at which fewer groups would do: the limit on their number shall bind
_SHARES_OF_SLOPE = (0.5, 0.1, 0.01)


@dataclass(frozen=True, eq=False)
class Path:
    """Backward elimination: groups in the order of their removal, and what it costs.

    Attributes
    ----------
    order : (J,) int array
        First removed first.
    errors : (J + 1,) array
        By the number of groups kept, how far loss and shrinkage have risen above those of keeping
        all.
    """

    order: IntArray
    errors: FloatArray

    def support(self, kept: int) -> BoolArray:
        """The last groups left, (J,) bool."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - kept :]] = True
        return mask


class _Remainder:
    """Inverse Hessian and best weights of a layer problem on the groups that are left."""

    def __init__(self, problem: LayerProblem) -> None:
        self.block = problem.block
        self.inverse = np.linalg.inv(problem.hessian)
        self.weights = self.inverse @ problem.cross

    def rises(self) -> FloatArray:
        """By how much the objective rises without each of the groups."""
        self.blocks = np.linalg.inv(diagonal_blocks(self.inverse, self.block))
        parts = self.weights.reshape(len(self.blocks), self.block, -1)
        return np.asarray(0.5 * ((self.blocks @ parts) * parts).sum(axis=(1, 2)))

    def remove(self, place: int) -> None:
        """Take out the group at this place, after :meth:`rises`."""
        inverse, weights = self.inverse, self.weights
        own = slice(place * self.block, (place + 1) * self.block)
        rest = np.r_[0 : own.start, own.stop : len(inverse)]
        pivot = inverse[rest, own] @ self.blocks[place]
        self.weights = weights[rest] - pivot @ weights[own]
        self.inverse = inverse[np.ix_(rest, rest)] - pivot @ inverse[own][:, rest]


def eliminate(stack: Stack) -> Path:
    """Remove the group that costs least, until none is left."""
    layers = [_Remainder(problem) for problem in stack.problems]
    left, order = np.arange(stack.groups), []
    errors = np.zeros(stack.groups + 1)
    for kept in range(stack.groups, 0, -1):
        rises = np.zeros(kept)
        for layer in layers:
            rises += layer.rises()
        worst = int(rises.argmin())
        errors[kept - 1] = errors[kept] + rises[worst]
        for layer in layers:
            layer.remove(worst)
        order.append(int(left[worst]))
        left = np.delete(left, worst)
    return Path(np.array(order), errors)


class Proof(StrEnum):
    """What the bound of a choice comes from; each is the text of its value, too."""

    TREE = "tree"
    """A branch and bound."""
    ROOT = "root"
    """Relaxations alone."""
    TRIVIAL = "trivial"
    """The error of keeping every group: of choices of one size nothing is proved."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A choice of so many groups, what it reaches, and what no choice of as many can beat.

    Attributes
    ----------
    support : (J,) bool array
    objective, bound : float
        Without prices: loss and shrinkage.
    nodes : int
        Of the branch and bound.
    seconds : float
    status : Proof
        What the bound comes from.
    """

    support: BoolArray
    objective: float
    bound: float
    nodes: int = 0
    seconds: float = 0.0
    status: Proof = Proof.TRIVIAL

    @property
    def gap(self) -> float:
        """(objective − bound) / objective, never negative."""
        return max(0.0, self.objective - self.bound) / max(self.objective, 1e-300)


def choose(
    stack: Stack,
    kept: int,
    path: Path | None = None,
    start: BoolArray | None = None,
    *,
    gap: float = 0.01,
    nodes: int = 16,
    seconds: float = float("inf"),
) -> Choice:
    """The best ``kept`` groups, and a proof of how good they are.

    Parameters
    ----------
    stack : Stack
        The layers that read the groups.
    kept : int
        Number of groups; having fewer never pays.
    path : Path, optional
        Of :func:`eliminate`, if it has been called before.
    start : (J,) bool array, optional
        Another choice to start from, if it is better than the path's.
    gap : float
        Relative gap at which to stop.
    nodes : int
        Most open nodes of the branch and bound on a layer of 600 rows; 0 for none. With fewer rows
        they may be more, by the square of the ratio, since they are less work. Without a time
        limit the result depends on nothing else.
    seconds : float
        Time limit of each branch and bound; there are up to three.

    Notes
    -----
    The tree is that of min loss + c·(number kept), up to ``kept`` groups: a bound on it, less
    c·``kept``, bounds every choice of that size, whatever c is. With half the price at which fewer
    groups would do, by the path, the limit binds and its multiplier is quickly found; where it does
    not, a lower price is tried.
    """
    path = path or eliminate(stack)
    if not 0 <= kept <= stack.groups:
        raise InputError(f"{kept} groups cannot be kept of {stack.groups}")
    support = path.support(kept)
    if start is not None and stack.objective(start) < stack.objective(support):
        support = start.copy()
    if kept in (0, stack.groups):
        value = stack.objective(support)
        return Choice(support, value, min(value, support_bound(stack, support)))
    if max(len(problem.gram) for problem in stack.problems) <= _LARGE:
        support = improve(stack, support)
    # rows of one layer that would be as much work
    rows = sum(len(problem.gram) ** 3 for problem in stack.problems) ** (1 / 3)
    if nodes == 0 or rows > _LARGE:
        # more groups are never worse: all that is proved without a tree
        value, bound = stack.objective(support), _at_least(stack)
        return Choice(support, value, min(value, bound))
    limit = round(nodes * max(1.0, (_USUAL / rows) ** 2))
    return _prove(stack, support, path, gap=gap, nodes=limit, seconds=seconds)


def _prove(
    stack: Stack, support: BoolArray, path: Path, *, gap: float, nodes: int, seconds: float
) -> Choice:
    """The branch and bound at falling prices of a group, until the limit on their number binds."""
    kept = int(support.sum())
    slope = float(((path.errors[:kept] - path.errors[kept]) / np.arange(kept, 0, -1)).min())
    value, spent, taken = stack.objective(support), 0, 0.0
    bound, status = _at_least(stack), Proof.TRIVIAL
    for share in _SHARES_OF_SLOPE:
        price = max(share * slope, _FREE * stack.constant)
        found = search(
            *(replace(stack, each=price), kept, support),
            gap=max(1e-6, gap * value / (value + price * kept)),
            nodes=nodes,
            seconds=seconds,
        )
        proved = found.bound - price * kept
        if proved > bound + _NOTHING * value:
            status = Proof.TREE if found.nodes > 1 else Proof.ROOT
        bound = max(bound, proved)
        spent, taken = spent + found.nodes, taken + found.seconds
        best, enough = _filled(found.support, kept, path), found.support.sum() == kept
        if (reached := stack.objective(best)) < value:
            value, support = reached, best
        if enough or value - bound <= gap * value:
            break
    return Choice(support, value, min(bound, value), spent, taken, status)


def _at_least(stack: Stack) -> float:
    """What no choice can be below, with or without prices: keeping all."""
    return support_bound(stack, np.ones(stack.groups, bool))


def _filled(support: BoolArray, kept: int, path: Path) -> BoolArray:
    """A support with further groups, the last ones left on the path, until it has ``kept``."""
    spare = [group for group in path.order[::-1] if not support[group]]
    support = support.copy()
    support[spare[: kept - int(support.sum())]] = True
    return support
