"""The public verbs: solve a problem to proved optimality, or its relaxation.

Every kind of problem has its solvers, each a module with a function ``solve`` that is loaded when
it is asked for. Installed packages add solvers of layer problems, functions like these, as entry
points of the group ``formulations.solvers``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from formulations import plugins
from formulations.errors import InputError

if TYPE_CHECKING:
    from formulations.budget.problem import Allocation, BudgetProblem
    from formulations.layer.problem import LayerProblem
    from formulations.relu.network import NetworkSolution
    from formulations.relu.problems import Selection, Training
    from formulations.solving.result import Progress, Solution

_LAYER = "formulations.layer.problem.LayerProblem"
_HIGHS = "formulations.layer.solvers.outer_approximation"
_ENTRY_POINTS = "formulations.solvers"
# solvers of every kind of problem, the usual one first
_SOLVERS = {
    _LAYER: {
        "branch-and-bound": "formulations.layer.solvers.branch_and_bound",
        "highs": _HIGHS,
        "scip": "formulations.layer.solvers.scip",
    },
    "formulations.budget.problem.BudgetProblem": {"lagrangian": "formulations.budget.solve"},
    "formulations.relu.problems.Selection": {"highs": "formulations.relu.solve"},
    "formulations.relu.problems.Training": {"highs": "formulations.relu.solve"},
}


@overload
def solve(
    problem: LayerProblem,
    *,
    solver: str | None = ...,
    gap: float = ...,
    seconds: float = ...,
    cardinality: int | None = ...,
    on_progress: Callable[[Progress], None] | None = ...,
    **options: Any,
) -> Solution: ...
@overload
def solve(
    problem: BudgetProblem,
    *,
    solver: str | None = ...,
    gap: float = ...,
    seconds: float = ...,
    **options: Any,
) -> Allocation: ...
@overload
def solve(
    problem: Selection | Training,
    *,
    solver: str | None = ...,
    gap: float = ...,
    seconds: float = ...,
    on_progress: Callable[[Progress], None] | None = ...,
    **options: Any,
) -> NetworkSolution: ...
def solve(
    problem: LayerProblem | BudgetProblem | Selection | Training,
    *,
    solver: str | None = None,
    gap: float = 1e-4,
    seconds: float = math.inf,
    cardinality: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Solution | Allocation | NetworkSolution:
    """Solve to proved optimality.

    Parameters
    ----------
    problem : LayerProblem, BudgetProblem, Selection or Training
    solver : str, optional
        Of a LayerProblem ``"branch-and-bound"``
        (:func:`formulations.layer.solvers.branch_and_bound.solve`), the usual one, ``"highs"``
        (:func:`formulations.layer.solvers.outer_approximation.solve`), which alone takes nested
        indicators and has them in any case, ``"scip"``
        (:func:`formulations.layer.solvers.scip.solve`), where pyscipopt is installed, or what an
        installed package adds. The other problems have one each:
        :func:`formulations.budget.solve.solve`, :func:`formulations.relu.solve.solve`.
    gap : float
        Relative gap at which to stop.
    seconds : float
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its true
        bound.
    cardinality : int, optional
        Largest number of groups kept, of a LayerProblem.
    on_progress : callable, optional
        Called now and then with the state of the solve, by the solvers that tell.
    **options
        Of the solver.

    Returns
    -------
    Solution, Allocation or NetworkSolution
        For layer problems, budgets, and ReLU networks.

    Raises
    ------
    InputError
        An unknown solver or option: the message names those there are. What else the solver
        refuses.

    Examples
    --------
    >>> solution = solve(problem, gap=1e-4, seconds=60)  # doctest: +SKIP
    """
    name, function = _solver_of(problem, solver)
    given = {"gap": gap, "seconds": seconds, **options}
    if cardinality is not None:
        given["cardinality"] = cardinality
    if on_progress is not None:
        given["on_progress"] = on_progress
    _check_options(function, f"solver {name!r}", given)
    answer: Solution | Allocation | NetworkSolution = function(problem, **given)
    return answer


def relax(problem: LayerProblem, form: str = "perspective", **options: Any) -> Solution:
    """Solve the continuous relaxation of a layer problem with HiGHS.

    Parameters
    ----------
    problem : LayerProblem
    form : {"perspective", "big-m"}
        The formulation that is relaxed.
    **options
        ``extraction``, ``cardinality``, ``tolerance`` and ``seconds`` of
        :func:`formulations.layer.solvers.outer_approximation.relax`.

    Returns
    -------
    Solution
        ``objective`` is the relaxation's value at ``weights``, ``bound`` a proved bound on it,
        ``support`` the groups with an indicator above ½.

    Raises
    ------
    InputError
        An unknown form or option, and what else it refuses.
    """
    function = import_module(_HIGHS).relax
    _check_options(function, "the relaxation", options)
    solution: Solution = function(problem, form, **options)
    return solution


def _solver_of(problem: Any, solver: str | None) -> tuple[str, Callable[..., Any]]:
    """Name and function of the solver for a problem."""
    kind = f"{type(problem).__module__}.{type(problem).__qualname__}"
    if kind not in _SOLVERS:
        kinds = ", ".join(kind.rpartition(".")[2] for kind in _SOLVERS)
        raise InputError(f"a {type(problem).__name__} is not solved here: one of {kinds} is")
    solvers = _SOLVERS[kind]
    name = next(iter(solvers)) if solver is None else solver
    added = plugins.names(_ENTRY_POINTS) if kind == _LAYER and name not in solvers else ()
    if name in added:
        return name, plugins.load(_ENTRY_POINTS, name)
    if name not in solvers:
        raise InputError(f"unknown solver {name!r}: one of {', '.join((*solvers, *added))}")
    if name == "branch-and-bound" and problem.term.blocks is not None:
        name = "highs"
    return name, import_module(solvers[name]).solve


def _check_options(function: Callable[..., Any], name: str, given: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = list(parameters)[1:]
    for option in given:
        if option not in known:
            raise InputError(f"{name} has no option {option!r}: it has {', '.join(known)}")
