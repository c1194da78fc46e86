"""The layer problem solved by SCIP, from the exported Pyomo model: an independent cross-check."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.export import write_model
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.solving.deadline import Deadline
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
        positive.
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
    deadline = Deadline.of(seconds)
    problem = bounded(problem)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.lp"
        write_model(problem, path, form, cardinality=most if most < problem.groups else None)
        scip = pyscipopt.Model()
        scip.hideOutput()
        scip.readProblem(str(path))
    scip.setParam("limits/gap", 0.5 * gap)
    if np.isfinite(deadline.left):
        scip.setParam("limits/time", max(deadline.left, 1e-3))
    scip.optimize()
    support = np.zeros(problem.groups, bool)
    if scip.getNSols():
        for variable in scip.getVars():
            if found := _INDICATOR.fullmatch(variable.name):
                support[int(found[1])] = scip.getVal(variable) > 0.5
    weights = refit(problem, support)
    objective = problem.objective(weights, support)
    bound = min(float(scip.getDualbound()), objective)
    ended = _STATUS.get(scip.getStatus(), Status.NUMERICAL)
    return Solution(
        objective=objective,
        bound=bound,
        status=judge(ended, closed=relative_gap(objective, bound) <= gap),
        support=support,
        weights=weights,
        nodes=int(scip.getNTotalNodes()),
        seconds=deadline.elapsed,
        solver=f"scip/{form}",
    )


_INDICATOR = re.compile(r"group\((\d+)\)_y")  # as Pyomo names them in a file
_STATUS = {"timelimit": Status.TIME_LIMIT, "userinterrupt": Status.INTERRUPTED}
