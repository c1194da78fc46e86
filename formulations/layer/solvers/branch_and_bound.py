"""Branch and bound for the layer problem whose node relaxation is the projected regularizer.

At a node some groups are removed, some kept, and the free ones pay h, the perspective of their term
with the indicator projected away: the regularizer that trains a network is the relaxation that
proves the optimum (docs/theory.md, "Exact: branch and bound"). Nodes are bounded by Fenchel
duality, so that every bound is valid whatever the precision of the relaxation, by one of
:mod:`formulations.layer.relaxations`, after curvature was moved from the loss into the terms
(:mod:`formulations.layer.extraction`), in the tree of :mod:`formulations.solving.tree`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.errors import InputError
from formulations.layer.extraction.extract import extract
from formulations.layer.incumbents import Incumbents
from formulations.layer.problem import LayerProblem
from formulations.layer.relaxations.coordinate_descent import CoordinateDescent
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.relaxations.proximal_gradient import ProximalGradient
from formulations.solving.deadline import Clock, attempt
from formulations.solving.node import Node, Relaxation
from formulations.solving.result import (
    Progress,
    Solution,
    check_cardinality,
    check_limits,
    relative_gap,
)
from formulations.solving.tree import Tree

# Rows above which Newton's method in the indicators beats descent in the weights.
_LARGE = 64


def solve(
    problem: LayerProblem,
    *,
    extraction: str = "schur",
    cardinality: int | None = None,
    tolerance: float = 1e-4,
    time_limit: float = float("inf"),
    node_limit: int = 20_000,
    start: np.ndarray | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    engine: Callable[[LayerProblem, int, float], Relaxation] | None = None,
) -> Solution:
    """Solve the pruning MIP of a layer exactly.

    Parameters
    ----------
    problem : LayerProblem
        Nested indicators are for ``solver="highs"`` alone.
    extraction : {"schur", "ascent", "sdp", "none"}
        See :func:`formulations.layer.extraction.extract.extract`.
    cardinality : int, optional
        Largest number of groups kept.
    tolerance : float
        Relative gap at which to stop.
    time_limit : float
        Seconds, positive. When it is over, or on Ctrl-C, the incumbent is returned with its true
        bound.
    node_limit : int
        Most open nodes, which bounds the memory.
    start : (D, O) array, optional
        Weights of a known solution: its support is the first incumbent.
    on_progress : callable, optional
        Called now and then with the state of the solve.
    engine : callable, optional
        What bounds the nodes, by problem, cardinality and tolerance; chosen by size where not
        given. ``mipprune.oneshot.gpu_relaxation.BatchedNewton`` evaluates many nodes at once on a
        GPU.

    Raises
    ------
    InputError
        Nested indicators, a tolerance or limit that is not positive, an unknown extraction, a start
        of another shape or beyond the bound M.
    """
    if node_limit < 1:
        raise InputError(f"the node limit must be positive: it is {node_limit}")
    check_limits(tolerance, time_limit)
    clock = Clock(float("inf"))
    bounded, most, inner = _begin(problem, extraction, cardinality)
    incumbents = Incumbents(bounded, most, clock.check)
    make = engine or choose_engine(inner, extraction)
    nodes = make(inner, most, 0.1 * tolerance)
    tree = Tree(incumbents, nodes, clock, tolerance, node_limit, on_progress)
    if start is not None:
        incumbents.begin(_support_of(problem, start))
    clock.limit = time_limit  # the first incumbent is not broken off
    status = attempt(tree.search)
    support = incumbents.support
    weights, objective = incumbents.solution()
    proved = tree.bound
    if not np.isfinite(proved):  # the root was not solved: Fenchel's bound at no weights
        proved = inner.dual_bound(np.zeros_like(inner.cross))
    bound = min(proved, objective)
    return Solution(
        objective=objective,
        bound=bound,
        status=_judge(status, relative_gap(objective, bound) <= tolerance),
        support=support,
        weights=weights,
        nodes=tree.nodes,
        seconds=clock.elapsed,
        solver=f"branch-and-bound/{extraction}",
    )


def relax(
    problem: LayerProblem,
    *,
    extraction: str = "none",
    cardinality: int | None = None,
    tolerance: float = 1e-8,
) -> Solution:
    """The relaxation of the root alone; parameters as in :func:`solve`.

    Returns
    -------
    Solution
        ``bound`` is its dual bound, which is also given as ``objective``; ``support`` the groups
        with an indicator above ½, ``weights`` their refit.
    """
    check_limits(tolerance, float("inf"))
    clock = Clock(float("inf"))
    _, most, inner = _begin(problem, extraction, cardinality)
    make = IndicatorNewton if problem.plain else choose_engine(inner, extraction)
    root = Node.root(problem.groups)
    make(inner, most, 0.1 * tolerance).evaluate([root], np.inf)
    support = root.indicator > 0.5
    return Solution(
        objective=root.bound,
        bound=root.bound,
        status="optimal",
        support=support,
        weights=problem.refit(support),
        nodes=1,
        seconds=clock.elapsed,
        solver=f"branch-and-bound/{extraction}-relaxation",
    )


def _begin(
    problem: LayerProblem, extraction: str, cardinality: int | None
) -> tuple[LayerProblem, int, LayerProblem]:
    """The problem with the bounds it needs, the most groups, and the problem after extraction."""
    if problem.term.blocks is not None:
        raise InputError("the branch and bound has no nested indicators: use solver='highs'")
    problem = problem.bounded()
    most = check_cardinality(cardinality, problem.groups)
    return problem, most, extract(problem, extraction).problem


def _judge(status: str, proved: bool) -> str:
    """The status of a solution, given how the work ended and whether the gap is closed."""
    if proved:
        return "optimal"
    return "numerical" if status == "optimal" else status


def _support_of(problem: LayerProblem, start: np.ndarray) -> np.ndarray:
    """Groups that are not zero in a start that is allowed."""
    start = np.asarray(start, float)
    if start.shape != problem.cross.shape or not np.isfinite(start).all():
        raise InputError(
            f"the start must be {problem.cross.shape} finite weights: its shape is {start.shape}"
        )
    groups = problem.by_group(start)
    beyond = problem.term.outside(problem.term.measure(groups)[1])
    if beyond.any():
        group = int(np.flatnonzero(beyond)[0])
        bound = np.broadcast_to(problem.term.bound, beyond.shape)[group]
        largest = np.abs(groups[group]).max()
        raise InputError(
            f"the bound M = {bound:g} is smaller than the start needs: {largest:g} in group "
            f"{group}; raise M, or clip the start"
        )
    return groups.any(axis=1)


def choose_engine(
    problem: LayerProblem, extraction: str
) -> Callable[[LayerProblem, int, float], Relaxation]:
    """The engine that suits a problem after this extraction."""
    term = problem.term
    if term.ridge is None or term.profile.ball:
        return ProximalGradient
    # the best Δ leave the loss singular, which descent in the weights does not like
    singular = extraction in ("ascent", "sdp")
    if problem.plain and (singular or len(problem.cross) > _LARGE):
        return IndicatorNewton
    return CoordinateDescent
