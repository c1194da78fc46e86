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
from formulations.relu.milp import cut
from formulations.relu.network import Network, NetworkRelaxation, NetworkSolution, Support
from formulations.relu.problems import Price, Selection, Training
from formulations.solving.deadline import Deadline, Stopped, attempt
from formulations.solving.milp import Milp, Outcome
from formulations.solving.result import Progress, Status, check_positive, judge

Problem = Selection | Training

# Objectives closer than this to the bound are optimal, whatever their relative gap.
_ABSOLUTE = 1e-6
# Shares of the time limit that the first incumbent and tightening bounds may take.
_HEURISTIC, _TIGHTENING = 0.2, 0.2
# A relaxation is cut until a round raises its value by less than this, relatively.
_LP_GAIN, _LP_ROUNDS = 1e-6, 100
# Seconds for the activations of the incumbent, after the work is over.
_READING = 10.0


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

    Parameters and errors are those of :class:`formulations.relu.problems.Selection` and
    :func:`solve`.
    """
    problem = Selection(network, inputs, targets, loss, price)
    return solve(problem, gap=gap, seconds=seconds, on_progress=on_progress)


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
        Relative gap at which to stop (or an absolute one of 1e-6).
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


def relax(problem: Problem, *, tightened: bool = True) -> NetworkRelaxation:
    """Solve the linear relaxation of the big-M model.

    Parameters
    ----------
    problem : Selection or Training
    tightened : bool
        Whether the bounds are tightened by linear programs, or those of interval arithmetic.
    """
    deadline = Deadline()
    bounds = problem.interval_bounds()
    model = problem.model(problem.lp_bounds(bounds) if tightened else bounds)
    value = _relaxed(problem, model, deadline)
    indicator = tuple(
        np.array([model.y[layer, unit].value for unit in range(width)])
        for layer, width in enumerate(problem.hidden)
    )
    network, support = problem.read(model)
    return NetworkRelaxation(
        value=value,
        indicator=indicator,
        support=support,
        network=network.prune(support),
        objective=problem.objective(network, support),
        seconds=deadline.elapsed,
    )


def _relaxed(problem: Problem, model: pyo.ConcreteModel, deadline: Deadline) -> float:
    """Cut the relaxation to convergence, in place, and load its solution; its value."""
    value = -math.inf
    for _ in range(_LP_ROUNDS):
        lp = Milp(model, relaxed=True)
        outcome = lp.run(deadline.left)
        if outcome.status == Status.INTERRUPTED:
            raise KeyboardInterrupt
        if outcome.status != Status.OPTIMAL or outcome.point is None:
            break
        lp.load(outcome.point)
        gained, value = outcome.bound - value, outcome.bound
        if gained <= _LP_GAIN * abs(value) or not cut(model, problem.criterion, problem.targets):
            break
    return value


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
        model = problem.model(bounds)
        if problem.criterion.tangent(0.0, 0.0) is not None:
            self.bound = max(self.bound, _relaxed(problem, model, self.deadline))
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
            self.bound, self.nodes = max(self.bound, bound), nodes + count
            self.report()

        outcome = milp.run(
            self.deadline.left,
            gap=self.gap / 2,
            on_improvement=improve,
            on_progress=hear,
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
        return NetworkSolution(
            objective=self.best,
            bound=min(self.bound, self.best),
            status=judge(ended, closed=self.closed),
            support=self.support,
            network=self.network.prune(self.support),
            activations=mip_activations(self.problem, self.network, self.support),
            loss=self.best - self.problem.price_of(self.support),
            nodes=self.nodes,
            seconds=self.deadline.elapsed,
            solver="highs/big-m",
        )


def mip_activations(
    problem: Problem, network: Network, support: Support
) -> tuple[FloatArray, ...] | None:
    """Compute the activations of a choice's kept units that the model's constraints leave.

    The choice's binary variables but the ReLUs' own σ are fixed, and HiGHS solves for the rest.

    Returns
    -------
    tuple of (n, kept_l) arrays, or None
        None if HiGHS did not solve for them in ten seconds.
    """
    model = problem.layers(problem.inputs, problem.interval_bounds())
    own = {id(b.on) for b in model.relu.values() if b.component("on") is not None}
    for variable, value in problem.assign(model, network, support):
        if id(variable) not in own:
            variable.fix(value)
    milp = Milp(model)
    outcome = milp.run(_READING)
    if outcome.point is None:
        return None
    milp.load(outcome.point)
    return tuple(
        np.array(
            [
                [pyo.value(model.relu[layer, i, unit].h) for unit in np.flatnonzero(keep)]
                for i in range(len(problem.inputs))
            ]
        )
        for layer, keep in enumerate(support)
    )
