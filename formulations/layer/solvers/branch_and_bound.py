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

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.extraction.extract import EXTRACTION, extract
from formulations.layer.incumbents import RefitIncumbents
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.relaxations.base import trivial_bound
from formulations.layer.relaxations.coordinate_descent import CoordinateDescent
from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.layer.relaxations.proximal_gradient import ProximalGradient
from formulations.layer.units import InUnits
from formulations.solving.deadline import Deadline, attempt
from formulations.solving.node import Node, Relaxation
from formulations.solving.result import (
    Progress,
    Solution,
    check_cardinality,
    check_positive,
    judge,
    relative_gap,
)
from formulations.solving.tree import Tree

# what bounds the nodes of a problem of at most so many groups, to a relative precision
MakeRelaxation = Callable[[LayerProblem, int, float], Relaxation]

# Rows above which Newton's method in the indicators beats descent in the weights.
_LARGE = 64


def solve(
    problem: LayerProblem,
    *,
    extraction: str = "schur",
    cardinality: int | None = None,
    gap: float = 1e-4,
    seconds: float | Deadline = float("inf"),
    node_limit: int = 20_000,
    start: FloatArray | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    relaxation: MakeRelaxation | None = None,
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
    gap : float
        Relative gap at which to stop.
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the incumbent is returned with its
        true bound.
    node_limit : int
        Most open nodes, which bounds the memory.
    start : (D, O) array, optional
        Weights of a known solution: its support is the first incumbent.
    on_progress : callable, optional
        Called now and then with the state of the solve.
    relaxation : callable, optional
        What bounds the nodes, by problem, cardinality and tolerance; chosen by size where not
        given. ``mipprune.oneshot.gpu_relaxation.BatchedNewton`` evaluates many nodes at once on a
        GPU.

    Raises
    ------
    InputError
        Nested indicators, a gap or limit that is not positive, an unknown extraction, a start of
        another shape or beyond the bound M.
    """
    if node_limit < 1:
        raise InputError(f"the node limit must be positive: it is {node_limit}")
    check_positive("gap", gap)
    deadline, units = Deadline.of(seconds), InUnits.of(problem)
    first = None if start is None else _support_of(problem, start)
    stated, most, inner = _begin(units.problem, extraction, cardinality, deadline)
    incumbents = RefitIncumbents(stated, most, deadline.check)
    make = relaxation or choose_relaxation(inner, extraction)
    nodes = make(inner, most, 0.1 * gap)
    told = units.told(on_progress)
    tree = Tree(incumbents, nodes, deadline, gap, node_limit, on_progress=told)
    if first is not None:
        with deadline.held():  # the first incumbent is not broken off
            incumbents.begin(first)
    root = Node.root(problem.groups)
    root.bound = trivial_bound(inner)
    status = attempt(lambda: tree.search(root))
    weights, objective = incumbents.solution()
    bound = min(max(tree.bound, root.bound), objective)
    return units.solution(
        Solution(
            objective=objective,
            bound=bound,
            status=judge(status, closed=relative_gap(objective, bound) <= gap),
            support=incumbents.support,
            weights=weights,
            nodes=tree.nodes,
            seconds=deadline.elapsed,
            solver=f"branch-and-bound/{extraction}",
        )
    )


def relax(
    problem: LayerProblem,
    *,
    extraction: str = "none",
    cardinality: int | None = None,
    tolerance: float = 1e-8,
    seconds: float | Deadline = float("inf"),
) -> Solution:
    """Solve the relaxation of the root alone.

    Parameters
    ----------
    problem, extraction, cardinality
        As in :func:`solve`.
    tolerance : float
        Ten times the relative precision of the relaxation.
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the bound is Fenchel's at no weights.

    Returns
    -------
    Solution
        ``bound`` is its dual bound, which is also given as ``objective``; ``support`` the groups
        with an indicator above ½, ``weights`` their refit.
    """
    check_positive("tolerance", tolerance)
    deadline, units = Deadline.of(seconds), InUnits.of(problem)
    stated, most, inner = _begin(units.problem, extraction, cardinality, deadline)
    make = IndicatorNewton if inner.plain else choose_relaxation(inner, extraction)
    root = Node.root(problem.groups)
    relaxation = make(inner, most, 0.1 * tolerance)
    relaxation.pause = deadline.check
    status = attempt(lambda: relaxation.evaluate([root], np.inf))
    bound = root.bound if np.isfinite(root.bound) else trivial_bound(inner)
    support = root.indicator > 0.5
    return units.solution(
        Solution(
            objective=bound,
            bound=bound,
            status=status,
            support=support,
            weights=refit(stated, support),
            nodes=1,
            seconds=deadline.elapsed,
            solver=f"branch-and-bound/{extraction}-relaxation",
        )
    )


def _begin(
    problem: LayerProblem, extraction: str, cardinality: int | None, deadline: Deadline
) -> tuple[LayerProblem, int, LayerProblem]:
    """The problem with the bounds it needs, the most groups, and the problem after extraction."""
    if problem.term.blocks is not None:
        raise InputError("the branch and bound has no nested indicators: use solver='highs'")
    most = check_cardinality(cardinality, problem.groups)
    problem = bounded(problem, most, deadline.check)
    return problem, most, extract(problem, extraction, deadline.part(EXTRACTION)).problem


def _support_of(problem: LayerProblem, start: FloatArray) -> BoolArray:
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
    return np.asarray(groups.any(axis=1))


def choose_relaxation(problem: LayerProblem, extraction: str) -> MakeRelaxation:
    """What bounds the nodes of a problem after this extraction best."""
    term = problem.term
    if term.ridge is None or term.profile.ball:
        return ProximalGradient
    # the best Δ leave the loss singular, which descent in the weights does not like
    singular = extraction in ("ascent", "sdp")
    if problem.plain and (singular or len(problem.cross) > _LARGE):
        return IndicatorNewton
    return CoordinateDescent
