"""The layer problem solved by SCIP, from the exported Pyomo model: an independent cross-check."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import numpy as np

from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.solving.result import Solution, check_cardinality, check_limits, relative_gap


def solve(
    problem: LayerProblem,
    form: str = "big-m",
    *,
    cardinality: int | None = None,
    tolerance: float = 1e-4,
    time_limit: float = float("inf"),
) -> Solution:
    """Solve the pruning MIP of a layer with SCIP, a mixed-integer nonlinear solver.

    Parameters
    ----------
    problem : LayerProblem
    form : {"big-m", "perspective"}
        Which model SCIP reads.
    cardinality, tolerance, time_limit
        As in :func:`branch_and_bound.solve`.

    Raises
    ------
    InputError
        If pyscipopt is not installed; φ other than a‖w‖²; unknown form, tolerance or time limit
        not positive.
    """
    try:
        import pyscipopt
    except ImportError:
        raise InputError("solver 'scip' needs the package pyscipopt: pip install pyscipopt") from (
            None
        )
    check_limits(tolerance, time_limit)
    if problem.term.ridge is None:
        raise InputError("solver 'scip' takes φ = a‖w‖² alone: use branch-and-bound or highs")
    most = check_cardinality(cardinality, problem.groups)
    start = time.perf_counter()
    problem = problem.bounded()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.lp"
        problem.write(path, form, cardinality=most if most < problem.groups else None)
        scip = pyscipopt.Model()
        scip.hideOutput()
        scip.readProblem(str(path))
    scip.setParam("limits/gap", 0.5 * tolerance)
    if np.isfinite(time_limit):
        scip.setParam("limits/time", max(time_limit - (time.perf_counter() - start), 1e-3))
    scip.optimize()
    support = np.zeros(problem.groups, bool)
    if scip.getNSols():
        for variable in scip.getVars():
            if found := _INDICATOR.fullmatch(variable.name):
                support[int(found[1])] = scip.getVal(variable) > 0.5
    weights = problem.refit(support)
    objective = problem.objective(weights, support)
    bound = min(float(scip.getDualbound()), objective)
    proved = relative_gap(objective, bound) <= tolerance
    return Solution(
        objective=objective,
        bound=bound,
        status="optimal" if proved else _STATUS.get(scip.getStatus(), "numerical"),
        support=support,
        weights=weights,
        nodes=int(scip.getNTotalNodes()),
        seconds=time.perf_counter() - start,
        solver=f"scip/{form}",
    )


_INDICATOR = re.compile(r"group\((\d+)\)_y")  # as Pyomo names them in a file
_STATUS = {"timelimit": "time_limit", "userinterrupt": "interrupted", "nodelimit": "node_limit"}
