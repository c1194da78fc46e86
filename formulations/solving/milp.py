"""A linear Pyomo model in HiGHS: solved in a thread, heard while it runs, stopped when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import highspy
import numpy as np
import pyomo.environ as pyo
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler, LinearStandardFormInfo

from formulations.arrays import FloatArray
from formulations.solving.highs import feasible, quiet, run
from formulations.solving.result import Status

_INTERVAL = 0.1  # seconds between what HiGHS says of a branch and bound


@dataclass(frozen=True)
class Outcome:
    """How a solve ended.

    Attributes
    ----------
    status : Status
    bound : float
        Proved lower bound on the model's optimum; −∞ where there is none.
    point : (columns,) array or None
        Best point found.
    nodes : int
        Of the branch and bound.
    """

    status: Status
    bound: float
    point: FloatArray | None
    nodes: int


class Milp:
    """A linear Pyomo model, compiled once.

    Parameters
    ----------
    model : ConcreteModel
        Linear, one objective to be minimised; a model without one has the objective 0.
    relaxed : bool
        Leave integrality aside.
    """

    def __init__(self, model: pyo.ConcreteModel, *, relaxed: bool = False) -> None:
        form = LinearStandardFormCompiler().write(model, mixed_form=True)
        self.columns = form.columns
        self._index = {id(column): i for i, column in enumerate(self.columns)}
        # the point of the last improvement, and (bound, nodes), as HiGHS's thread leaves them
        self._improved: FloatArray | None = None
        self._state = (-math.inf, 0)
        self.highs = quiet("primal", "dual", "mip")
        # output as such stays on: without it HiGHS calls back less, too
        self.highs.setOptionValue("output_flag", True)
        self.highs.setOptionValue("log_to_console", False)
        self.highs.setOptionValue("mip_min_logging_interval", _INTERVAL)
        self.highs.cbMipLogging += self._hear
        self.highs.cbMipImprovingSolution += self._hear_solution
        # HiGHS takes a model without integers for a linear program, and says less of it
        self._integer = not relaxed and any(column.is_integer() for column in self.columns)
        self.highs.passModel(self._compile(form))

    def _compile(self, form: LinearStandardFormInfo) -> highspy.HighsLp:
        infinity, lp = highspy.kHighsInf, highspy.HighsLp()
        lp.num_row_, lp.num_col_ = form.A.shape
        lp.col_cost_ = form.c.toarray()[0] if form.c.shape[0] else np.zeros(lp.num_col_)
        lp.offset_ = float(form.c_offset[0]) if len(form.c_offset) else 0.0
        bounds = [column.bounds for column in self.columns]
        lp.col_lower_ = np.array([-infinity if low is None else low for low, _ in bounds])
        lp.col_upper_ = np.array([infinity if high is None else high for _, high in bounds])
        # a row's sign is −1 for ≥, 0 for =, 1 for ≤
        sign = np.array([row.bound_type for row in form.rows])
        lp.row_lower_ = np.where(sign <= 0, form.rhs, -infinity)
        lp.row_upper_ = np.where(sign >= 0, form.rhs, infinity)
        matrix = form.A.tocsc()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
        lp.a_matrix_.value_ = matrix.data
        if self._integer:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[column.is_integer()] for column in self.columns]
        return lp

    def start_from(self, values: list[tuple[pyo.Var, float]]) -> None:
        """Give HiGHS an incumbent: values of some variables, which HiGHS completes."""
        known = [(self._index[id(v)], x) for v, x in values if id(v) in self._index]
        at, x = np.array([i for i, _ in known], np.int32), np.array([x for _, x in known], float)
        self.highs.setSolution(len(known), at, x)

    def load(self, point: FloatArray) -> None:
        """Set the values of the Pyomo variables."""
        for column, value in zip(self.columns, point, strict=True):
            column.set_value(float(value), skip_validation=True)

    def minimise(self, variable: pyo.Var, sign: int) -> float | None:
        """Solve for min sign·variable, in place of the objective; None if that failed."""
        cost = np.zeros(len(self.columns))
        cost[self._index[id(variable)]] = sign
        every = np.arange(len(cost), dtype=np.int32)
        self.highs.changeColsCost(len(cost), every, cost)
        self.highs.run()
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        return float(self.highs.getInfo().objective_function_value)

    def run(
        self,
        seconds: float,
        *,
        gap: float = 0.0,
        on_improvement: Callable[[FloatArray], None] = lambda point: None,
        on_progress: Callable[[float, int], None] = lambda bound, nodes: None,
        on_look: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Solve within so many seconds, to a relative gap.

        The callbacks run in the caller's thread, while HiGHS works: ``on_improvement`` with each
        new incumbent, ``on_progress`` with the bound and the nodes so far, ``on_look`` now and
        then. What they raise ends the solve and is raised here.
        """
        self.highs.setOptionValue("mip_rel_gap", gap)
        heard = self._state

        def look() -> None:
            nonlocal heard
            self._tell(on_improvement)
            if self._state != heard:
                heard = self._state
                on_progress(*heard)
            on_look()

        status = run(self.highs, seconds, look)
        self._tell(on_improvement)
        return self._outcome(status)

    def _tell(self, on_improvement: Callable[[FloatArray], None]) -> None:
        point, self._improved = self._improved, None
        if point is not None:
            on_improvement(point)

    def _outcome(self, status: Status) -> Outcome:
        info, solution = self.highs.getInfo(), self.highs.getSolution()
        solved = self.highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        bound = -math.inf
        if self._integer or solved:
            bound = info.mip_dual_bound if self._integer else info.objective_function_value
        return Outcome(
            status,
            max(bound, self._state[0]) if math.isfinite(bound) else self._state[0],
            np.array(solution.col_value) if feasible(self.highs) else None,
            max(0, info.mip_node_count),
        )

    def _hear(self, event: highspy.HighsCallbackEvent) -> None:
        out = event.data_out
        self._state = (out.mip_dual_bound, out.mip_node_count)

    def _hear_solution(self, event: highspy.HighsCallbackEvent) -> None:
        self._improved = np.array(event.data_out.mip_solution)
