"""Which groups to keep under a budget: exactly, by a threshold, or the same share everywhere.

A budget on channels is a mixed-integer program (:mod:`mipprune.structure.widths`). Costs other than
:class:`mipprune.structure.cost.Cost` add up over the groups, as those of single weights do. Their
budget is a knapsack of items that are small against it, so that the linear relaxation, which takes
them in the order of worth to cost, is optimal up to one of them (Dantzig 1957, "Discrete-variable
extremum problems").
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Unpack

import numpy as np
from torch import nn

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from mipprune.config.schema import BudgetConfig
from mipprune.structure.cost import Cost, CostModel
from mipprune.structure.groups import Groups
from mipprune.structure.widths import (
    WidthOptions,
    best_widths,
    budget_problem,
    check_share,
    kept_groups,
)

# How finely a uniform share is searched.
_SHARES = 2001


def allocate(
    cost: CostModel, scores: FloatArray, unit: str, share: float, **options: Unpack[WidthOptions]
) -> BoolArray:
    """Keep the groups with the greatest sum of scores whose cost meets a budget.

    Parameters, options and errors are those of :func:`~mipprune.structure.widths.best_widths`; a
    cost that adds up over the groups has no use for the options.

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
        As those of :func:`~mipprune.structure.widths.best_widths`; the tolerance is 1 by default:
        less may be kept.

    Returns
    -------
    (groups,) bool array

    Raises
    ------
    InputError
        As :func:`~mipprune.structure.widths.best_widths`; if not one budget is given.
    """
    given = [(u, s) for u, s in (("macs", macs), ("params", params)) if s is not None]
    if len(given) != 1:
        raise InputError("give one budget: macs=SHARE or params=SHARE")
    if groups.example is None:
        raise InputError("these groups were not found on examples: find_groups(network, inputs)")
    cost = Cost(network, groups, groups.example.shape[1:])
    asked: WidthOptions = {"tolerance": 1.0, **options}
    return allocate(cost, scores, *given[0], **asked)


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
        As :func:`~mipprune.structure.widths.best_widths`; if the budget asks single weights for
        whole channels.
    """
    nothing = np.zeros(cost.groups.count)
    if isinstance(cost, Cost):
        allocate(cost, nothing, unit, share, multiple=budget.multiple, floor=budget.floor)
        return
    if budget.multiple > 1 or budget.floor > 0:
        raise InputError(
            "budget.multiple and budget.floor are about channels: granularity=link has none"
        )
    check_share(unit, share)
    least = cost.value(nothing.astype(bool), unit) / cost.dense[unit]
    if share < least:
        raise InputError(
            f"budget.{unit}={share:g} is unreachable: without any of its prunable weights the "
            f"network keeps {math.ceil(least * 1e4) / 1e4:.4f} of the {unit}"
        )


def uniform(
    cost: Cost,
    scores: FloatArray,
    unit: str,
    share: float,
    *,
    multiple: int = 1,
    floor: float = 0.0,
) -> BoolArray:
    """The largest share of channels, the same in every class, that the budget allows.

    Of a class the highest scores stay. Every width is the widest allowed one up to that share.
    Parameters are those of :func:`~mipprune.structure.widths.best_widths`.

    Returns
    -------
    (groups,) bool array
    """
    problem, ranked = budget_problem(cost, scores, unit, share, multiple=multiple, floor=floor)
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
