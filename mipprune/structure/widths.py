"""The budget problem of a network's channels: how many of every class stay.

Groups that own the same numbers of indices of the same tensors cost the same: they are a class of
:class:`formulations.budget.problem.BudgetProblem`. That is a layer's hidden channels, a stage's
coupled channels or, with zero-padding shortcuts, those that a stage adds to the one before. Of a
class the best-scored groups stay; how many of each class is what the mixed-integer program decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from formulations.api import solve
from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.budget.problem import Allocation, BilinearCost, BudgetProblem, Limit, OutOfReach
from formulations.errors import InputError
from mipprune.structure.cost import Cost

# For products such as 0.1 · 30 = 3.0000000000000004, of counts.
_ROUNDING = 1e-6


class WidthRules(TypedDict, total=False):
    """Which widths are allowed beside the budget: see :func:`best_widths`."""

    multiple: int
    floor: float
    tolerance: float


class WidthOptions(WidthRules, total=False):
    """The same, limits of the search, and what has been given up before."""

    time_limit: float
    gap: float
    dropped: BoolArray | None


def classes_of(cost: Cost) -> list[IntArray]:
    """Groups of every class, as index arrays."""
    owned = np.concatenate(_owned(cost.quantity("params")), axis=1)
    _, label = np.unique(owned, axis=0, return_inverse=True)
    return [np.flatnonzero(label.ravel() == c) for c in range(label.max() + 1)]


def kept_groups(ranked: Sequence[IntArray], widths: IntArray) -> BoolArray:
    """(groups,) bool array of the first groups of every class."""
    kept = np.zeros(sum(len(group) for group in ranked), bool)
    for group, width in zip(ranked, widths, strict=True):
        kept[group[:width]] = True
    return kept


def best_widths(
    cost: Cost,
    scores: FloatArray,
    unit: str,
    share: float,
    *,
    multiple: int = 1,
    floor: float = 0.0,
    tolerance: float = 0.01,
    time_limit: float = 60.0,
    gap: float = 1e-4,
    dropped: BoolArray | None = None,
) -> tuple[list[IntArray], Allocation, BudgetProblem]:
    """The groups of every class, best first, how many of each to keep, and the problem solved.

    Parameters
    ----------
    cost : Cost
        Of the network.
    scores : (groups,) array
        Keep-scores, not negative, comparable between layers.
    unit : {"macs", "params"}
    share : float
        In (0, 1]: share of the dense cost to keep.
    multiple : int
        Every class keeps a multiple of this many channels, or all of them.
    floor : float
        In [0, 1]: smallest share of a layer's channels that stays; at least one always does.
    tolerance : float
        Of the dense cost: by how much less than the budget may be kept.
    time_limit : float
        Seconds, after which the best choice found is taken.
    gap : float
        Relative gap at which to stop.
    dropped : (groups,) bool array
        Groups that have been given up before, such as all those of some residual blocks
        (``Groups.blocks``). None of them stays, and the layers of branches that they leave dead
        have no floor and no cost.

    Raises
    ------
    InputError
        If the share is out of (0, 1] or smaller than that of the smallest network, which is named;
        if no widths come within the tolerance below it: then the nearest share is named.
    """
    widths: WidthRules = {"multiple": multiple, "floor": floor, "tolerance": tolerance}
    problem, ranked = budget_problem(cost, scores, unit, share, dropped=dropped, **widths)
    solution = solve_budget(problem, cost, unit, share, time_limit=time_limit, gap=gap, **widths)
    return ranked, solution, problem


def solve_budget(
    problem: BudgetProblem,
    cost: Cost,
    unit: str,
    share: float,
    *,
    multiple: int = 1,
    floor: float = 0.0,
    tolerance: float = 0.01,
    time_limit: float = 60.0,
    gap: float = 1e-4,
) -> Allocation:
    """Solve a problem of :func:`budget_problem`, perhaps with other values in its tables.

    Parameters and errors are those of :func:`best_widths`.
    """
    dense = cost.dense[unit]
    try:
        return solve(problem, gap=gap, seconds=time_limit)
    except OutOfReach as error:
        nearest = f"{math.ceil(error.nearest / dense * 1e4) / 1e4:.4f}"  # up: it can be given
        if error.nearest > problem.limits[0].at_most:
            raise InputError(
                f"budget.{unit}={share:g} is unreachable: the smallest network, with at least "
                f"{max(1, multiple)} channels and {floor:.0%} of every layer, keeps "
                f"{nearest} of the {unit}"
            ) from None
        raise InputError(
            f"budget.{unit}={share:g} cannot be met within {tolerance:.0%} by whole channels"
            f"{f' in multiples of {multiple}' if multiple > 1 else ''}: "
            f"the nearest widths keep {nearest}"
        ) from None


def budget_problem(
    cost: Cost,
    scores: FloatArray,
    unit: str,
    share: float,
    *,
    multiple: int = 1,
    floor: float = 0.0,
    tolerance: float = 0.01,
    dropped: BoolArray | None = None,
) -> tuple[BudgetProblem, list[IntArray]]:
    """The problem that :func:`allocate` solves, and the groups of every class, best first.

    Dropped groups come last. Parameters and errors are those of :func:`best_widths`.
    """
    check_share(unit, share)
    kept = cost.groups.settle(np.ones(len(scores), bool) if dropped is None else ~dropped)
    emptied = cost.groups.emptied(kept)
    rank = np.where(kept, -scores, np.inf)
    ranked = [group[np.argsort(rank[group], kind="stable")] for group in classes_of(cost)]
    counts = np.array([kept[group].sum() for group in ranked])
    first = np.array([group[0] for group in ranked])
    dense = cost.dense[unit]
    limit = Limit(
        cost.quantity(unit, emptied).take(first),
        at_most=math.floor(share * dense + _ROUNDING),
        at_least=math.ceil((share - tolerance) * dense - _ROUNDING),
    )
    params = cost.quantity("params", emptied).take(first)
    widths, floors, floor_sizes = _widths(params, counts, multiple, floor)
    worth = [np.append(0.0, np.cumsum(scores[group])) for group in ranked]
    values = [table[width] for table, width in zip(worth, widths, strict=True)]
    return BudgetProblem(widths, values, (limit,), floors, floor_sizes), ranked


def check_share(unit: str, share: float) -> None:
    """Raise an InputError if a share to keep is not in (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(f"budget.{unit} is the share to keep, in (0, 1]: it is {share:g}")


def _owned(quantity: BilinearCost) -> tuple[IntArray, IntArray]:
    return quantity.owned_rows, quantity.owned_columns


def _widths(
    params: BilinearCost, counts: IntArray, multiple: int, floor: float
) -> tuple[list[IntArray], IntArray, IntArray]:
    """Allowed widths of every class, and floors (F, C) with sizes (F,) of layers of several.

    Parameters
    ----------
    params : BilinearCost
        Whose layers are those that must not be empty.
    counts : (C,) int array
        Groups of every class that may stay.
    """
    owned = np.concatenate(_owned(params), axis=1)
    fixed = np.concatenate([params.fixed_rows, params.fixed_columns])
    full = fixed + counts @ owned
    needed = np.maximum(1, np.ceil(floor * full - _ROUNDING).astype(int)) - fixed
    several = (owned > 0).sum(axis=0) > 1
    least = -(-needed // np.maximum(owned, 1))  # rounded up
    least = np.where((owned > 0) & ~several, least, 0).max(axis=1)
    widths: list[IntArray] = []
    for low, count in zip(np.maximum(least, 0), counts, strict=True):
        allowed = np.arange(-(-low // multiple) * multiple, count + 1, multiple)
        widths.append(np.union1d(allowed, [count]))
    rows = np.unique(np.vstack([owned[:, several], needed[several]]), axis=1)
    return widths, rows[:-1].T, rows[-1]
