"""The budget problem as a mixed-integer linear program in HiGHS.

Sets: classes c with allowed widths w_ck and values v_ck; limits m with the cost polynomial
q₀ + Σ_c q_c n_c + Σ_{c≤d} Q_cd n_c n_d. Variables: x_ck ∈ {0, 1}, the choice of width k; n_c ∈ ℤ,
the width; z_ckd ≥ 0, the product x_ck · n_d for every pair c, d with a Q_cd ≠ 0 in some limit.

    max Σ_ck v_ck x_ck
    s.t. Σ_k x_ck = 1,   Σ_k w_ck x_ck = n_c                                  for every class
         Σ_k z_ckd = n_d                                                      for every pair
         min(w_d) x_ck ≤ z_ckd ≤ max(w_d) x_ck                                for every pair and k
         at_least ≤ q₀ + Σ_c q_c n_c + Σ_ck Q_cc w_ck² x_ck
                       + Σ_{c<d} Q_cd Σ_k w_ck z_ckd ≤ at_most                for every limit
         Σ_c floors_fc n_c ≥ floor_sizes_f                                    for every floor

With x binary, the pair's rows leave z_ckd = x_ck n_d and no other: the products are exact. For one
pair they are the convex hull of {(x, n_d, x·n_d)}, with K columns instead of the K² of a product of
two choices. Of each pair the class with fewer products is the one-hot side, which gave the better
bounds: a residual block's own widths, with the stage's width as n_d.
"""

from __future__ import annotations

import highspy
import numpy as np
from numpy.typing import ArrayLike

from formulations.arrays import FloatArray, IntArray
from formulations.budget.problem import BilinearCost, BudgetProblem
from formulations.solving.deadline import Deadline
from formulations.solving.highs import feasible, quiet, run
from formulations.solving.result import Status

# How often a choice that is over the limit by HiGHS's tolerance is sent back.
_ROUNDS = 10


