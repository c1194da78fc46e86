"""Exact pruning of small ReLU networks with HiGHS: select units, or train and select at once.

``select`` and ``train`` state the problems of :mod:`formulations.relu.problems` as the MILPs of
:mod:`formulations.relu.milp`.

One loop serves all losses: solve the MILP, whose loss is a supremum of finitely many lines; where
the true loss of its solution is above (only the square's can be), add the tangents there and solve
again, from the incumbent (outer approximation, Duran & Grossmann 1986). The MILP's bound is always
a bound on the problem, and incumbents are measured by a forward pass, never by the MILP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.relu import enumeration
from formulations.relu.milp import cut
from formulations.relu.network import Network, NetworkRelaxation, NetworkSolution, Support
from formulations.relu.problems import Price, Selection, Training
from formulations.solving.deadline import Deadline, Stopped, attempt
from formulations.solving.milp import Milp, Outcome
from formulations.solving.result import Progress, Status, check_positive, judge

Problem = Selection | Training

# Objectives closer than this to the bound are optimal, whatever their relative gap: twice what
# HiGHS itself takes for closed.
_ABSOLUTE = 2e-6
# Shares of the time limit that the first incumbent and tightening bounds may take.
_HEURISTIC, _TIGHTENING = 0.2, 0.2
# and tightening of that of a relaxation
_TIGHTENED = 0.5
# A relaxation is cut until a round raises its value by less than this, relatively.
_LP_GAIN, _LP_ROUNDS = 1e-6, 100
# Share of 1 + |bound| that HiGHS's tolerances (1e-9 a row) may have added to its bounds.
_SAFETY = 1e-7


def select(
    network: Network,
    inputs: FloatArray,
    targets: FloatArray,
    *,
    loss: str = "l1",
    price: Price = 0.1,
    gap: float = 1e-4,
    seconds: float | Deadline = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Select the hidden units of a trained network that are worth their price.

    All choices are tried where they are few enough
    (:mod:`formulations.relu.enumeration`); else HiGHS solves the MILP.

    Parameters and errors are those of :class:`formulations.relu.problems.Selection` and
    :func:`solve`.
    """
    problem = Selection(network, inputs, targets, loss, price)
    engine = enumeration.solve if problem.countable else solve
    return engine(problem, gap=gap, seconds=seconds, on_progress=on_progress)


