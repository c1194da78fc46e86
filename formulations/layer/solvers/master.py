"""The master problem of the outer approximation: a linear program over the indicators, in HiGHS."""

from __future__ import annotations

import highspy
import numpy as np

from formulations.arrays import FloatArray
from formulations.solving.deadline import Stopped
from formulations.solving.highs import quiet, run
from formulations.solving.result import Status
from formulations.terms.term import Term

# rows of the linear program above which the slack cuts are dropped
POOL = 3000


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
    pool : int
        Rows above which the slack cuts are dropped.
    """

    def __init__(self, term: Term, groups: int, most: int, pool: int = POOL) -> None:
        self.groups, self.term, self.pool = groups, term, pool
        self.price = np.broadcast_to(term.price, (groups,))
        self.unit = float(self.price.mean())
        self.columns = np.arange(groups + 1, dtype=np.int32)
        self.highs = quiet("primal", "dual")
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
        if term.blocks is not None:
            for group, block in enumerate(term.blocks):
                columns = np.array([groups + 1 + block, group], np.int32)
                self.highs.addRow(0, free, 2, columns, np.array([1.0, -1.0]))
        if most < groups:
            self.highs.addRow(-free, most, groups, self.columns[:-1], np.ones(groups))
        self.fixed = self.highs.getNumRow()

    def set_box(self, lower: FloatArray, upper: FloatArray) -> None:
        """Set the bounds of y, each (G,)."""
        self.highs.changeColsBounds(self.groups, self.columns[:-1], lower, upper)

    def add_cut(self, constant: float, slope: FloatArray) -> None:
        """State η ≥ constant + slope·y; (G,) slope."""
        if self.highs.getNumRow() > self.pool:
            self._drop_slack_cuts()
        self._last = (constant, slope)
        values = np.append(-slope / self.unit, 1.0)
        self.highs.addRow(
            constant / self.unit, highspy.kHighsInf, len(values), self.columns, values
        )

    def last_value(self, y: FloatArray) -> float:
        """The lower bound of the newest cut at y, prices included."""
        constant, slope = self._last
        return float(constant + slope @ y + self.term.prices(y))

    def run(self, seconds: float) -> tuple[FloatArray, float]:
        """Solve within so many seconds: y (G,) and the value.

        Raises
        ------
        Stopped
            On Ctrl-C, at the end of the time, and where HiGHS finds no solution.
        """
        status = run(self.highs, seconds)
        if status not in (Status.OPTIMAL, Status.INTERRUPTED, Status.TIME_LIMIT):
            self.highs.clearSolver()  # HiGHS sometimes gives up from a warm start only
            status = run(self.highs, seconds)
        if status in (Status.INTERRUPTED, Status.TIME_LIMIT):
            raise Stopped(status)
        if status != Status.OPTIMAL:
            raise Stopped(Status.NUMERICAL)
        y = np.clip(self.highs.getSolution().col_value[: self.groups], 0, 1)
        return y, float(self.highs.getInfo().objective_function_value * self.unit)

    def _drop_slack_cuts(self) -> None:
        basic = highspy.HighsBasisStatus.kBasic
        status = self.highs.getBasis().row_status
        rows = [i for i, s in enumerate(status) if s == basic and i >= self.fixed]
        self.highs.deleteRows(len(rows), np.array(rows, np.int32))
