"""The layer problem solved by HiGHS: outer approximation in the indicators.

HiGHS solves linear mixed-integer problems, not convex quadratic ones with integers. For given
indicators y ∈ [0, 1]^G the best weights leave a convex function of y alone,

    f(y) = min_W  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j y_j φ(W_j / y_j),    |W| ≤ M y     (perspective)
    f(y) = min_W  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j φ(W_j),             |W| ≤ M y     (big-M)

which agree at binary y and differ between; with an extraction, G stands for G − 2δI. Every
V ∈ R^{D×O}, with v = B − G·V, gives a valid linear under-estimator by Fenchel duality,

    f(y) ≥ −½⟨V, G V⟩ + c₀ − Σ_j y_j φ_B*(v_j)                                    (perspective)

and for the big-M form the tangent in y of the same with sup{⟨v, w⟩ − φ(w) : |w| ≤ M y}; it is
tight where V is the inner minimiser. These are the perspective cuts of Frangioni & Gentile (2006),
added up with their multipliers, so that the master problem has a column for each group instead of
several for each weight (generalised Benders; Bertsimas & Van Parys 2020). HiGHS minimises
η + c·y over the cuts. A tree over y, in which each node cuts its own linear program until it has
converged, closes the rest of the gap (LP/NLP branch and bound, Quesada & Grossmann 1992): cuts at
binary points alone say little about the points between, and a MILP solver that may not ask for
cuts on the way then enumerates. Cuts are valid in the whole tree and are kept in one pool;
incumbents are refits on the nodes' supports.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from formulations.errors import InputError
from formulations.layer.extraction.extract import extract
from formulations.layer.problem import LayerProblem
from formulations.layer.solvers.master import FEASIBILITY, Master
from formulations.solving.deadline import Clock, Stopped, attempt
from formulations.solving.result import (
    Progress,
    Solution,
    check_cardinality,
    check_limits,
    relative_gap,
)
from formulations.terms import prox_search
from formulations.terms.term import Partition

_FORMS = ("perspective", "big-m")
_ROUNDS = 100_000
# In-out separation (Ben-Ameur & Neto 2007): cut between the LP point and the best point known.
_INWARD = 0.5


def solve(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    extraction: str = "none",
    cardinality: int | None = None,
    tolerance: float = 1e-4,
    time_limit: float = float("inf"),
    on_progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Solve the pruning MIP of a layer exactly.

    Parameters
    ----------
    problem : LayerProblem
    form : {"perspective", "big-m"}
        Which relaxation the cuts describe. The optimum is the same; the bounds on the way are not.
    extraction : {"none", "schur", "ascent", "sdp"}
        See :func:`formulations.layer.extraction.extract.extract`; for the perspective form.
    cardinality : int, optional
        Largest number of groups kept.
    tolerance : float
        Relative gap at which to stop.
    time_limit : float
        Seconds, positive. When it is over, or on Ctrl-C, the incumbent is returned with its true
        bound.
    on_progress : callable, optional
        Called now and then with the state of the solve.

    Raises
    ------
    InputError
        Unknown form or extraction, tolerance or time limit not positive.
    """
    loop = _Loop(problem, form, extraction, cardinality, tolerance, time_limit)
    loop.on_progress = on_progress
    status = attempt(lambda: (loop.solve_root(tolerance / 4), loop.branch_and_bound(tolerance)))
    best = loop.incumbent
    return Solution(
        objective=best.objective,
        bound=min(loop.bound, best.objective),
        status=loop.judge(status, relative_gap(best.objective, loop.bound)),
        support=best.support,
        weights=loop.extracted.weights(best.weights),
        nodes=loop.nodes,
        seconds=loop.clock.elapsed,
        solver=f"highs/{form}",
    )


