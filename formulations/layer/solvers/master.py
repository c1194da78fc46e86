"""The master problem of the outer approximation: a linear program over the indicators, in HiGHS."""

from __future__ import annotations

import highspy
import numpy as np

from formulations.arrays import FloatArray
from formulations.solving.deadline import Stopped
from formulations.solving.highs import quiet, run
from formulations.solving.result import Status
from formulations.solving.safe_bound import unit
from formulations.terms.term import Term

# rows of the linear program above which the slack cuts are dropped
POOL = 3000


class Master:
    """min η + c·y + C·z over the cuts, a linear program in HiGHS.

    Columns: y (G), η, then z (B) of the blocks where indicators are nested, with y_j ≤ z. The
    objective is divided by the mean price, so that HiGHS's absolute tolerances mean the same for
    every problem.

    HiGHS solves to its tolerances; what it says is no bound. Its multipliers λ ≥ 0 of the cuts,
    made to add up to 1, and μ ≥ 0 of the limit Σ y ≤ K, give one (Neumaier & Shcherbina 2004): with
    r = c + μ + Σ λ_i·slope_i no feasible point is below

        Σ λ_i·constant_i − μ·K + min { r·y + C·z  :  y in the box, y_j ≤ z },

    and that minimum is in closed form.

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
        self.most = most if most < groups else None
        self.fixed = self.highs.getNumRow()
        self.lower, self.upper = np.zeros(groups), np.ones(groups)
        # the cuts, as HiGHS has them after the fixed rows
        self._constants: list[float] = []
        self._slopes: list[FloatArray] = []

    def set_box(self, lower: FloatArray, upper: FloatArray) -> None:
        """Set the bounds of y, each (G,)."""
        self.lower, self.upper = lower, upper
        self.highs.changeColsBounds(self.groups, self.columns[:-1], lower, upper)

    def add_cut(self, constant: float, slope: FloatArray) -> None:
        """State η ≥ constant + slope·y; (G,) slope."""
        if self.highs.getNumRow() > self.pool:
            self._drop_slack_cuts()
        self._constants.append(constant)
        self._slopes.append(slope)
        values = np.append(-slope / self.unit, 1.0)
        self.highs.addRow(
            constant / self.unit, highspy.kHighsInf, len(values), self.columns, values
        )

    def last_value(self, y: FloatArray) -> float:
        """The lower bound of the newest cut at y, prices included."""
        constant, slope = self._constants[-1], self._slopes[-1]
        return float(constant + slope @ y + self.term.prices(y))

    def run(self, seconds: float) -> tuple[FloatArray, float, float]:
        """Solve within so many seconds: y (G,), HiGHS's value, and a proved bound on it.

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
        solution = self.highs.getSolution()
        y = np.clip(solution.col_value[: self.groups], 0, 1)
        value = float(self.highs.getInfo().objective_function_value * self.unit)
        return y, value, self.lower_bound(np.asarray(solution.row_dual))

    def lower_bound(self, multipliers: FloatArray) -> float:
        """A proved bound on the linear program from any multipliers of its rows.

        Those of cuts that are negative count as 0; with none left the newest cut has 1.
        """
        share = np.maximum(multipliers[self.fixed :], 0.0)
        if not share.sum() > 0:
            share = np.zeros(len(self._constants))
            share[-1] = 1.0
        share = share / share.sum()
        used = share > 0
        share, slopes = share[used], np.array(self._slopes)[used]
        constants = np.array(self._constants)[used]
        limit = 0.0
        if self.most is not None:
            limit = max(0.0, -float(multipliers[self.fixed - 1])) * self.unit
        reduced = self.price + limit + share @ slopes
        constant = float(share @ constants) - limit * (self.most or 0)
        # the rounding of every sum, relative to the sum of magnitudes
        summed = float(share @ np.abs(constants)) + limit * (self.most or 0)
        summed += float((self.price + limit + share @ np.abs(slopes)).sum())
        block_price = np.zeros(0) if self.term.blocks is None else self.term.block_price
        rounding = unit(len(share), self.groups) * (summed + float(block_price.sum()))
        return constant + self._least(reduced, block_price) - rounding

    def _least(self, reduced: FloatArray, block_price: FloatArray) -> float:
        """Min { r·y + C·z : y in the box, y_j ≤ z }."""
        paid = np.where(reduced > 0, reduced * self.lower, reduced * self.upper)
        if self.term.blocks is None:
            return float(paid.sum())
        # z = 1 where a group of the block is kept; else all of the block together, or none of it
        count = len(block_price)
        total = block_price + np.bincount(self.term.blocks, paid, count)
        held = np.bincount(self.term.blocks, self.lower, count) > 0
        return float(np.where(held, total, np.minimum(total, 0.0)).sum())

    def _drop_slack_cuts(self) -> None:
        basic = highspy.HighsBasisStatus.kBasic
        status = self.highs.getBasis().row_status
        rows = [i for i, s in enumerate(status) if s == basic and i >= self.fixed]
        self.highs.deleteRows(len(rows), np.array(rows, np.int32))
        dropped = {row - self.fixed for row in rows}
        kept = [i for i in range(len(self._constants)) if i not in dropped]
        self._constants = [self._constants[i] for i in kept]
        self._slopes = [self._slopes[i] for i in kept]