def train(
    inputs: FloatArray,
    targets: FloatArray,
    hidden: Sequence[int],
    *,
    loss: str = "l1",
    price: Price = 0.1,
    step: float = 0.5,
    limit: float = 2.0,
    outputs: int | None = None,
    gap: float = 1e-4,
    seconds: float | Deadline = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Train weights on a grid and select the units to keep, at once.

    Parameters and errors are those of :class:`formulations.relu.problems.Training` and
    :func:`solve`.
    """
    problem = Training(inputs, targets, hidden, loss, price, step, limit, outputs)
    return solve(problem, gap=gap, seconds=seconds, on_progress=on_progress)


def solve(
    problem: Problem,
    *,
    gap: float = 1e-4,
    seconds: float | Deadline = math.inf,
    heuristic: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Solve a network problem to proved optimality.

    Parameters
    ----------
    problem : Selection or Training
    gap : float
        Relative gap at which to stop (or an absolute one of 2e-6).
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its
        bound.
    heuristic : bool
        Whether a heuristic makes the first incumbent; without it, nothing is kept at first.
    on_progress : callable, optional
        Called with the state of the solve, in the caller's thread, while HiGHS works.

    Raises
    ------
    InputError
        Gap or time limit not positive.
    """
    check_positive("gap", gap)
    work = _NetworkSolve(problem, gap, Deadline.of(seconds), on_progress)
    status = attempt(lambda: work.run(heuristic))
    return work.solution(status)


def relax(
    problem: Problem, *, tightened: bool = True, seconds: float | Deadline = math.inf
) -> NetworkRelaxation:
    """Solve the linear relaxation of the big-M model.

    Parameters
    ----------
    problem : Selection or Training
    tightened : bool
        Whether the bounds are tightened by linear programs, or those of interval arithmetic.
    seconds : float or Deadline
        Time limit, positive, of which tightening may take half. When it is over, or on Ctrl-C, what
        is proved until then is returned.

    Raises
    ------
    InputError
        Time limit not positive.
    """
    work = _Relaxation(problem, Deadline.of(seconds))
    status = attempt(lambda: work.run(tightened))
    network, support = work.choice
    bound = max(0.0, work.bound)  # losses and prices are not negative
    return NetworkRelaxation(
        objective=max(work.value, bound),
        bound=bound,
        status=status,
        indicator=work.indicator,
        support=support,
        network=network.prune(support),
        rounded=problem.objective(network, support),
        seconds=work.deadline.elapsed,
        solver="highs/big-m-relaxation",
    )


class _Relaxation:
    """The linear relaxation of a model, cut to convergence; its last point."""

    def __init__(self, problem: Problem, deadline: Deadline) -> None:
        self.problem, self.deadline = problem, deadline
        self.value = self.bound = -math.inf
        self.choice = problem.nothing()
        self.indicator = tuple(np.zeros(width) for width in problem.hidden)

    def run(self, tightened: bool) -> None:
        """State the model and solve it.

        Raises
        ------
        Stopped
            At the end of the time, or as HiGHS ended.
        """
        problem, bounds = self.problem, self.problem.interval_bounds()
        if tightened:
            bounds = problem.lp_bounds(bounds, self.deadline.part(_TIGHTENED))
        self.cut(problem.model(bounds, self.deadline.check))

    def cut(self, model: pyo.ConcreteModel) -> None:
        """Cut the relaxation of a model to convergence, in place.

        Raises
        ------
        Stopped
            At the end of the time, or as HiGHS ended.
        """
        problem = self.problem
        for _ in range(_LP_ROUNDS):
            self.deadline.check()
            lp = Milp(model, relaxed=True)
            outcome = lp.run(self.deadline.left, on_look=self.deadline.check)
            if outcome.status != Status.OPTIMAL or outcome.point is None:
                raise Stopped(outcome.status)
            lp.load(outcome.point)
            gained, self.value = outcome.bound - self.value, outcome.bound
            self.bound = _safe(self.value)
            self.choice = problem.read(model)
            self.indicator = tuple(
                np.array([model.y[layer, unit].value for unit in range(width)])
                for layer, width in enumerate(problem.hidden)
            )
            found = cut(model, problem.criterion, problem.targets)
            if not found or gained <= _LP_GAIN * abs(self.value):
                break


def _safe(bound: float) -> float:
    """A bound of HiGHS's, less what its tolerances may have added."""
    return bound - _SAFETY * (1 + abs(bound)) if math.isfinite(bound) else bound


class _NetworkSolve:
    """The incumbent, the bound and the deadline of one solve."""

    def __init__(
        self,
        problem: Problem,
        gap: float,
        deadline: Deadline,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.problem, self.gap, self.deadline = problem, gap, deadline
        self.on_progress = on_progress or (lambda _: None)
        self.nodes = 0
        # losses and prices are not negative
        self.bound, self.best = 0.0, math.inf
        # a network with nothing kept is always there
        self.offer(*problem.nothing())

    @property
    def closed(self) -> bool:
        """Whether the gap is within the one that was asked for."""
        return self.best - self.bound <= max(self.gap * abs(self.best), _ABSOLUTE)

    def offer(self, network: Network, support: Support) -> None:
        """Take a choice as the incumbent if it is better."""
        value = self.problem.objective(network, support)
        if value < self.best:
            self.best = value
            self.network, self.support = self.problem.in_order(network, support)

    def run(self, heuristic: bool) -> None:
        """Work until the gap is closed, or no cut is left that could close it.

        Raises
        ------
        Stopped
            At the end of the time, or as HiGHS ended.
        """
        problem = self.problem
        if heuristic:
            self.offer(*problem.first_choice(self.deadline.part(_HEURISTIC)))
        bounds = problem.lp_bounds(deadline=self.deadline.part(_HEURISTIC + _TIGHTENING))
        model = problem.model(bounds, self.deadline.check)
        if problem.criterion.tangent(0.0, 0.0) is not None:
            relaxation = _Relaxation(problem, self.deadline)
            try:
                relaxation.cut(model)
            finally:
                self.bound = max(self.bound, relaxation.bound)
        while not self.closed:
            self.deadline.check()
            outcome = self._solve(model)
            if outcome.status != Status.OPTIMAL:
                raise Stopped(outcome.status)
            self.offer(*problem.read(model))
            if not cut(model, problem.criterion, problem.targets):
                break

    def _solve(self, model: pyo.ConcreteModel) -> Outcome:
        """One MILP, from the incumbent."""
        milp = Milp(model)
        milp.start_from(self.problem.assign(model, self.network, self.support))
        nodes = self.nodes

        def improve(point: FloatArray) -> None:
            milp.load(point)
            self.offer(*self.problem.read(model))
            self.report()

        def hear(bound: float, count: int) -> None:
            self.bound, self.nodes = max(self.bound, _safe(bound)), nodes + count
            self.report()

        outcome = milp.run(
            self.deadline.left,
            gap=self.gap / 2,
            on_improvement=improve,
            on_progress=hear,
            on_look=self.deadline.check,
        )
        hear(outcome.bound, outcome.nodes)
        if outcome.point is not None:
            milp.load(outcome.point)
        return outcome

    def report(self) -> None:
        """Say where the solve stands."""
        bound = min(self.bound, self.best)
        self.on_progress(Progress(self.best, bound, self.nodes, self.deadline.elapsed))

    def solution(self, ended: Status) -> NetworkSolution:
        """The answer, when the work has ended in this way."""
        left = self.network.prune(self.support)
        return NetworkSolution(
            objective=self.best,
            bound=min(self.bound, self.best),
            status=judge(ended, closed=self.closed),
            support=self.support,
            network=left,
            activations=tuple(left.activations(self.problem.inputs)),
            loss=self.best - self.problem.price_of(self.support),
            nodes=self.nodes,
            seconds=self.deadline.elapsed,
            solver="highs/big-m",
        )
