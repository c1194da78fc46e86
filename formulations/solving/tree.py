"""The tree of the branch and bound: open nodes, the bound and the incumbent of one solve.

Best-first with plunging: the better child is followed while it is nearly as good as the best open
node. A free group whose removal (or keeping) would lift a node's bound beyond the incumbent is kept
(or removed) for good. What bounds the nodes and what makes incumbents is handed in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import numpy as np

from formulations.arrays import BoolArray
from formulations.solving.deadline import Deadline, Stopped
from formulations.solving.incumbents import Incumbents
from formulations.solving.node import KEPT, REMOVED, Node, Relaxation
from formulations.solving.result import Progress, Status

# share of the open gap that plunging may give away against the best open node
PLUNGE = 0.25
# indicators above which the root's groups make a support
_THRESHOLDS = (0.5, 0.2)
# doubt of an indicator below which it says nothing about where to branch; and below which it is 0
# or 1 for a relaxation without surplus
_INTEGRAL, _WHOLE = 1e-6, 1e-9
# nodes are closed a little before the gap that is asked for, lest rounding leave it open
_MARGIN = 0.999
_INTERVAL = 0.2  # seconds between two reports


class Tree:
    """Open nodes, the bound and the incumbent of one solve.

    Parameters
    ----------
    incumbents : Incumbents
    relaxation : Relaxation
    deadline : Deadline
        Looked at now and then; when its time is over, ``Stopped`` is raised.
    gap : float
        Relative gap at which to stop.
    node_limit : float
        Most open nodes; with more, ``Stopped`` is raised.
    plunge : float
        Share of the open gap that following a child may give away; with 0 the best open node is
        always the next, the oldest of those that are as good.
    on_progress : callable, optional
        Called with the state of the solve: after the root, then now and then, and at the end.

    Attributes
    ----------
    bound : float
        Proved so far; −∞ before the root has been solved.
    nodes : int
        Evaluated so far.
    """

    def __init__(
        self,
        incumbents: Incumbents,
        relaxation: Relaxation,
        deadline: Deadline,
        gap: float,
        node_limit: float = math.inf,
        plunge: float = PLUNGE,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.incumbents, self.relaxation, self.deadline = incumbents, relaxation, deadline
        self.gap, self.node_limit, self.plunge = gap, node_limit, plunge
        self.on_progress = on_progress
        self.relaxation.pause = deadline.check
        self.nodes, self.shown = 0, -math.inf
        self.unlimited = incumbents.most == len(incumbents.support)
        self.open: list[tuple[float, int, Node]] = []
        # of the nodes that were closed by the cutoff: the proof's weakest part
        self.closed = math.inf
        self.bound = -math.inf

    @property
    def cutoff(self) -> float:
        """Nodes with a bound from here on hold nothing that is better by the gap."""
        objective = self.incumbents.objective
        return objective - _MARGIN * self.gap * abs(objective)

    def search(self, root: Node | None = None) -> None:
        """Solve the root, from a node in which all groups are free, and all below it."""
        node = root or Node.root(len(self.incumbents.support))
        self.relaxation.evaluate([node], math.inf)
        for threshold in _THRESHOLDS:
            self._offer(node, threshold)
        self.grow(node)

    def grow(self, root: Node) -> None:
        """All below a root that is solved already."""
        self.nodes += 1
        self.bound = root.bound
        front = self._next([root])
        self._report()
        while front:
            children = self._branch(front)
            self.deadline.check()
            self.relaxation.evaluate(children, self.cutoff)
            self.nodes += len(children)
            for child in children:
                self._offer(child, 0.5)
            front = self._next(children)
            self._report()
        self.bound = min(self.closed, self.incumbents.objective)
        self.shown = -math.inf
        self._report()

    def _branch(self, front: list[Node]) -> list[Node]:
        children = []
        for node in front:
            doubt = node.doubt
            if doubt.max() <= _INTEGRAL and node.surplus is not None:
                # not yet proved: what the bound is least sure of
                doubt = np.where(node.free, -np.abs(node.surplus), -np.inf)
            group = int(doubt.argmax())
            children += [node.child(group, KEPT), node.child(group, REMOVED)]
        return children

    def _next(self, children: list[Node]) -> list[Node]:
        """Close or store the children; the nodes to branch on next."""
        alive = sorted((c for c in children if self._survives(c)), key=lambda c: c.bound)
        best = min([n.bound for n in alive] + [bound for bound, _, _ in self.open[:1]], default=0)
        allowed = best + self.plunge * (self.incumbents.objective - best)
        width = self.relaxation.width if self.plunge else 0
        front: list[Node] = []
        for child in alive:
            if len(front) < width and child.bound <= allowed:
                front.append(child)
            else:
                heapq.heappush(self.open, (child.bound, self.nodes + len(self.open), child))
        cutoff = self.cutoff
        while len(front) < self.relaxation.width and self.open:
            bound, _, node = heapq.heappop(self.open)
            if bound >= cutoff:  # and so are all others
                self.closed = min(self.closed, bound)
                self.open.clear()
            else:
                front.append(node)
        left = [n.bound for n in front] + [bound for bound, _, _ in self.open[:1]]
        self.bound = max(self.bound, min([*left, self.closed, self.incumbents.objective]))
        if len(self.open) > self.node_limit:
            raise Stopped(Status.NODE_LIMIT)
        return front

    def _survives(self, node: Node) -> bool:
        """Fix what the bound decides; whether anything is left to branch on."""
        cutoff = self.cutoff
        if node.bound < cutoff and self.unlimited:
            self._fix(node, cutoff)
        if node.surplus is None and node.doubt.max() <= _WHOLE:
            self.closed = min(self.closed, node.bound)
            return False
        if not node.free.any():
            support = node.state == KEPT
            self.incumbents.offer(support)
            self.closed = min(self.closed, self.incumbents.lower_bound(support))
            return False
        if node.bound >= cutoff:
            self.closed = min(self.closed, node.bound)
            return False
        return True

    def _fix(self, node: Node, cutoff: float) -> None:
        """Reduced-cost fixing."""
        if node.surplus is None:
            return
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
        support: BoolArray = (node.state == KEPT) | (node.free & (node.indicator > threshold))
        if support.sum() > self.incumbents.most:
            order = np.argsort(np.where(node.state == KEPT, -2.0, -node.indicator))
            support = np.zeros_like(support)
            support[order[: self.incumbents.most]] = True
        self.incumbents.offer(support)

    def _report(self) -> None:
        seconds = self.deadline.elapsed
        if self.on_progress and seconds - self.shown > _INTERVAL:
            self.shown = seconds
            self.on_progress(Progress(self.incumbents.objective, self.bound, self.nodes, seconds))
