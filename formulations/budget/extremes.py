"""The least and the greatest cost that the widths of a budget problem can have."""

from __future__ import annotations

from dataclasses import replace

from formulations.budget.milp import BudgetModel
from formulations.budget.problem import BudgetProblem, Limit
from formulations.errors import InputError

# of the mixed-integer program, where one is needed
_SECONDS = 20.0


def smallest(problem: BudgetProblem, limit: Limit) -> int:
    """The least cost that the allowed widths and floors leave, whatever the limits.

    Parameters
    ----------
    problem : BudgetProblem
    limit : Limit
        Of whose cost.

    Raises
    ------
    InputError
        If none was found in time.
    """
    if problem.above_floors(problem.narrowest):
        return limit.cost.value(problem.narrowest)
    return _extreme(problem, Limit(limit.cost, limit.cost.value(problem.widest)), -1.0)


def largest(problem: BudgetProblem, limit: Limit) -> int:
    """The greatest cost within ``limit.at_most``, whatever ``at_least`` and other limits.

    Parameters and errors as of :func:`smallest`.
    """
    return _extreme(problem, Limit(limit.cost, limit.at_most), 1.0)


def _extreme(problem: BudgetProblem, limit: Limit, sign: float) -> int:
    alone = replace(problem, limits=(limit,))
    choice = BudgetModel(alone).extreme(limit.cost, sign, _SECONDS)
    if choice is None:
        raise InputError("no widths were found in time: give fewer of them to choose from")
    return limit.cost.value(problem.at(choice))
