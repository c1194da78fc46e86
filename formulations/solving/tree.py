"""The tree of the branch and bound: open nodes, the bound and the incumbent of one solve.

Best-first with plunging: the better child is followed while it is nearly as good as the best open
node. A free group whose removal (or keeping) would lift a node's bound beyond the incumbent is kept
(or removed) for good. What bounds the nodes and what makes incumbents is handed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

import numpy as np

from formulations.solving.deadline import Clock, Stopped
from formulations.solving.node import KEPT, REMOVED, Node, Relaxation
from formulations.solving.result import Progress

# Share of the open gap that plunging may give away against the best open node.
_PLUNGE = 0.25
_THRESHOLDS = (0.5, 0.2)
_INTEGRAL = 1e-6


class Supports(Protocol):
    """The best support met so far, of at most ``most`` groups.

    Attributes
    ----------
    support : (J,) bool array
    objective : float
    most : int
    """

    support: np.ndarray
    objective: float
    most: int

    def offer(self, support: np.ndarray) -> None:
        """Refit a support; if it is the best yet, take it and improve it."""

    def lower_bound(self, support: np.ndarray) -> float:
        """Lower bound on the objective of a support, whatever the precision of its refit."""


class Tree:
    """Open nodes, the bound and the incumbent of one solve.

    Parameters
    ----------
    incumbents : Supports
    relaxation : Relaxation
    clock : Clock
        Looked at now and then; when its time is over, ``Stopped`` is raised.
    tolerance : float
        Relative gap at which to stop.
    node_limit : int
        Most open nodes; with more, ``Stopped`` is raised.
    on_progress : callable, optional
        Called now and then with the state of the solve.

    Attributes
    ----------
    bound : float
        Proved so far; −∞ before the root has been solved.
    nodes : int
        Evaluated so far.
    """

    def __init__(
        self,
        incumbents: Supports,
        relaxation: Relaxation,
        clock: Clock,
        tolerance: float,
        node_limit: int = 1,
        on_progress: Callable[[Progress], None] | None = None,
    ):
        self.incumbents, self.relaxation, self.clock = incumbents, relaxation, clock
        self.tolerance, self.node_limit, self.on_progress = tolerance, node_limit, on_progress
        self.relaxation.pause = clock.check
        self.nodes, self.shown = 0, 0.0
        self.unlimited = incumbents.most == len(incumbents.support)
        self.open: list[tuple[float, int, Node]] = []
        # of the nodes that were closed by the cutoff: the proof's weakest part
        self.closed = np.inf
        self.bound = -np.inf

    @property
    def cutoff(self) -> float:
        """Nodes with a bound from here on hold nothing that is better by the tolerance."""
        objective = self.incumbents.objective
        return objective - 0.999 * self.tolerance * abs(objective)

    def search(self, root: Node | None = None) -> None:
        """The whole tree, from a node in which all groups are free."""
        node = root or Node.root(len(self.incumbents.support))
        self.relaxation.evaluate([node], np.inf)
        self.nodes += 1
        self.bound = node.bound
        for threshold in _THRESHOLDS:
            self._offer(node, threshold)
        front = self._next([node])
        while front:
            children = self._branch(front)
            self.clock.check()
            self.relaxation.evaluate(children, self.cutoff)
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
            if len(front) < self.relaxation.width and child.bound <= allowed:
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
            self.closed = min(self.closed, self.incumbents.lower_bound(support))
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
