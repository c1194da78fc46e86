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
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyomo.environ as pyo

from formulations.errors import InputError
from formulations.relu.milp import cut
from formulations.relu.network import Network, NetworkRelaxation, NetworkSolution, Support
from formulations.relu.problems import Price, Selection, Training
from formulations.solving.milp import Milp, Outcome
from formulations.solving.result import Progress

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
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    loss: str = "l1",
    price: Price = 0.1,
    tolerance: float = 1e-4,
    time_limit: float = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Which hidden units of a trained network to keep; see :class:`Selection` and :func:`solve`."""
    problem = Selection(network, inputs, targets, loss, price)
    return solve(problem, tolerance=tolerance, time_limit=time_limit, on_progress=on_progress)


def train(
    inputs: np.ndarray,
    targets: np.ndarray,
    hidden: Sequence[int],
    *,
    loss: str = "l1",
    price: Price = 0.1,
    step: float = 0.5,
    limit: float = 2.0,
    outputs: int | None = None,
    tolerance: float = 1e-4,
    time_limit: float = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Weights on a grid and units to keep; see :class:`Training` and :func:`solve`."""
    problem = Training(inputs, targets, hidden, loss, price, step, limit, outputs)
    return solve(problem, tolerance=tolerance, time_limit=time_limit, on_progress=on_progress)


def solve(
    problem: Problem,
    *,
    tolerance: float = 1e-4,
    time_limit: float = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Solve a network problem to proved optimality.

    Parameters
    ----------
    problem : Selection or Training
    tolerance : float
        Relative gap at which to stop (or an absolute one of 1e-6).
    time_limit : float
        Seconds, positive. When it is over, or on Ctrl-C, the incumbent is returned with its bound.
    on_progress : callable, optional
        Called with the state of the solve, in the caller's thread, while HiGHS works.

    Raises
    ------
    InputError
        Tolerance or time limit not positive.
    """
    _check("tolerance", tolerance)
    _check("time limit", time_limit)
    search = _Search(problem, tolerance, time_limit, on_progress)
    try:
        status = search.run()
    except KeyboardInterrupt:
        status = "interrupted"
    return search.solution(status)


def relax(problem: Problem, *, tightened: bool = True) -> NetworkRelaxation:
    """The linear relaxation of the big-M model, with interval or with LP-tightened bounds."""
    start = time.perf_counter()
    bounds = problem.interval_bounds()
    model = problem.model(problem.lp_bounds(bounds) if tightened else bounds)
    value = _relaxed(problem, model)
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
        seconds=time.perf_counter() - start,
    )


def _relaxed(problem: Problem, model: pyo.ConcreteModel, until: float = math.inf) -> float:
    """Cut the relaxation to convergence, in place, and load its solution; its value."""
    value = -math.inf
    for _ in range(_LP_ROUNDS):
        lp = Milp(model, relaxed=True)
        outcome = lp.run(until - time.perf_counter())
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status != "optimal":
            break
        lp.load(outcome.point)
        gained, value = outcome.bound - value, outcome.bound
        if gained <= _LP_GAIN * abs(value) or not cut(model, problem.criterion, problem.targets):
            break
    return value


def _check(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"the {name} must be positive: it is {value:g}")


class _Search:
    """The incumbent, the bound and the clock of one solve."""

    def __init__(
        self,
        problem: Problem,
        tolerance: float,
        limit: float,
        on_progress: Callable[[Progress], None] | None,
    ):
        self.start = time.perf_counter()
        self.problem, self.tolerance, self.limit = problem, tolerance, limit
        self.on_progress = on_progress or (lambda _: None)
        self.nodes = 0
        # losses and prices are not negative
        self.bound, self.best = 0.0, math.inf
        # a network with nothing kept is always there
        self.offer(*problem.nothing())

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    @property
    def closed(self) -> bool:
        """Whether the gap is within the tolerance."""
        return self.best - self.bound <= max(self.tolerance * abs(self.best), _ABSOLUTE)

    def offer(self, network: Network, support: Support) -> None:
        """Take a choice as the incumbent if it is better."""
        value = self.problem.objective(network, support)
        if value < self.best:
            self.best = value
            self.network, self.support = self.problem.in_order(network, support)

    def run(self) -> str:
        """Work until the gap is closed or the time over; the status."""
        problem = self.problem
        self.offer(*problem.first_choice(self.start + _HEURISTIC * self.limit))
        bounds = problem.lp_bounds(until=self.start + (_HEURISTIC + _TIGHTENING) * self.limit)
        model = problem.model(bounds)
        if problem.criterion.tangent(0.0, 0.0) is not None:
            self.bound = max(self.bound, _relaxed(problem, model, self.start + self.limit))
        while not self.closed:
            if self.elapsed >= self.limit:
                return "time_limit"
            outcome = self._solve(model)
            if outcome.status != "optimal":
                return outcome.status
            self.offer(*problem.read(model))
            if not cut(model, problem.criterion, problem.targets):
                break
        return "optimal" if self.closed else "numerical"

    def _solve(self, model: pyo.ConcreteModel) -> Outcome:
        """One MILP, from the incumbent."""
        milp = Milp(model)
        milp.start_from(self.problem.assign(model, self.network, self.support))
        nodes = self.nodes

        def improve(point: np.ndarray) -> None:
            milp.load(point)
            self.offer(*self.problem.read(model))
            self.report()

        def hear(bound: float, count: int) -> None:
            self.bound, self.nodes = max(self.bound, bound), nodes + count
            self.report()

        outcome = milp.run(
            self.limit - self.elapsed,
            gap=self.tolerance / 2,
            on_improvement=improve,
            on_progress=hear,
        )
        hear(outcome.bound, outcome.nodes)
        if outcome.point is not None:
            milp.load(outcome.point)
        return outcome

    def report(self) -> None:
        bound = min(self.bound, self.best)
        self.on_progress(Progress(self.best, bound, self.nodes, self.elapsed))

    def solution(self, status: str) -> NetworkSolution:
        return NetworkSolution(
            objective=self.best,
            bound=min(self.bound, self.best),
            status="optimal" if self.closed else status,
            support=self.support,
            network=self.network.prune(self.support),
            activations=mip_activations(self.problem, self.network, self.support),
            loss=self.best - self.problem.price_of(self.support),
            nodes=self.nodes,
            seconds=self.elapsed,
            solver="highs/big-m",
        )


def mip_activations(
    problem: Problem, network: Network, support: Support
) -> tuple[np.ndarray, ...] | None:
    """Hidden activations that the model's constraints leave for a choice, of its kept units.

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
