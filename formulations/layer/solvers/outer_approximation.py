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
η + c·y over the cuts. A tree over y (:mod:`formulations.solving.tree`), in which each node cuts its
own linear program until it has converged (:mod:`formulations.layer.solvers.cuts`), closes the rest
of the gap (LP/NLP branch and bound, Quesada & Grossmann 1992): cuts at binary points alone say
little about the points between, and a MILP solver that may not ask for cuts on the way then
enumerates. Cuts are valid in the whole tree and are kept in one pool; incumbents are refits on the
nodes' supports.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.extraction.extract import extract
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.solvers.cuts import BigMCuts, CutRelaxation, PerspectiveCuts
from formulations.layer.solvers.master import POOL, Master
from formulations.solving.deadline import Deadline, attempt
from formulations.solving.incumbents import Incumbents
from formulations.solving.node import Node
from formulations.solving.result import (
    Progress,
    Solution,
    check_cardinality,
    check_positive,
    judge,
    relative_gap,
)
from formulations.solving.tree import Tree

FORMS = {"perspective": PerspectiveCuts, "big-m": BigMCuts}


def solve(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    extraction: str = "none",
    cardinality: int | None = None,
    gap: float = 1e-4,
    seconds: float | Deadline = float("inf"),
    pool: int = POOL,
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
    gap : float
        Relative gap at which to stop.
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its
        true bound.
    pool : int
        Cuts that are kept before the slack ones are dropped.
    on_progress : callable, optional
        Called now and then with the state of the solve.

    Raises
    ------
    InputError
        Unknown form or extraction, gap or time limit not positive.
    """
    check_positive("gap", gap)
    start = _Start(problem, form, extraction, cardinality, gap / 4, seconds, pool)
    tree = Tree(
        *(start.incumbents, start.relaxation, start.deadline, gap),
        plunge=0.0,
        on_progress=on_progress,
    )

    def work() -> None:
        start.solve_root()
        start.incumbents.offer(start.root.indicator > 0.5)
        start.incumbents.search()
        tree.grow(start.root)

    status = attempt(work)
    best = start.incumbents
    bound = max(tree.bound, start.root.bound)
    return Solution(
        objective=best.objective,
        bound=min(bound, best.objective),
        status=judge(status, closed=relative_gap(best.objective, bound) <= gap),
        support=best.support,
        weights=start.extracted.weights(best.weights),
        nodes=tree.nodes,
        seconds=start.deadline.elapsed,
        solver=f"highs/{form}",
    )


def relax(
    problem: LayerProblem,
    form: str = "perspective",
    *,
    extraction: str = "none",
    cardinality: int | None = None,
    tolerance: float = 1e-6,
    seconds: float | Deadline = float("inf"),
) -> Solution:
    """Solve the continuous relaxation, y ∈ [0, 1].

    Parameters
    ----------
    problem, form, extraction, cardinality, seconds
        As in :func:`solve`.
    tolerance : float
        Relative distance of the relaxation's value and its bound at which to stop.

    Returns
    -------
    Solution
        ``objective`` is the relaxation's value at ``weights``, ``bound`` HiGHS's bound on it,
        ``support`` the groups with y above ½.

    Raises
    ------
    InputError
        As :func:`solve`.
    """
    check_positive("tolerance", tolerance)
    start = _Start(problem, form, extraction, cardinality, tolerance, seconds)
    status = attempt(start.solve_root)
    root = start.root
    value = start.relaxation.cuts.relaxed_value(root.warm, root.indicator)
    return Solution(
        objective=value,
        bound=min(root.bound, value),
        status=judge(status, closed=relative_gap(value, root.bound) <= tolerance),
        support=root.indicator > 0.5,
        weights=start.extracted.weights(root.warm),
        nodes=0,
        seconds=start.deadline.elapsed,
        solver=f"highs/{form}-relaxation",
    )


class _Refits(Incumbents):
    """Supports with their weights, for any term."""

    def __init__(self, problem: LayerProblem, most: int, pause: Callable[[], None]) -> None:
        self.problem, self.pause = problem, pause
        nothing = np.zeros(problem.groups, bool)
        super().__init__(problem.groups, most, self.value(nothing))
        self.weights = self._last

    def value(self, support: BoolArray) -> float:
        self._last: FloatArray = refit(self.problem, support, self.pause)
        return self.problem.objective(self._last, support)

    def improve(self) -> None:
        self.weights = self._last

    def lower_bound(self, support: BoolArray) -> float:
        raise NotImplementedError  # nodes are closed at their own bounds

    def search(self) -> None:
        """Local search: flip the one group that helps most, until none does."""
        while True:
            best = self.support
            for group in range(len(best)):
                trial = best.copy()
                trial[group] = not trial[group]
                self.pause()
                self.offer(trial)
            if self.support is best:
                return


class _Start:
    """What a solve starts from: first incumbents, a first cut, the root that it bounds."""

    def __init__(
        self,
        problem: LayerProblem,
        form: str,
        extraction: str,
        cardinality: int | None,
        tolerance: float,
        seconds: float | Deadline,
        pool: int = POOL,
    ) -> None:
        if form not in FORMS:
            raise InputError(f"unknown form {form!r}: one of {', '.join(FORMS)}")
        self.deadline = Deadline.of(seconds)
        most = check_cardinality(cardinality, problem.groups)
        if form == "big-m" and extraction != "none":
            raise InputError("extraction tightens the perspective form: it does nothing for big-m")
        self.extracted = extract(problem, extraction)
        problem = bounded(self.extracted.problem)
        pause = self.deadline.check
        with self.deadline.held():  # the first incumbents are not broken off
            self.incumbents = _Refits(problem, most, pause)
            everything = np.ones(problem.groups, bool)
            self.incumbents.offer(everything)
            cuts = FORMS[form](problem, self.incumbents.objective, pause)
            master = Master(problem.term, problem.groups, most, pool)
            self.relaxation = CutRelaxation(cuts, master, self.incumbents, tolerance, self.deadline)
            ones = everything.astype(float)
            weights = self.relaxation.cut(ones)
            # one cut bounds the relaxation in closed form, before any linear program
            constant, slope = cuts.under_estimator(weights, ones)
        self.root = Node.root(problem.groups)
        self.root.bound = constant + float(np.minimum(0.0, slope + problem.price).sum())
        self.root.indicator, self.root.warm = cuts.indicator(weights), weights
        self.root.surplus = None

    def solve_root(self) -> None:
        """Solve the continuous relaxation."""
        self.relaxation.converge(self.root)
