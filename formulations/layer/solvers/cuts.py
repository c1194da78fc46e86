"""The cuts of the outer approximation, and the relaxation of a node that they make.

For given indicators y ∈ [0, 1]^G the best weights leave a convex function f(y); a cut is a linear
function of y below it, by Fenchel duality from any weights (see
:mod:`formulations.layer.solvers.outer_approximation`). A node cuts its own linear program until its
bound meets the best relaxed point found in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import valid_bounds
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import best_weights
from formulations.layer.solvers.master import Master
from formulations.solving.deadline import Deadline, Stopped
from formulations.solving.highs import FEASIBILITY
from formulations.solving.incumbents import Incumbents
from formulations.solving.node import KEPT, REMOVED, Node
from formulations.solving.result import Status, relative_gap
from formulations.solving.safe_bound import (
    DualPoint,
    dual_point,
    raised,
    shrinkage_conjugate,
    unit,
)
from formulations.terms import prox_search
from formulations.terms.partition import Partition

_ROUNDS = 100_000
# In-out separation (Ben-Ameur & Neto 2007): cut between the LP point and the best point known.
_INWARD = 0.5


class Cuts(ABC):
    """The inner problem of one form: its minimisers, and what they say of f and of y.

    Parameters
    ----------
    problem : LayerProblem
        With all bounds that its form needs.
    upper : float
        Objective of a feasible point.
    pause : callable
        Called now and then; what it raises ends the work.
    """

    def __init__(self, problem: LayerProblem, upper: float, pause: Callable[[], None]) -> None:
        self.problem, self.pause = problem, pause
        self.partition = Partition(np.full(problem.groups, problem.block * problem.outputs))

    @abstractmethod
    def minimiser(self, y: FloatArray) -> FloatArray:
        """W minimising the inner problem at y (G,), (D, O)."""

    @abstractmethod
    def slopes(self, point: DualPoint, y: FloatArray) -> tuple[float, FloatArray]:
        """(Constant, slope (G,)) of the cut from a dual point, tight at y if V is."""

    @abstractmethod
    def indicator(self, weights: FloatArray) -> FloatArray:
        """Best y for given weights, (G,)."""

    @abstractmethod
    def shrinkage(self, weights: FloatArray, y: FloatArray) -> FloatArray:
        """What φ costs every group at weights and indicators, (G,)."""

    def under_estimator(self, weights: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
        """(constant, slope) with f(y') ≥ constant + slope·y' for every y'.

        Parameters
        ----------
        weights : (D, O) array
            V: any, and the cut is tight at y where it is the minimiser there.
        y : (G,) array
        """
        problem = self.problem
        point = dual_point(problem.curvature, problem.cross, problem.constant, weights)
        constant, slope = self.slopes(point, y)
        return point.value - point.margin + constant, slope

    def relaxed_value(self, weights: FloatArray, y: FloatArray) -> float:
        """Objective of the continuous relaxation at weights (D, O) and indicators (G,)."""
        shrinkage = float(self.shrinkage(weights, y).sum())
        return self.problem.loss(weights) + shrinkage + self.problem.term.prices(y)


class PerspectiveCuts(Cuts):
    """f(y) ≥ −½⟨V, G V⟩ + c₀ − Σ_j y_j φ_B*(v_j)."""

    def minimiser(self, y: FloatArray) -> FloatArray:
        """See :class:`Cuts`."""
        return best_weights(self.problem, y, pause=self.pause)

    def slopes(self, point: DualPoint, y: FloatArray) -> tuple[float, FloatArray]:
        """See :class:`Cuts`."""
        return 0.0, -shrinkage_conjugate(self.problem.term, point, self.partition)

    def indicator(self, weights: FloatArray) -> FloatArray:
        """See :class:`Cuts`."""
        return self.problem.term.keep(self.problem.by_group(weights))

    def shrinkage(self, weights: FloatArray, y: FloatArray) -> FloatArray:
        """See :class:`Cuts`."""
        return self.problem.term.perspective(self.problem.by_group(weights), y)


class BigMCuts(Cuts):
    """The tangent in y of the cut with sup{⟨v, w⟩ − φ(w) : |w| ≤ M y}.

    Raises
    ------
    InputError
        If no bound M follows.
    """

    def __init__(self, problem: LayerProblem, upper: float, pause: Callable[[], None]) -> None:
        super().__init__(problem, upper, pause)
        self.big_m = valid_bounds(problem, upper)
        if not np.isfinite(self.big_m).all():
            raise InputError("the big-M form needs a bound M: none follows from loss and φ")

    def minimiser(self, y: FloatArray) -> FloatArray:
        """See :class:`Cuts`."""
        return best_weights(self.problem, y, limit=self._box(y), pause=self.pause)

    def slopes(self, point: DualPoint, y: FloatArray) -> tuple[float, FloatArray]:
        """See :class:`Cuts`."""
        supremum, multiplier = prox_search.conjugate_in_box(
            self.problem.term.take(np.ones(self.problem.groups, bool)),
            *(raised(point), self._box(y).ravel(), self.partition.layout),
        )
        slope = self.partition.sum(self.big_m.ravel() * multiplier)
        rounding = unit(point.v.size) * float((np.abs(supremum) + slope * y).sum())
        return -float((supremum - slope * y).sum()) - rounding, -slope

    def indicator(self, weights: FloatArray) -> FloatArray:
        """Largest |w|/M."""
        # a bound of 0 leaves the weight 0, whatever y
        share = np.abs(weights) / np.where(self.big_m > 0, self.big_m, 1.0)
        return np.minimum(1.0, self.problem.by_group(share).max(axis=1))

    def shrinkage(self, weights: FloatArray, y: FloatArray) -> FloatArray:
        """See :class:`Cuts`."""
        return self.problem.term.shrinkage(self.problem.by_group(weights))

    def _box(self, y: FloatArray) -> FloatArray:
        return self.big_m * self.problem.per_row(y)[:, None]


class CutRelaxation:
    """Bounds a node by its linear program, cut until it has converged.

    A node's warm start are the weights of its best relaxed point; it has no surplus.

    Parameters
    ----------
    cuts : Cuts
    master : Master
        The linear program of all nodes, with the pool of cuts.
    incumbents : Incumbents
        Offered the rounded indicators of every node at once, so that the next one's work ends at
        the best objective known.
    tolerance : float
        Relative distance of a node's bound and its best relaxed point.
    deadline : Deadline
    """

    width = 1

    def __init__(
        self,
        cuts: Cuts,
        master: Master,
        incumbents: Incumbents,
        tolerance: float,
        deadline: Deadline,
    ) -> None:
        self.cuts, self.master, self.incumbents = cuts, master, incumbents
        self.tolerance, self.deadline = tolerance, deadline
        self.pause: Callable[[], None] = deadline.check

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`."""
        for node in nodes:
            self.converge(node, self.incumbents.objective)
            self.incumbents.offer(node.indicator > 0.5)

    def converge(self, node: Node, cutoff: float = math.inf) -> None:
        """Cut a node's linear program until its bound meets the best relaxed point found in it.

        Sets the node's bound, indicator and weights; stops early where the bound passes ``cutoff``.

        Raises
        ------
        Stopped
            At the end of the time, on Ctrl-C, or where HiGHS is at a loss.
        """
        lower, upper = (node.state == KEPT).astype(float), (node.state != REMOVED).astype(float)
        self.master.set_box(lower, upper)
        best = math.inf  # the parent's point need not be feasible here
        inward = _INWARD
        for _ in range(_ROUNDS):
            self.pause()
            y, reached, bound = self.master.run(self.deadline.left)
            node.bound = max(node.bound, bound)
            if node.bound >= cutoff or relative_gap(best, node.bound) <= self.tolerance:
                return
            mix = inward if math.isfinite(best) else 0.0
            point = mix * node.indicator + (1 - mix) * y
            weights = self.cut(point)
            indicator = np.clip(self.cuts.indicator(weights), lower, upper)
            if indicator.sum() > self.incumbents.most:
                indicator = point  # on the limit, the best y of these weights is not at hand
            value = self.cuts.relaxed_value(weights, indicator)
            if value < best:
                best, node.indicator, node.warm = value, indicator, weights
            # A cut between the two points may leave the LP point feasible: then go all the way.
            ahead = self.master.last_value(y) > reached + abs(reached) * FEASIBILITY
            if not ahead and inward == 0.0:
                return  # as exact as the linear programs' own tolerances allow
            inward = _INWARD if ahead else 0.0
        raise Stopped(Status.ROUND_LIMIT)

    def cut(self, y: FloatArray) -> FloatArray:
        """Add the cut of the inner problem at y (G,); its weights, (D, O)."""
        weights = self.cuts.minimiser(y)
        self.master.add_cut(*self.cuts.under_estimator(weights, y))
        return weights
