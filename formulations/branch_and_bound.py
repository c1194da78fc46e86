"""Branch and bound for the layer problem whose node relaxation is the projected regularizer.

At a node some groups are removed, some kept, and the free ones pay h, the perspective of their term
with the indicator projected away: the regularizer that trains a network is the relaxation that
proves the optimum (math: 3b). Nodes are bounded by Fenchel duality, so that every bound is valid
whatever the precision of the relaxation, by one of the engines of
:mod:`formulations.node_relaxations`, after curvature was moved from the loss into the terms
(:mod:`formulations.extraction`). Best-first with plunging: the better child is followed while it is
nearly as good as the best open node. A free group whose removal (or keeping) would lift a node's
bound beyond the incumbent is kept (or removed) for good.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from formulations.block_descent import FREE, KEPT, REMOVED
from formulations.clock import Clock, Stopped, attempt
from formulations.errors import InputError
from formulations.extraction import extract
from formulations.incumbents import Incumbents
from formulations.layer import LayerProblem
from formulations.node_relaxations import (
    BlockDescent,
    Engine,
    IndicatorNewton,
    Node,
    ProximalGradient,
)
from formulations.solution import (
    Progress,
    Solution,
    check_cardinality,
    check_limits,
    relative_gap,
)

# Rows above which Newton's method in the indicators beats descent in the weights.
_LARGE = 64
# Share of the open gap that plunging may give away against the best open node.
_PLUNGE = 0.25
_THRESHOLDS = (0.5, 0.2)
_INTEGRAL = 1e-6


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
    engine: Callable[[LayerProblem, int, float], Engine] | None = None,
) -> Solution:
    """Solve the pruning MIP of a layer exactly.

    Parameters
    ----------
    problem : LayerProblem
        Nested indicators are for ``solver="highs"`` alone.
    extraction : {"schur", "ascent", "sdp", "none"}
        See :func:`formulations.extraction.extract`.
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
        given. ``mipprune.batched_nodes.BatchedNewton`` evaluates many nodes at once on a GPU.

    Raises
    ------
    InputError
        Nested indicators, a tolerance or limit that is not positive, an unknown extraction, a start
        of another shape or beyond the bound M.
    """
    tree = _Tree(problem, extraction, cardinality, tolerance, time_limit, engine)
    tree.on_progress, tree.node_limit = on_progress, node_limit
    if node_limit < 1:
        raise InputError(f"the node limit must be positive: it is {node_limit}")
    if start is not None:
        tree.incumbents.begin(_support_of(problem, start))
    tree.clock.limit = time_limit  # the first incumbent is not broken off
    status = attempt(tree.search)
    support = tree.incumbents.support
    weights, objective = tree.incumbents.solution()
    bound = min(tree.proved(), objective)
    return Solution(
        objective=objective,
        bound=bound,
        status=_judge(status, relative_gap(objective, bound) <= tolerance),
        support=support,
        weights=weights,
        nodes=tree.nodes,
        seconds=tree.clock.elapsed,
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
    engine = IndicatorNewton if problem.plain else None
    tree = _Tree(problem, extraction, cardinality, tolerance, float("inf"), engine)
    root = tree.root()
    support = root.indicator > 0.5
    return Solution(
        objective=root.bound,
        bound=root.bound,
        status="optimal",
        support=support,
        weights=problem.refit(support),
        nodes=1,
        seconds=tree.clock.elapsed,
        solver=f"branch-and-bound/{extraction}-relaxation",
    )


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


class _Tree:
    """Open nodes, the bound and the incumbent of one solve."""

    on_progress: Callable[[Progress], None] | None = None
    node_limit = 1

    def __init__(self, problem, extraction, cardinality, tolerance, time_limit, engine):
        check_limits(tolerance, time_limit)
        if problem.term.blocks is not None:
            raise InputError("the branch and bound has no nested indicators: use solver='highs'")
        self.clock = Clock(float("inf"))
        self.tolerance, self.nodes, self.shown = tolerance, 0, 0.0
        self.problem = problem = problem.bounded()
        most = check_cardinality(cardinality, problem.groups)
        self.incumbents = Incumbents(problem, most, self.clock.check)
        inner = extract(problem, extraction).problem
        make = engine or choose_engine(inner, extraction)
        self.engine = make(inner, most, 0.1 * tolerance)
        self.engine.pause = self.clock.check
        self.unlimited = most == problem.groups
        self.open: list[tuple[float, int, Node]] = []
        # of the nodes that were closed by the cutoff: the proof's weakest part
        self.closed = np.inf
        self.bound = -np.inf

    def proved(self) -> float:
        """The bound; Fenchel's at no weights where the root was not solved."""
        if np.isfinite(self.bound):
            return self.bound
        inner = self.engine.problem
        return inner.dual_bound(np.zeros_like(inner.cross))

    @property
    def cutoff(self) -> float:
        """Nodes with a bound from here on hold nothing that is better by the tolerance."""
        objective = self.incumbents.objective
        return objective - 0.999 * self.tolerance * abs(objective)

    def root(self) -> Node:
        """The root, evaluated."""
        groups = self.problem.groups
        node = Node(np.full(groups, FREE, np.int8), -np.inf, np.full(groups, 0.5), np.zeros(groups))
        self.engine.evaluate([node], np.inf)
        self.nodes += 1
        return node

    def search(self) -> None:
        """The whole tree."""
        node = self.root()
        self.bound = node.bound
        for threshold in _THRESHOLDS:
            self._offer(node, threshold)
        front = self._next([node])
        while front:
            children = self._branch(front)
            self.clock.check()
            self.engine.evaluate(children, self.cutoff)
            self.nodes += len(children)
            for child in children:
                self._offer(child, 0.5)
            front = self._next(children)
            self._report()
        self.bound = min(self.closed, self.incumbents.objective)

    def _branch(self, front: list[Node]) -> list[Node]:
        children = []
        for node in front:
            doubt = np.where(node.free, np.minimum(node.indicator, 1 - node.indicator), -1.0)
            if doubt.max() <= _INTEGRAL:  # not yet proved: what the bound is least sure of
                doubt = np.where(node.free, -np.abs(node.surplus), -np.inf)
            group = int(doubt.argmax())
            children += [node.child(group, KEPT), node.child(group, REMOVED)]
        return children

    def _next(self, children: list[Node]) -> list[Node]:
        """Close or store the children; the nodes to branch on next."""
        alive = sorted((c for c in children if self._survives(c)), key=lambda c: c.bound)
        best = min([n.bound for n in alive] + [bound for bound, _, _ in self.open[:1]], default=0)
        allowed = best + _PLUNGE * (self.incumbents.objective - best)
        front = []
        for child in alive:
            if len(front) < self.engine.width and child.bound <= allowed:
                front.append(child)
            else:
                heapq.heappush(self.open, (child.bound, self.nodes + len(self.open), child))
        cutoff = self.cutoff
        while len(front) < self.engine.width and self.open:
            bound, _, node = heapq.heappop(self.open)
            if bound >= cutoff:  # and so are all others
                self.closed = min(self.closed, bound)
                self.open.clear()
            else:
                front.append(node)
        left = [n.bound for n in front] + [bound for bound, _, _ in self.open[:1]]
        self.bound = max(self.bound, min([*left, self.closed, self.incumbents.objective]))
        if len(self.open) > self.node_limit:
            raise Stopped("node_limit")
        return front

    def _survives(self, node: Node) -> bool:
        """Fix what the bound decides; whether anything is left to branch on."""
        cutoff = self.cutoff
        if node.bound < cutoff and self.unlimited:
            self._fix(node, cutoff)
        if not node.free.any():
            support = node.state == KEPT
            self.incumbents.offer(support)
            self.closed = min(self.closed, self.incumbents.proved(support))
            return False
        if node.bound >= cutoff:
            self.closed = min(self.closed, node.bound)
            return False
        return True

    def _fix(self, node: Node, cutoff: float) -> None:
        """Reduced-cost fixing."""
        free = node.free
        without = node.bound + np.maximum(node.surplus, 0)
        having = node.bound + np.maximum(-node.surplus, 0)
        keep, drop = free & (without >= cutoff), free & (having >= cutoff)
        for decided, state, bounds in ((keep, KEPT, without), (drop, REMOVED, having)):
            if decided.any():
                self.closed = min(self.closed, float(bounds[decided].min()))
                node.state[decided] = state
                node.indicator[decided] = state

    def _offer(self, node: Node, threshold: float) -> None:
        support = (node.state == KEPT) | (node.free & (node.indicator > threshold))
        if support.sum() > self.incumbents.most:
            order = np.argsort(np.where(node.state == KEPT, -2.0, -node.indicator))
            support = np.zeros_like(support)
            support[order[: self.incumbents.most]] = True
        self.incumbents.offer(support)

    def _report(self) -> None:
        if self.on_progress and self.clock.elapsed - self.shown > 0.2:
            self.shown = self.clock.elapsed
            self.on_progress(
                Progress(self.incumbents.objective, self.bound, self.nodes, self.clock.elapsed)
            )


def choose_engine(
    problem: LayerProblem, extraction: str
) -> Callable[[LayerProblem, int, float], Engine]:
    """The engine that suits a problem after this extraction."""
    term = problem.term
    if term.ridge is None or term.profile.ball:
        return ProximalGradient
    # the best Δ leave the loss singular, which descent in the weights does not like
    singular = extraction in ("ascent", "sdp")
    if problem.plain and (singular or len(problem.cross) > _LARGE):
        return IndicatorNewton
    return BlockDescent
