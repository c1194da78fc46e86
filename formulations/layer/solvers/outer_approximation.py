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
from formulations.layer.big_m import bounded, first_choice
from formulations.layer.extraction.extract import EXTRACTION, extract
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.relaxations.base import trivial_bound
from formulations.layer.solvers.cuts import BigMCuts, CutRelaxation, Cuts, PerspectiveCuts
from formulations.layer.solvers.master import POOL, Master
from formulations.layer.units import InUnits
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

FORMS: dict[str, type[Cuts]] = {"perspective": PerspectiveCuts, "big-m": BigMCuts}


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
    deadline, units = Deadline.of(seconds), InUnits.of(problem)
    work = _Work(units.problem, form, extraction, cardinality, gap / 4, deadline, pool)
    status = attempt(lambda: work.search(gap, units.told(on_progress)))
    best, nodes = work.incumbents, work.tree.nodes if work.tree else 0
    bound = work.bound
    return units.solution(
        Solution(
            objective=best.objective,
            bound=min(bound, best.objective),
            status=judge(status, closed=relative_gap(best.objective, bound) <= gap),
            support=best.support,
            weights=best.weights,
            nodes=nodes,
            seconds=deadline.elapsed,
            solver=f"highs/{form}",
        )
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
        ``objective`` is the relaxation's value at ``weights``, ``bound`` a proved bound on it,
        ``support`` the groups with y above ½.

    Raises
    ------
    InputError
        As :func:`solve`.
    """
    check_positive("tolerance", tolerance)
    deadline, units = Deadline.of(seconds), InUnits.of(problem)
    work = _Work(units.problem, form, extraction, cardinality, tolerance, deadline)
    status = attempt(work.relax)
    root = work.root
    value = work.cuts.relaxed_value(root.warm, root.indicator) if work.cuts else work.inner.constant
    return units.solution(
        Solution(
            objective=value,
            bound=min(root.bound, value),
            status=judge(status, closed=relative_gap(value, root.bound) <= tolerance),
            support=root.indicator > 0.5,
            weights=work.extracted.weights(root.warm),
            nodes=0,
            seconds=deadline.elapsed,
            solver=f"highs/{form}-relaxation",
        )
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

    def consider(self, support: BoolArray, weights: FloatArray) -> None:
        """Take a support with weights that are at hand, if they are better."""
        value = self.problem.objective(weights, support)
        if value < self.objective:
            self.take(support, value)
            self.weights = weights

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


class _Work:
    """One solve: the stated problem's incumbents, and the relaxation that bounds them.

    Parameters
    ----------
    problem : LayerProblem
        In units of its own.
    form, extraction, cardinality
        As of :func:`solve`.
    tolerance : float
        Relative distance of a node's bound and its best relaxed point.
    deadline : Deadline
    pool : int

    Attributes
    ----------
    root : Node
        Bounded in closed form, at no weights, before any linear program.
    cuts, tree
        None before there is time for them.
    """

    def __init__(
        self,
        problem: LayerProblem,
        form: str,
        extraction: str,
        cardinality: int | None,
        tolerance: float,
        deadline: Deadline,
        pool: int = POOL,
    ) -> None:
        if form not in FORMS:
            raise InputError(f"unknown form {form!r}: one of {', '.join(FORMS)}")
        if form == "big-m" and extraction != "none":
            raise InputError("extraction tightens the perspective form: it does nothing for big-m")
        self.form, self.tolerance, self.deadline, self.pool = form, tolerance, deadline, pool
        self.most = check_cardinality(cardinality, problem.groups)
        stated = bounded(problem, self.most, deadline.check)
        self.extracted = extract(stated, extraction, deadline.part(EXTRACTION))
        self.stated, self.inner = stated, self.extracted.problem
        self.incumbents = _Refits(stated, self.most, deadline.check)
        self.cuts: Cuts | None = None
        self.tree: Tree | None = None
        self.root = Node.root(self.inner.groups)
        self.root.bound = trivial_bound(self.inner)
        self.root.indicator = np.zeros(self.inner.groups)
        self.root.warm = np.zeros_like(self.inner.cross)
        self.root.surplus = None

    @property
    def bound(self) -> float:
        """Proved so far."""
        return max(self.tree.bound, self.root.bound) if self.tree else self.root.bound

    def relax(self) -> CutRelaxation:
        """Solve the continuous relaxation."""
        support, weights = first_choice(self.stated, self.most, self.deadline.check)
        self.incumbents.consider(support, weights)
        pause = self.deadline.check
        cuts = FORMS[self.form](self.inner, self.incumbents.objective, pause)
        master = Master(self.inner.term, self.inner.groups, self.most, self.pool)
        relaxation = CutRelaxation(cuts, master, self.incumbents, self.tolerance, self.deadline)
        ones = np.ones(self.inner.groups)
        weights = relaxation.cut(ones)
        self.cuts = cuts
        self.root.indicator, self.root.warm = cuts.indicator(weights), weights
        relaxation.converge(self.root)
        return relaxation

    def search(self, gap: float, on_progress: Callable[[Progress], None] | None) -> None:
        """Solve the relaxation, then all below it."""
        relaxation = self.relax()
        self.incumbents.offer(self.root.indicator > 0.5)
        self.incumbents.search()
        self.tree = Tree(
            *(self.incumbents, relaxation, self.deadline, gap), plunge=0.0, on_progress=on_progress
        )
        self.tree.grow(self.root)