class BudgetModel:
    """The program in HiGHS.

    Parameters
    ----------
    problem : BudgetProblem
    """

    def __init__(self, problem: BudgetProblem) -> None:
        self.problem, self.nodes = problem, 0
        # in units that make HiGHS's absolute tolerances mean the same for every problem
        self.unit = sum(float(np.abs(values).max()) for values in problem.values) or 1.0
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._whole: list[bool] = []
        self._rows: list[tuple[float, float, dict[int, float]]] = []
        self._state()
        self._limit_rows = range(len(self._rows), len(self._rows) + len(problem.limits))
        for limit in problem.limits:
            constant, terms = self._expression(limit.cost)
            scale = max(1, limit.at_most)
            scaled = {column: factor / scale for column, factor in terms.items()}
            low, high = limit.at_least - constant, limit.at_most - constant
            self._rows.append((low / scale, high / scale, scaled))

    def _state(self) -> None:
        """Columns x, n, z and all rows but the limits."""
        problem = self.problem
        # quadratic parts without the diagonal, which the one-hot columns carry
        products = sum(
            (np.triu(limit.cost.polynomial()[2], 1) for limit in problem.limits),
            np.zeros((problem.classes, problem.classes), int),
        )
        self._pairs = self._oriented(products)
        self._x = [self._add(len(widths), 0, 1, True) for widths in problem.widths]
        self._n = self._add(problem.classes, problem.narrowest, problem.widest, True)
        self._z = {
            (c, d): self._add(len(problem.widths[c]), 0, problem.widest[d], False)
            for c, d in self._pairs
        }
        for c, x in enumerate(self._x):
            self._rows.append((1, 1, dict.fromkeys(x.tolist(), 1.0)))
            chosen = dict(zip(x.tolist(), problem.widths[c].tolist(), strict=True))
            self._rows.append((0, 0, {**chosen, int(self._n[c]): -1.0}))
        for (c, d), z in self._z.items():
            self._rows.append((0, 0, {**dict.fromkeys(z.tolist(), 1.0), int(self._n[d]): -1.0}))
            low, high = float(problem.widths[d][0]), float(problem.widths[d][-1])
            for column, choice in zip(z.tolist(), self._x[c].tolist(), strict=True):
                self._rows.append((-np.inf, 0, {column: 1.0, choice: -high}))
                if low > 0:
                    self._rows.append((0, np.inf, {column: 1.0, choice: -low}))
        for factors, size in zip(problem.floors, problem.floor_sizes, strict=True):
            used = np.flatnonzero(factors)
            terms = dict(zip(self._n[used].tolist(), factors[used].tolist(), strict=True))
            self._rows.append((float(size), np.inf, terms))

    def _oriented(self, products: IntArray) -> list[tuple[int, int]]:
        """Pairs with a product, the class with fewer of them first."""
        partners = ((products + products.T) > 0).sum(axis=1)
        pairs = [(int(c), int(d)) for c, d in np.argwhere(products)]
        return [(c, d) if partners[c] <= partners[d] else (d, c) for c, d in pairs]

    def _add(self, count: int, lower: ArrayLike, upper: ArrayLike, whole: bool) -> IntArray:
        """So many columns more: their numbers."""
        start = len(self._lower)
        self._lower += np.broadcast_to(lower, count).tolist()
        self._upper += np.broadcast_to(upper, count).tolist()
        self._whole += [whole] * count
        return np.arange(start, start + count)

    def _expression(self, cost: BilinearCost) -> tuple[int, dict[int, float]]:
        """A cost as a constant and factors of the columns."""
        constant, linear, quadratic = cost.polynomial()
        terms = dict(zip(self._n.tolist(), linear.tolist(), strict=True))
        for c, x in enumerate(self._x):
            if quadratic[c, c]:
                squares = (quadratic[c, c] * self.problem.widths[c] ** 2).tolist()
                terms.update(zip(x.tolist(), squares, strict=True))
        for (c, d), z in self._z.items():
            factor = quadratic[min(c, d), max(c, d)]
            if factor:
                products = (factor * self.problem.widths[c]).tolist()
                terms.update(zip(z.tolist(), products, strict=True))
        return constant, terms

    # ---- solving ------------------------------------------------------------------------------

    def maximise(
        self, start: list[int] | None, *, gap: float, deadline: Deadline
    ) -> tuple[list[int] | None, float, Status]:
        """Solve for the best choice.

        Parameters
        ----------
        start : list of int or None
            A feasible choice to begin with.
        gap : float
            Relative gap at which to stop.
        deadline : Deadline

        Returns
        -------
        (list of int or None, float, Status)
            The choice, None if there is none; the upper bound; how the work ended.
        """
        objective = np.zeros(len(self._lower))
        for x, values in zip(self._x, self.problem.values, strict=True):
            objective[x] = values / self.unit
        highs = self._load(objective, gap)
        if start is not None:
            highs.setSolution(self._columns(start))
        bound, choice, status = np.inf, None, Status.OPTIMAL
        for _ in range(_ROUNDS):
            status = self._run(highs, deadline.left)
            # the first program is the widest: its bound holds for all
            bound = min(bound, self._bound(highs, status))
            choice = self._choice(highs)
            if choice is None or status != Status.OPTIMAL:
                break
            if not self._tighten(highs, choice):
                return choice, bound, status
        if choice is not None and not self.problem.feasible(self.problem.at(choice)):
            choice = None
        return choice, bound, status

    def extreme(self, cost: BilinearCost, sign: float, seconds: float) -> list[int] | None:
        """The choice of greatest (``sign`` 1) or least (−1) cost, None if none was found."""
        _, terms = self._expression(cost)
        scale = max(terms.values(), default=1.0) or 1.0
        objective = np.zeros(len(self._lower))
        objective[list(terms)] = [sign * factor / scale for factor in terms.values()]
        highs = self._load(objective, 1e-9)
        self._run(highs, seconds)
        return self._choice(highs)

    def _load(self, objective: FloatArray, gap: float) -> highspy.Highs:
        rows = self._rows
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(self._lower), len(rows)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = objective
        program.col_lower_, program.col_upper_ = np.array(self._lower), np.array(self._upper)
        program.row_lower_ = np.array([low for low, _, _ in rows], float)
        program.row_upper_ = np.array([high for _, high, _ in rows], float)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.cumsum([0, *(len(terms) for _, _, terms in rows)])
        program.a_matrix_.index_ = np.array([c for _, _, terms in rows for c in terms], np.int32)
        values = [float(v) for _, _, terms in rows for v in terms.values()]
        program.a_matrix_.value_ = np.array(values)
        kinds = highspy.HighsVarType
        program.integrality_ = [kinds.kInteger if w else kinds.kContinuous for w in self._whole]
        highs = quiet("primal", "mip")
        highs.setOptionValue("mip_abs_gap", 0.0)
        highs.setOptionValue("mip_rel_gap", gap)
        highs.passModel(program)
        return highs

    def _run(self, highs: highspy.Highs, seconds: float) -> Status:
        if not seconds > 0:
            return Status.TIME_LIMIT
        status = run(highs, seconds)
        self.nodes += max(0, int(highs.getInfo().mip_node_count))
        return status

    def _bound(self, highs: highspy.Highs, status: Status) -> float:
        info = highs.getInfo()
        if status == Status.INFEASIBLE:
            return -np.inf
        if info.mip_node_count < 0 or not np.isfinite(info.mip_dual_bound):
            return np.inf  # ended before there was a bound
        return float(info.mip_dual_bound) * self.unit

    def _choice(self, highs: highspy.Highs) -> list[int] | None:
        """The incumbent as positions in the tables."""
        if not feasible(highs):
            return None
        columns = np.array(highs.getSolution().col_value)
        return [int(columns[x].argmax()) for x in self._x]

    def _columns(self, choice: list[int]) -> highspy.HighsSolution:
        widths = self.problem.at(choice)
        columns = np.zeros(len(self._lower))
        columns[self._n] = widths
        for x, k in zip(self._x, choice, strict=True):
            columns[x[k]] = 1.0
        for (c, d), z in self._z.items():
            columns[z[choice[c]]] = widths[d]
        solution = highspy.HighsSolution()
        solution.col_value = columns.tolist()
        return solution

    def _tighten(self, highs: highspy.Highs, choice: list[int]) -> bool:
        """Move the limits that the choice breaks, within HiGHS's tolerance, inwards; if any."""
        widths, moved = self.problem.at(choice), False
        for row, limit in zip(self._limit_rows, self.problem.limits, strict=True):
            value = limit.cost.value(widths)
            over, under = value - limit.at_most, limit.at_least - value
            if over <= 0 and under <= 0:
                continue
            low, high, terms = self._rows[row]
            scale = max(1, limit.at_most)
            low, high = low + max(0, under) / scale, high - max(0, over) / scale
            self._rows[row] = (low, high, terms)
            highs.changeRowBounds(row, low, high)
            moved = True
        return moved