def relax(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    extraction: str = "none",
    cardinality: int | None = None,
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
    loop = _Loop(problem, form, extraction, cardinality, tolerance, time_limit)
    status = attempt(lambda: loop.solve_root(tolerance))
    root = loop.root
    value = loop.relaxed_value(root.weights, root.indicator)
    return Solution(
        objective=value,
        bound=min(root.bound, value),
        status=loop.judge(status, relative_gap(value, root.bound)),
        support=root.indicator > 0.5,
        weights=loop.extracted.weights(root.weights),
        nodes=0,
        seconds=loop.clock.elapsed,
        solver=f"highs/{form}-relaxation",
    )


@dataclass
class _Incumbent:
    objective: float
    support: np.ndarray
    weights: np.ndarray


@dataclass
class _Node:
    """Indicators between ``lower`` and ``upper``; the node's bound and best relaxed point."""

    lower: np.ndarray
    upper: np.ndarray
    bound: float
    indicator: np.ndarray
    weights: np.ndarray

    def branch(self, group: int) -> tuple[_Node, _Node]:
        """The two children: the group kept, the group removed."""
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[group], upper[group] = 1.0, 0.0
        return tuple(
            _Node(low, high, self.bound, np.clip(self.indicator, low, high), self.weights)
            for low, high in ((lower, self.upper), (self.lower, upper))
        )


class _Loop:
    """Cuts, nodes, the bound and the incumbent of one solve."""

    on_progress: Callable[[Progress], None] | None = None

    def __init__(
        self,
        problem: LayerProblem,
        form: str,
        extraction: str,
        cardinality: int | None,
        tolerance: float,
        time_limit: float,
    ):
        if form not in _FORMS:
            raise InputError(f"unknown form {form!r}: one of {', '.join(_FORMS)}")
        check_limits(tolerance, time_limit)
        self.clock = Clock(float("inf"))  # the first incumbents are not broken off
        self.tolerance = tolerance
        self.most = check_cardinality(cardinality, problem.groups)
        if form == "big-m" and extraction != "none":
            raise InputError("extraction tightens the perspective form: it does nothing for big-m")
        self.extracted = extract(problem, extraction)
        self.problem = problem = self.extracted.problem.bounded()
        self.form, self.nodes = form, 0
        self.partition = Partition(np.full(problem.groups, problem.block * problem.outputs))
        self.incumbent = self._evaluate(np.zeros(problem.groups, bool))
        everything = np.ones(problem.groups, bool)
        self._offer(everything)
        if form == "big-m":
            self.big_m = problem.valid_bounds(self.incumbent.objective)
            if not np.isfinite(self.big_m).all():
                raise InputError("the big-M form needs a bound M: none follows from loss and φ")
        self.price = problem.price
        self.master = Master(problem.term, problem.groups, self.most)
        weights = self.cut(everything.astype(float))
        # one cut bounds the relaxation in closed form, before any linear program
        constant, slope = self.under_estimator(weights, everything.astype(float))
        self.bound = constant + float(np.minimum(0.0, slope + self.price).sum())
        self.root = _Node(
            np.zeros(problem.groups),
            np.ones(problem.groups),
            self.bound,
            self.relaxed_indicator(weights),
            weights,
        )
        self.clock.limit = time_limit

    def judge(self, status: str, gap: float) -> str:
        """The status of a solution with this gap, given how the work ended."""
        if gap <= self.tolerance:
            return "optimal"
        return "numerical" if status == "optimal" else status

    # ---- the tree -----------------------------------------------------------------------------

    def converge(self, node: _Node, tolerance: float, cutoff: float = np.inf) -> None:
        """Cut a node's linear program until its bound meets the best relaxed point found in it.

        Sets the node's bound and its indicator; stops early where the bound passes ``cutoff``.
        """
        self.master.set_box(node.lower, node.upper)
        best = np.inf  # the parent's point need not be feasible here
        inward = _INWARD
        for _ in range(_ROUNDS):
            y, node.bound = self._run_master(node.bound)
            if node.bound >= cutoff or relative_gap(best, node.bound) <= tolerance:
                return
            mix = inward if np.isfinite(best) else 0.0
            point = mix * node.indicator + (1 - mix) * y
            weights = self.cut(point)
            indicator = np.clip(self.relaxed_indicator(weights), node.lower, node.upper)
            if indicator.sum() > self.most:
                indicator = point  # on the limit, the best y of these weights is not at hand
            value = self.relaxed_value(weights, indicator)
            if value < best:
                best, node.indicator, node.weights = value, indicator, weights
            # A cut between the two points may leave the LP point feasible: then go all the way.
            ahead = self.master.last_value(y) > node.bound + abs(node.bound) * FEASIBILITY
            if not ahead and inward == 0.0:
                return  # as exact as the linear programs' own tolerances allow
            inward = _INWARD if ahead else 0.0
        raise Stopped("round_limit")

    def solve_root(self, tolerance: float) -> _Node:
        """The continuous relaxation."""
        root = self.root
        try:
            self.converge(root, tolerance)
        finally:
            self.bound = root.bound
        return root

    def branch_and_bound(self, tolerance: float):
        """Best-first search; the bound is the least over the open nodes and the closed leaves."""
        self._offer(self.root.indicator > 0.5)
        self.improve_incumbent()
        leaves = np.inf
        queue = [(self.root.bound, 0, self.root)]
        self.nodes = 1
        while queue:
            self.bound = min(leaves, queue[0][0])
            self._report()
            cutoff = self.incumbent.objective - tolerance * abs(self.incumbent.objective)
            if self.bound >= cutoff:
                return
            _, _, node = heapq.heappop(queue)
            doubt = np.minimum(node.indicator, 1 - node.indicator)
            if doubt.max() <= 1e-9:
                leaves = min(leaves, node.bound)
                continue
            for child in node.branch(int(doubt.argmax())):
                self.nodes += 1
                self.converge(child, tolerance / 4, self.incumbent.objective)
                self._offer(child.indicator > 0.5)
                if child.bound < self.incumbent.objective:
                    heapq.heappush(queue, (child.bound, self.nodes, child))
        self.bound = min(leaves, self.incumbent.objective)

    def improve_incumbent(self):
        """Local search: flip the one group that helps most, until none does."""
        while True:
            best = self.incumbent
            for group in range(self.problem.groups):
                trial = best.support.copy()
                trial[group] = not trial[group]
                self.clock.check()
                self._offer(trial)
            if self.incumbent is best:
                return

    def _run_master(self, bound: float) -> tuple[np.ndarray, float]:
        """The linear program's point, and the better of its value and a known bound."""
        self.clock.check()
        y, value = self.master.run(self.clock.left)
        return y, max(bound, value)

    # ---- cuts and points ----------------------------------------------------------------------

    def cut(self, y: np.ndarray) -> np.ndarray:
        """Add the cut of the inner problem at y; its weights."""
        weights = self._inner(y)
        self.master.add_cut(*self.under_estimator(weights, y))
        return weights

    def _inner(self, y: np.ndarray) -> np.ndarray:
        """W minimising the inner problem at y, (D, O)."""
        limit = None
        if self.form == "big-m":
            limit = self.big_m * self.problem.per_row(y)[:, None]
        return self.problem.best_weights(y, limit=limit, pause=self.clock.check)

    def under_estimator(self, weights: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """(constant, slope) with f(y') ≥ constant + slope·y' for every y'; tight at y if V is."""
        problem = self.problem
        image = problem.curvature @ weights
        v = problem.cross - image
        constant = problem.constant - 0.5 * float(np.vdot(weights, image))
        if self.form == "perspective":
            return constant, -problem.term.shrinkage_conjugate(problem.by_group(v))
        box = self.big_m * problem.per_row(y)[:, None]
        supremum, multiplier = prox_search.conjugate_in_box(
            problem.term.take(np.ones(problem.groups, bool)),
            *(np.abs(v).ravel(), box.ravel(), self.partition.layout),
        )
        slope = self.partition.sum(self.big_m.ravel() * multiplier)
        return constant - float((supremum - slope * y).sum()), -slope

    def relaxed_indicator(self, weights: np.ndarray) -> np.ndarray:
        """Best y for given weights, (G,): y* of the term, or max |w|/M in the big-M form."""
        if self.form == "perspective":
            return self.problem.term.keep(self.problem.by_group(weights))
        # a bound of 0 leaves the weight 0, whatever y
        share = np.abs(weights) / np.where(self.big_m > 0, self.big_m, 1.0)
        return np.minimum(1.0, self.problem.by_group(share).max(axis=1))

    def relaxed_value(self, weights: np.ndarray, y: np.ndarray) -> float:
        """Objective of the continuous relaxation at weights and indicators."""
        term, groups = self.problem.term, self.problem.by_group(weights)
        perspective = self.form == "perspective"
        shrinkage = term.perspective(groups, y) if perspective else term.shrinkage(groups)
        return self.problem.loss(weights) + float(shrinkage.sum()) + term.prices(y)

    def _evaluate(self, support: np.ndarray) -> _Incumbent:
        weights = self.problem.refit(support, self.clock.check)
        return _Incumbent(self.problem.objective(weights, support), support, weights)

    def _report(self) -> None:
        if self.on_progress:
            self.on_progress(
                Progress(self.incumbent.objective, self.bound, self.nodes, self.clock.elapsed)
            )

    def _offer(self, support: np.ndarray):
        if support.sum() > self.most:
            return
        trial = self._evaluate(support)
        if trial.objective < self.incumbent.objective:
            self.incumbent = trial
