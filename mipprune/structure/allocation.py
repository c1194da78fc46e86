"""Which groups to keep under a budget: exactly, by a threshold, or the same share everywhere.

A budget on channels is a mixed-integer program. Groups that own the same numbers of indices of the
same tensors cost the same: they are a class of :class:`formulations.budget.problem.BudgetProblem`.
That is a layer's hidden channels, a stage's coupled channels or, with zero-padding shortcuts, those
that a stage adds to the one before. Of a class the best-scored groups stay; how many of each class
is what the program decides.

Costs other than :class:`mipprune.structure.cost.Cost` add up over the groups, as those of single
weights do. Their budget is a knapsack of items that are small against it, so that the linear
relaxation, which takes them in the order of worth to cost, is optimal up to one of them (Dantzig
1957, "Discrete-variable extremum problems").
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypedDict, Unpack

import numpy as np
from torch import nn

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.budget.problem import Allocation, BilinearCost, BudgetProblem, Limit, OutOfReach
from formulations.errors import InputError
from mipprune.config.schema import BudgetConfig
from mipprune.structure.cost import Cost, CostModel
from mipprune.structure.groups import Groups

# For products such as 0.1 · 30 = 3.0000000000000004, of counts.
_ROUNDING = 1e-6
# How finely a uniform share is searched.
_SHARES = 2001


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


# ---- the choices --------------------------------------------------------------------------------


def allocate(
    cost: CostModel, scores: FloatArray, unit: str, share: float, **options: Unpack[WidthOptions]
) -> BoolArray:
    """Keep the groups with the greatest sum of scores whose cost meets a budget.

    Parameters, options and errors are those of :func:`best_widths`; a cost that adds up over the
    groups has no use for the options.

    Returns
    -------
    (groups,) bool array
    """
    if isinstance(cost, Cost):
        ranked, solution, _ = best_widths(cost, scores, unit, share, **options)
        return kept_groups(ranked, solution.widths)
    return _fill(cost, np.argsort(-scores / cost.marginal(unit), kind="stable"), unit, share)


def keep_within(
    network: nn.Module,
    groups: Groups,
    scores: FloatArray,
    *,
    macs: float | None = None,
    params: float | None = None,
    **options: Unpack[WidthOptions],
) -> BoolArray:
    """Which groups of a network to keep within a budget: those of the greatest sum of scores.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
        Of :func:`mipprune.structure.groups.find_groups`.
    scores : (groups,) array
        Keep-scores, not negative, comparable between layers.
    macs, params : float, optional
        In (0, 1]: share of the dense network's multiply-accumulates, or of its parameters, to keep.
        One of the two.
    **options
        As those of :func:`best_widths`.

    Returns
    -------
    (groups,) bool array

    Raises
    ------
    InputError
        As :func:`best_widths`; if not one budget is given.
    """
    given = [(u, s) for u, s in (("macs", macs), ("params", params)) if s is not None]
    if len(given) != 1:
        raise InputError("give one budget: macs=SHARE or params=SHARE")
    if groups.example is None:
        raise InputError("these groups were not found on examples: find_groups(network, inputs)")
    cost = Cost(network, groups, groups.example.shape[1:])
    return allocate(cost, scores, *given[0], **options)


def lowest_removed(cost: CostModel, scores: FloatArray, unit: str, share: float) -> BoolArray:
    """Remove the lowest scores of all layers until the budget is met: the usual global threshold.

    One channel of every layer stays.

    Parameters
    ----------
    cost : CostModel
    scores : (groups,) array
    unit : {"macs", "params"}
    share : float
        Of the dense cost, to keep.

    Returns
    -------
    (groups,) bool array
    """
    if not isinstance(cost, Cost):
        return _fill(cost, np.argsort(-scores, kind="stable"), unit, share)
    removed = _removable(cost, scores, np.inf)
    budget = share * cost.dense[unit]

    def without(count: int) -> BoolArray:
        kept = np.ones(cost.groups.count, bool)
        kept[removed[:count]] = False
        return kept

    # the cost falls with every removal
    counts = range(len(removed))
    return without(bisect_left(counts, True, key=lambda n: cost.value(without(n), unit) <= budget))


def remove_below(cost: CostModel, scores: FloatArray, threshold: float) -> BoolArray:
    """Keep the groups with a score above a threshold, (groups,) bool; empty no layer.

    Parameters
    ----------
    cost : CostModel
    scores : (groups,) array
    threshold : float
    """
    if not isinstance(cost, Cost):
        return scores > threshold
    kept = np.ones(cost.groups.count, bool)
    kept[_removable(cost, scores, threshold)] = False
    return kept


def check_reachable(cost: CostModel, unit: str, share: float, budget: BudgetConfig) -> None:
    """Raise an InputError if no choice of groups meets a budget.

    Parameters
    ----------
    cost : CostModel
    unit : {"macs", "params"}
    share : float
        In (0, 1], of the dense cost.
    budget : BudgetConfig
        Its ``multiple`` and ``floor``.

    Raises
    ------
    InputError
        As :func:`best_widths`; if the budget asks single weights for whole channels.
    """
    nothing = np.zeros(cost.groups.count)
    if isinstance(cost, Cost):
        allocate(cost, nothing, unit, share, multiple=budget.multiple, floor=budget.floor)
        return
    if budget.multiple > 1 or budget.floor > 0:
        raise InputError(
            "budget.multiple and budget.floor are about channels: granularity=link has none"
        )
    _check_share(unit, share)
    least = cost.value(nothing.astype(bool), unit) / cost.dense[unit]
    if share < least:
        raise InputError(
            f"budget.{unit}={share:g} is unreachable: without any of its prunable weights the "
            f"network keeps {math.ceil(least * 1e4) / 1e4:.4f} of the {unit}"
        )


def uniform(
    cost: Cost, scores: FloatArray, unit: str, share: float, budget: BudgetConfig
) -> BoolArray:
    """The largest share of channels, the same in every class, that the budget allows.

    Parameters as in :func:`best_widths`; of a class the highest scores stay. Every width is the
    widest allowed one (``budget.multiple``, ``budget.floor``) up to that share.

    Returns
    -------
    (groups,) bool array
    """
    problem, ranked = budget_problem(
        cost, scores, unit, share, multiple=budget.multiple, floor=budget.floor
    )
    limit = problem.limits[0]
    counts = np.array([len(group) for group in ranked])
    for part in np.linspace(1, 0, _SHARES):
        widths = np.array(
            [
                max(allowed[allowed <= part * count], default=allowed[0])
                for allowed, count in zip(problem.widths, counts, strict=True)
            ]
        )
        if limit.cost.value(widths) <= limit.at_most:
            break
    return kept_groups(ranked, widths)


def _removable(cost: Cost, scores: FloatArray, threshold: float) -> list[int]:
    """Groups up to a threshold, lowest score first, but for the last one of a layer."""
    params = cost.quantity("params")
    owned = np.concatenate([params.owned_rows, params.owned_columns], axis=1)
    left = np.concatenate(params.sizes(np.ones(cost.groups.count, int)))
    order: list[int] = []
    for group in np.argsort(scores, kind="stable"):
        if scores[group] > threshold:
            break
        if (left - owned[group]).min() >= 1:
            order.append(int(group))
            left = left - owned[group]
    return order


def _fill(cost: CostModel, order: IntArray, unit: str, share: float) -> BoolArray:
    """Keep groups in an order as long as the sum of their costs is within the budget."""
    room = share * cost.dense[unit] - cost.value(np.zeros(cost.groups.count, bool), unit)
    kept = np.zeros(cost.groups.count, bool)
    kept[order[np.cumsum(cost.marginal(unit)[order]) <= room]] = True
    return kept


# ---- the budget problem of channels -------------------------------------------------------------


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
        return problem.solve(time_limit=time_limit, tolerance=gap)
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
    _check_share(unit, share)
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


def _check_share(unit: str, share: float) -> None:
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
