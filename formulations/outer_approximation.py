"""The layer problem solved by HiGHS: outer approximation in the indicators.

HiGHS solves linear mixed-integer problems, not convex quadratic ones with integers. For given
indicators y ∈ [0, 1]^G the best weights leave a convex function of y alone,

    f(y) = min_W  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j y_j φ(W_j / y_j),    |W| ≤ M y     (perspective)
    f(y) = min_W  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j φ(W_j),             |W| ≤ M y     (big-M)

which agree at binary y and differ between. Every V ∈ R^{D×O}, with v = B − G·V, gives a valid
linear under-estimator by Fenchel duality,

    f(y) ≥ −½⟨V, G V⟩ + c₀ − Σ_j y_j φ_B*(v_j)                                    (perspective)

and for the big-M form the tangent in y of the same with sup{⟨v, w⟩ − φ(w) : |w| ≤ M y}; it is
tight where V is the inner minimiser. These are the perspective cuts of Frangioni & Gentile (2006),
added up with their multipliers, so that the master problem has a column for each group instead of
several for each weight (generalised Benders; Bertsimas & Van Parys 2020). HiGHS minimises
η + c·y over the cuts: first as a linear program until the relaxation has converged, then with y
binary, refitting on each support for an incumbent, until the bound meets the incumbent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import highspy
import numpy as np
from scipy.optimize import lsq_linear

from formulations.layer import LayerProblem
from formulations.solution import Solution, relative_gap

_FORMS = ("perspective", "big-m")
_ROUNDS = 100_000
# HiGHS's own tolerances: tighter than its defaults, because the answers are used as certificates.
_FEASIBILITY = 1e-9
# In-out separation (Ben-Ameur & Neto 2007): cut between the LP point and the best point known.
_INWARD = 0.5


def solve(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    tolerance: float = 1e-4,
    time_limit: float = float("inf"),
) -> Solution:
    """Solve the pruning MIP of a layer exactly.

    Parameters
    ----------
    problem : LayerProblem
    form : {"perspective", "big-m"}
        Which relaxation the cuts describe. The optimum is the same; the bounds on the way are not.
    tolerance : float
        Relative gap at which to stop.
    time_limit : float
        Seconds, positive. When it is over, or on Ctrl-C, the incumbent is returned with its true
        bound.

    Raises
    ------
    ValueError
        Unknown form, tolerance or time limit not positive.
    """
    loop = _Loop(problem, form, tolerance, time_limit)
    status = "optimal"
    try:
        loop.converge_relaxation(max(tolerance / 10, 1e-7))
        loop.refine_integer(tolerance)
    except KeyboardInterrupt:
        status = "interrupted"
    except _Stopped as stop:
        status = stop.status
    best = loop.incumbent
    if relative_gap(best.objective, loop.bound) <= tolerance:
        status = "optimal"
    return Solution(
        objective=best.objective,
        bound=min(loop.bound, best.objective),
        status=status,
        support=best.support,
        weights=best.weights,
        nodes=loop.nodes,
        seconds=loop.elapsed,
        solver=f"highs/{form}",
    )


def relax(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    tolerance: float = 1e-6,
    time_limit: float = float("inf"),
) -> Solution:
    """Solve the continuous relaxation, y ∈ [0, 1]. Parameters as in :func:`solve`.

    Returns
    -------
    Solution
        ``objective`` is the relaxation's value at ``weights``, ``bound`` HiGHS's bound on it,
        ``support`` the groups with y above ½.
    """
    loop = _Loop(problem, form, tolerance, time_limit)
    status = "optimal"
    try:
        loop.converge_relaxation(tolerance)
    except KeyboardInterrupt:
        status = "interrupted"
    except _Stopped as stop:
        status = stop.status
    return Solution(
        objective=loop.relaxed.objective,
        bound=min(loop.bound, loop.relaxed.objective),
        status=status,
        support=loop.relaxed.indicator > 0.5,
        weights=loop.relaxed.weights,
        nodes=0,
        seconds=loop.elapsed,
        solver=f"highs/{form}-relaxation",
    )


class _Stopped(Exception):
    def __init__(self, status: str):
        super().__init__(status)
        self.status = status


@dataclass
class _Incumbent:
    objective: float
    support: np.ndarray
    weights: np.ndarray


@dataclass
class _Relaxed:
    objective: float
    indicator: np.ndarray
    weights: np.ndarray


class _Loop:
    """The cutting-plane loop: the master problem, the bound, the incumbent, the relaxed point."""

    def __init__(self, problem: LayerProblem, form: str, tolerance: float, time_limit: float):
        if form not in _FORMS:
            raise ValueError(f"unknown form {form!r}: one of {', '.join(_FORMS)}")
        if not tolerance > 0:
            raise ValueError(f"the tolerance must be positive: it is {tolerance:g}")
        if not time_limit > 0:
            raise ValueError(f"the time limit must be positive: it is {time_limit:g}")
        self.start, self.limit = time.perf_counter(), time_limit
        self.problem, self.form, self.nodes = problem, form, 0
        self.price = np.broadcast_to(problem.term.price, (problem.groups,))
        self.incumbent = self._evaluate(np.zeros(problem.groups, bool))
        everything = np.ones(problem.groups, bool)
        self._offer(everything)
        self.big_m = (
            problem.valid_bounds(self.incumbent.objective)
            if form == "big-m"
            else problem.per_row(problem.term.bound)[:, None] * np.ones_like(problem.cross)
        )
        self.relaxed = _Relaxed(np.inf, everything.astype(float), self.incumbent.weights)
        self.bound = -np.inf
        self.master = _Master(self.price, tolerance)
        self.cut(np.ones(problem.groups))

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    # ---- the two loops ------------------------------------------------------------------------

    def converge_relaxation(self, tolerance: float):
        """Cut the linear relaxation until its bound meets the best relaxed point."""
        inward = _INWARD
        for _ in range(_ROUNDS):
            y = self._run_master()
            if relative_gap(self.relaxed.objective, self.bound) <= tolerance:
                return
            before = self.bound
            self.cut(inward * self.relaxed.indicator + (1 - inward) * y)
            # A cut between the two points may leave the LP point feasible: then go all the way.
            inward = _INWARD if self.master.last_value(y) > before + abs(before) * 1e-12 else 0.0
        raise _Stopped("round_limit")

    def refine_integer(self, tolerance: float):
        """Make y binary; solve, refit and cut until the gap is within the tolerance."""
        self._offer(self.relaxed.indicator > 0.5)
        self.improve_incumbent()
        self.cut(self.incumbent.support.astype(float))
        self.master.make_integer()
        for _ in range(_ROUNDS):
            if relative_gap(self.incumbent.objective, self.bound) <= tolerance:
                return
            support = self._run_master() > 0.5
            self._offer(support)
            self.cut(support.astype(float))
        raise _Stopped("round_limit")

    def improve_incumbent(self):
        """Local search: flip the one group that helps most, until none does."""
        while self.elapsed < self.limit:
            best = self.incumbent
            for group in range(self.problem.groups):
                trial = best.support.copy()
                trial[group] = not trial[group]
                self._offer(trial)
            if self.incumbent is best:
                return

    def _run_master(self) -> np.ndarray:
        left = self.limit - self.elapsed
        if left <= 0:
            raise _Stopped("time_limit")
        result = self.master.run(left)
        self.nodes += result.nodes
        self.bound = max(self.bound, result.bound)
        if result.stopped:
            raise _Stopped(result.stopped)
        return result.indicator

    # ---- cuts and points ----------------------------------------------------------------------

    def cut(self, y: np.ndarray):
        """Add the cut of the inner problem at y, and keep its weights if they relax better."""
        weights = self._inner(y)
        constant, slope = self.under_estimator(weights, y)
        self.master.add_cut(constant, slope)
        indicator = self.relaxed_indicator(weights)
        value = self.relaxed_value(weights, indicator)
        if value < self.relaxed.objective:
            self.relaxed = _Relaxed(value, indicator, weights)

    def _inner(self, y: np.ndarray) -> np.ndarray:
        """W minimising the inner problem at y, (D, O)."""
        problem = self.problem
        weights = np.zeros_like(problem.cross)
        alive = problem.rows(y > 1e-9)
        if not alive.any():
            return weights
        lanes = problem.per_row(y)[alive]
        ridge = 2 * problem.per_row(problem.term.shrinkage)[alive]
        hessian = problem.gram[np.ix_(alive, alive)].copy()
        hessian[np.diag_indices_from(hessian)] += (
            ridge / lanes if self.form == "perspective" else ridge
        )
        fit = np.linalg.solve(hessian, problem.cross[alive])
        bound = self.big_m[alive] * lanes[:, None]
        outside = (np.abs(fit) > bound).any(axis=0)
        if outside.any():
            factor = np.linalg.cholesky(hessian).T
            target = np.linalg.solve(factor.T, problem.cross[alive])
            for n in np.flatnonzero(outside):
                box = bound[:, n]
                fit[:, n] = lsq_linear(factor, target[:, n], (-box, box), method="bvls").x
        weights[alive] = fit
        return weights

    def under_estimator(self, weights: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """(constant, slope) with f(y') ≥ constant + slope·y' for every y'; tight at y if V is."""
        problem = self.problem
        image = problem.gram @ weights
        v = problem.cross - image
        constant = problem.constant - 0.5 * float(np.vdot(weights, image))
        if self.form == "perspective":
            return constant, -problem.term.shrinkage_conjugate(problem.by_group(v))
        a = problem.per_row(problem.term.shrinkage)[:, None]
        size, box = np.abs(v), self.big_m * problem.per_row(y)[:, None]
        best = np.minimum(size / (2 * a), box)
        supremum = problem.by_group(size * best - a * best**2).sum(axis=1)
        slope = problem.by_group(self.big_m * np.maximum(0.0, size - 2 * a * box)).sum(axis=1)
        return constant - float((supremum - slope * y).sum()), -slope

    def relaxed_indicator(self, weights: np.ndarray) -> np.ndarray:
        """Best y for given weights, (G,): y* of the term, or max |w|/M in the big-M form."""
        if self.form == "perspective":
            return self.problem.term.keep(self.problem.by_group(weights))
        share = np.abs(weights) / self.big_m
        return np.minimum(1.0, self.problem.by_group(share).max(axis=1))

    def relaxed_value(self, weights: np.ndarray, indicator: np.ndarray) -> float:
        """Objective of the continuous relaxation at weights and their best indicators."""
        if self.form == "perspective":
            return self.problem.relaxed_objective(weights)
        none = np.zeros(self.problem.groups, bool)
        return self.problem.objective(weights, none) + float(self.price @ indicator)

    def _evaluate(self, support: np.ndarray) -> _Incumbent:
        weights = self.problem.refit(support)
        return _Incumbent(self.problem.objective(weights, support), support, weights)

    def _offer(self, support: np.ndarray):
        trial = self._evaluate(support)
        if trial.objective < self.incumbent.objective:
            self.incumbent = trial


@dataclass
class _Run:
    indicator: np.ndarray
    bound: float
    nodes: int
    stopped: str  # empty if HiGHS finished


class _Master:
    """min η + c·y over the cuts, in HiGHS. Columns: y (G), then η.

    The objective is divided by the mean price, so that HiGHS's absolute tolerances mean the same
    for every problem.
    """

    def __init__(self, price: np.ndarray, tolerance: float):
        self.groups, self.price, self.unit = len(price), price, float(price.mean())
        self.integer = False
        self.highs = highspy.Highs()
        self.highs.silent()
        for option, value in (
            ("primal_feasibility_tolerance", _FEASIBILITY),
            ("dual_feasibility_tolerance", _FEASIBILITY),
            ("mip_feasibility_tolerance", _FEASIBILITY),
            ("mip_rel_gap", tolerance / 4),
            ("mip_abs_gap", 0.0),
        ):
            self.highs.setOptionValue(option, value)
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

    def add_cut(self, constant: float, slope: np.ndarray):
        """η ≥ constant + slope·y."""
        self._last = (constant, slope)
        columns = np.arange(self.groups + 1, dtype=np.int32)
        values = np.append(-slope / self.unit, 1.0)
        self.highs.addRow(constant / self.unit, highspy.kHighsInf, len(columns), columns, values)

    def last_value(self, y: np.ndarray) -> float:
        """The lower bound of the newest cut at y, prices included."""
        constant, slope = self._last
        return constant + slope @ y + self.price @ y

    def make_integer(self):
        """Declare y binary."""
        columns = np.arange(self.groups, dtype=np.int32)
        kind = np.full(self.groups, highspy.HighsVarType.kInteger)
        self.highs.changeColsIntegrality(self.groups, columns, kind)
        self.integer = True

    def run(self, seconds: float) -> _Run:
        """Solve within so many seconds; on Ctrl-C cancel, and say so."""
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
        status, info = self.highs.getModelStatus(), self.highs.getInfo()
        finished = status == highspy.HighsModelStatus.kOptimal
        stops = (highspy.HighsModelStatus.kTimeLimit, highspy.HighsModelStatus.kInterrupt)
        if not finished and status not in stops:
            name = self.highs.modelStatusToString(status)
            raise RuntimeError(f"HiGHS stopped on the master problem with status {name}")
        bound = -np.inf
        if self.integer:
            bound = info.mip_dual_bound
        elif finished:
            bound = info.objective_function_value
        stopped = "interrupted" if interrupted else "" if finished else "time_limit"
        return _Run(
            indicator=np.clip(self.highs.getSolution().col_value[: self.groups], 0, 1),
            bound=bound * self.unit if np.isfinite(bound) else -np.inf,
            nodes=max(0, int(info.mip_node_count)) if self.integer else 0,
            stopped=stopped,
        )
