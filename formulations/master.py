"""The master problem of the outer approximation: a linear program over the indicators, in HiGHS."""

from __future__ import annotations

import highspy
import numpy as np

# Tighter than HiGHS's defaults, because the answers are used as certificates.
FEASIBILITY = 1e-9
# Cuts in the pool above which the slack ones are dropped.
_POOL = 3000


class Stopped(Exception):
    """Work ended before its goal; ``status`` says why, in the words of a Solution."""

    def __init__(self, status: str):
        super().__init__(status)
        self.status = status


class Master:
    """min η + c·y over the cuts, a linear program in HiGHS. Columns: y (G), then η.

    The objective is divided by the mean price, so that HiGHS's absolute tolerances mean the same
    for every problem.
    """

    def __init__(self, price: np.ndarray):
        self.groups, self.price, self.unit = len(price), price, float(price.mean())
        self.columns = np.arange(self.groups + 1, dtype=np.int32)
        self.highs = highspy.Highs()
        self.highs.silent()
        self.highs.setOptionValue("primal_feasibility_tolerance", FEASIBILITY)
        self.highs.setOptionValue("dual_feasibility_tolerance", FEASIBILITY)
        self.highs.HandleUserInterrupt = True
        total = self.groups + 1
        self.highs.addCols(
            total,
            np.append(price / self.unit, 1.0),
            np.append(np.zeros(self.groups), -highspy.kHighsInf),
            np.append(np.ones(self.groups), highspy.kHighsInf),
            0,
            np.zeros(total, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0),
        )

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
        return constant + slope @ y + self.price @ y

    def run(self, seconds: float) -> tuple[np.ndarray, float]:
        """Solve within so many seconds: (y, value). On Ctrl-C cancel and raise."""
        limit = self.highs.getRunTime() + seconds
        self.highs.setOptionValue("time_limit", min(limit, 1e9))
        thread = self.highs.startSolve()
        interrupted = False
        while thread.is_alive():
            try:
                thread.join(0.05)
            except KeyboardInterrupt:
                interrupted = True
                self.highs.cancelSolve()
        if interrupted:
            raise Stopped("interrupted")
        status = self.highs.getModelStatus()
        if status == highspy.HighsModelStatus.kTimeLimit:
            raise Stopped("time_limit")
        if status != highspy.HighsModelStatus.kOptimal:
            raise Stopped("numerical")
        y = np.clip(self.highs.getSolution().col_value[: self.groups], 0, 1)
        return y, self.highs.getInfo().objective_function_value * self.unit

    def _drop_slack_cuts(self):
        basic = highspy.HighsBasisStatus.kBasic
        rows = [i for i, s in enumerate(self.highs.getBasis().row_status) if s == basic]
        self.highs.deleteRows(len(rows), np.array(rows, np.int32))
