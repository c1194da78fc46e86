"""The master problem of the outer approximation: a linear program over the indicators, in HiGHS."""

from __future__ import annotations

import highspy
import numpy as np

from formulations.solving.deadline import Stopped
from formulations.solving.highs import run
from formulations.terms.term import Term

# Tighter than HiGHS's defaults, because the answers are used as certificates.
FEASIBILITY = 1e-9
# Cuts in the pool above which the slack ones are dropped.
_POOL = 3000


class Master:
    """min η + c·y + C·z over the cuts, a linear program in HiGHS.

    Columns: y (G), η, then z (B) of the blocks where indicators are nested, with y_j ≤ z. The
    objective is divided by the mean price, so that HiGHS's absolute tolerances mean the same for
    every problem.

    Parameters
    ----------
    term : Term
    groups : int
    most : int
        Largest Σ y.
    """

    def __init__(self, term: Term, groups: int, most: int):
        self.groups, self.term = groups, term
        self.price = np.broadcast_to(term.price, (groups,))
        self.unit = float(self.price.mean())
        self.columns = np.arange(groups + 1, dtype=np.int32)
        self.highs = highspy.Highs()
        self.highs.silent()
        self.highs.setOptionValue("primal_feasibility_tolerance", FEASIBILITY)
        self.highs.setOptionValue("dual_feasibility_tolerance", FEASIBILITY)
        self.highs.HandleUserInterrupt = True
        block_price = np.zeros(0) if term.blocks is None else term.block_price
        free = highspy.kHighsInf
        total, blocks = groups + 1 + len(block_price), len(block_price)
        self.highs.addCols(
            total,
            np.concatenate([self.price / self.unit, [1.0], block_price / self.unit]),
            np.concatenate([np.zeros(groups), [-free], np.zeros(blocks)]),
            np.concatenate([np.ones(groups), [free], np.ones(blocks)]),
            0,
            np.zeros(total, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0),
        )
        if blocks:
            for group, block in enumerate(term.blocks):
                columns = np.array([groups + 1 + block, group], np.int32)
                self.highs.addRow(0, free, 2, columns, np.array([1.0, -1.0]))
        if most < groups:
            self.highs.addRow(-free, most, groups, self.columns[:-1], np.ones(groups))
        self.fixed = self.highs.getNumRow()

    def set_box(self, lower: np.ndarray, upper: np.ndarray):
        """Bounds of y."""
        self.highs.changeColsBounds(self.groups, self.columns[:-1], lower, upper)

    def add_cut(self, constant: float, slope: np.ndarray):
        """η ≥ constant + slope·y."""
        if self.highs.getNumRow() > _POOL:
            self._drop_slack_cuts()
        self._last = (constant, slope)
        values = np.append(-slope / self.unit, 1.0)
        self.highs.addRow(
            constant / self.unit, highspy.kHighsInf, len(values), self.columns, values
        )

    def last_value(self, y: np.ndarray) -> float:
        """The lower bound of the newest cut at y, prices included."""
        constant, slope = self._last
        return constant + slope @ y + self.term.prices(y)

    def run(self, seconds: float) -> tuple[np.ndarray, float]:
        """Solve within so many seconds: (y, value). On Ctrl-C cancel and raise."""
        limit = self.highs.getRunTime() + seconds
        self.highs.setOptionValue("time_limit", min(limit, 1e9))
        if self._solved() != highspy.HighsModelStatus.kOptimal:
            self.highs.clearSolver()  # HiGHS sometimes gives up from a warm start only
            if self._solved() != highspy.HighsModelStatus.kOptimal:
                raise Stopped("numerical")
        y = np.clip(self.highs.getSolution().col_value[: self.groups], 0, 1)
        return y, self.highs.getInfo().objective_function_value * self.unit

    def _solved(self) -> highspy.HighsModelStatus:
        """Run HiGHS in its thread, so that Ctrl-C is heard; how it ended."""
        if run(self.highs):
            raise Stopped("interrupted")
        status = self.highs.getModelStatus()
        if status == highspy.HighsModelStatus.kTimeLimit:
            raise Stopped("time_limit")
        return status

    def _drop_slack_cuts(self):
        basic = highspy.HighsBasisStatus.kBasic
        status = self.highs.getBasis().row_status
        rows = [i for i, s in enumerate(status) if s == basic and i >= self.fixed]
        self.highs.deleteRows(len(rows), np.array(rows, np.int32))
