"""The public verbs: solve a problem to proved optimality, or its relaxation.

Every kind of problem has its solvers, each a module with a function ``solve`` that is loaded when
it is asked for. Installed packages add solvers of layer problems, functions like these, as entry
points of the group ``formulations.solvers``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from formulations import plugins
from formulations.errors import InputError

if TYPE_CHECKING:
    from formulations.budget.problem import Allocation, BudgetProblem
    from formulations.layer.problem import LayerProblem
    from formulations.relu.network import NetworkRelaxation, NetworkSolution
    from formulations.relu.problems import Selection, Training
    from formulations.solving.result import Progress, Solution

_LAYER = "formulations.layer.problem.LayerProblem"
_SELECTION = "formulations.relu.problems.Selection"
_RELU = "formulations.relu.solve"
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
    _SELECTION: {"enumeration": "formulations.relu.enumeration", "highs": _RELU},
    "formulations.relu.problems.Training": {"highs": _RELU},
}
_RELAXATIONS = {
    _LAYER: _HIGHS,
    _SELECTION: _RELU,
    "formulations.relu.problems.Training": _RELU,
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
        installed package adds. Of a Selection ``"enumeration"``
        (:func:`formulations.relu.enumeration.solve`), the usual one of small networks, or
        ``"highs"`` (:func:`formulations.relu.solve.solve`), the one of a Training. A budget has
        one: :func:`formulations.budget.solve.solve`.
    gap : float
        Relative gap at which to stop.
    seconds : float
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its true
        bound.
    cardinality : int, optional
        Largest number of groups kept, of a LayerProblem: from 0 to all.
    on_progress : callable, optional
        Called with the state of the solve, by the solvers that tell: after the root, then now and
        then, and at the end.
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


@overload
def relax(problem: LayerProblem, form: str | None = ..., **options: Any) -> Solution: ...
@overload
def relax(problem: Selection | Training, **options: Any) -> NetworkRelaxation: ...
def relax(
    problem: LayerProblem | Selection | Training, form: str | None = None, **options: Any
) -> Solution | NetworkRelaxation:
    """Solve the continuous relaxation of a layer problem or a network's with HiGHS.

    Parameters
    ----------
    problem : LayerProblem, Selection or Training
    form : {"perspective", "big-m"}, optional
        The formulation of a layer problem that is relaxed; perspective, if not given.
    **options
        Of a layer problem ``extraction``, ``cardinality``, ``tolerance`` and ``seconds`` of
        :func:`formulations.layer.solvers.outer_approximation.relax`; of a network ``tightened``
        and ``seconds`` of :func:`formulations.relu.solve.relax`.

    Returns
    -------
    Solution or NetworkRelaxation
        ``objective`` is the relaxation's value, ``bound`` a proved bound on it, ``support`` the
        groups or units with an indicator above ½.

    Raises
    ------
    InputError
        An unknown form or option, and what else it refuses.
    """
    kind = _kind(problem, _RELAXATIONS)
    function = import_module(_RELAXATIONS[kind]).relax
    if form is not None:
        options["form"] = form
    _check_options(function, "the relaxation", options)
    relaxed: Solution | NetworkRelaxation = function(problem, **options)
    return relaxed


def _kind(problem: Any, known: Collection[str]) -> str:
    """The name of a problem's kind, if it is known."""
    kind = f"{type(problem).__module__}.{type(problem).__qualname__}"
    if kind not in known:
        kinds = ", ".join(kind.rpartition(".")[2] for kind in known)
        raise InputError(f"a {type(problem).__name__} is not solved here: one of {kinds} is")
    return kind


def _solver_of(problem: Any, solver: str | None) -> tuple[str, Callable[..., Any]]:
    """Name and function of the solver for a problem."""
    kind = _kind(problem, _SOLVERS)
    solvers = _SOLVERS[kind]
    name = next(iter(solvers)) if solver is None else solver
    added = plugins.names(_ENTRY_POINTS) if kind == _LAYER and name not in solvers else ()
    if name in added:
        return name, plugins.load(_ENTRY_POINTS, name)
    if name not in solvers:
        raise InputError(f"unknown solver {name!r}: one of {', '.join((*solvers, *added))}")
    if solver is None and kind == _SELECTION and not problem.countable:
        name = "highs"
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
