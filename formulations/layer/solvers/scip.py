"""The layer problem solved by SCIP, from the exported Pyomo model: an independent cross-check."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyomo.environ as pyo

from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.export import check_numbers, write_file
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_model import pyomo_model
from formulations.layer.refit import refit
from formulations.layer.relaxations.base import trivial_bound
from formulations.layer.units import InUnits
from formulations.solving.deadline import Deadline, Stopped, attempt
from formulations.solving.result import (
    Solution,
    Status,
    check_cardinality,
    check_positive,
    judge,
    relative_gap,
)


def solve(
    problem: LayerProblem,
    form: str = "big-m",
    *,
    cardinality: int | None = None,
    gap: float = 1e-4,
    seconds: float | Deadline = float("inf"),
) -> Solution:
    """Solve the pruning MIP of a layer with SCIP, a mixed-integer nonlinear solver.

    The bound is SCIP's word, to its tolerances of 10⁻⁶ in units in which c₀ is about 1: no proof in
    the arithmetic at hand, as those of the other solvers are.

    Parameters
    ----------
    problem : LayerProblem
    form : {"big-m", "perspective"}
        Which model SCIP reads.
    cardinality, gap, seconds
        As in :func:`formulations.layer.solvers.branch_and_bound.solve`.

    Raises
    ------
    InputError
        If pyscipopt is not installed; φ other than a‖w‖²; unknown form, gap or time limit not
        positive; numbers too far apart for SCIP.
    """
    try:
        import pyscipopt  # noqa: PLC0415 — not installed everywhere
    except ImportError:
        raise InputError("solver 'scip' needs the package pyscipopt: pip install pyscipopt") from (
            None
        )
    check_positive("gap", gap)
    if problem.term.ridge is None:
        raise InputError("solver 'scip' takes φ = a‖w‖² alone: use branch-and-bound or highs")
    most = check_cardinality(cardinality, problem.groups)
    deadline, units = Deadline.of(seconds), InUnits.of(problem)
    check_numbers(units.problem)
    stated, scip = units.problem, pyscipopt.Model()
    scip.hideOutput()

    support, nodes = np.zeros(problem.groups, bool), 0
    with np.errstate(over="ignore"):
        proved = trivial_bound(stated)  # until SCIP has one

    def work() -> None:
        nonlocal proved, nodes
        limit = most if most < problem.groups else None
        model = pyomo_model(bounded(stated, most, deadline.check), form, limit, deadline.check)
        if deadline.left < deadline.elapsed:  # to write takes as long as to state
            raise Stopped(Status.TIME_LIMIT)
        _read(scip, model)
        scip.setParam("limits/gap", 0.5 * gap)
        if np.isfinite(deadline.left):
            scip.setParam("limits/time", max(deadline.left, 1e-3))
        scip.optimize()
        proved, nodes = max(proved, float(scip.getDualbound())), int(scip.getNTotalNodes())
        if scip.getNSols():
            for variable in scip.getVars():
                if found := _INDICATOR.fullmatch(variable.name):
                    support[int(found[1])] = scip.getVal(variable) > 0.5
        if scip.getStatus() not in _DONE:
            raise Stopped(_STATUS.get(scip.getStatus(), Status.NUMERICAL))

    ended = attempt(work)
    weights = refit(stated, support)
    objective = stated.objective(weights, support)
    bound = min(proved, objective)
    return units.solution(
        Solution(
            objective=objective,
            bound=bound,
            status=judge(ended, closed=relative_gap(objective, bound) <= gap),
            support=support,
            weights=weights,
            nodes=nodes,
            seconds=deadline.elapsed,
            solver=f"scip/{form}",
        )
    )


def _read(scip: Any, model: pyo.ConcreteModel) -> None:
    """Give SCIP a model by way of a file.

    Raises
    ------
    InputError
        If SCIP's reader refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.lp"
        write_file(model, path)
        try:
            scip.readProblem(str(path))
        except OSError as error:
            raise InputError(
                "SCIP cannot read the model: numbers of G, B, c0 or the term are too far apart"
            ) from error


_INDICATOR = re.compile(r"group\((\d+)\)_y")  # as Pyomo names them in a file
_DONE = ("optimal", "gaplimit")
_STATUS = {"timelimit": Status.TIME_LIMIT, "userinterrupt": Status.INTERRUPTED}
