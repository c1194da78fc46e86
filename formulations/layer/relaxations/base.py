"""What the relaxations of a layer problem share: the limit on the number of groups.

All minimise the same function, the loss plus Σ φ of the kept and Σ h of the free groups, h the
projected regularizer, and bound it by Fenchel duality at the point V that they reach:

    D(V) = −½⟨V, M V⟩ + c₀ − Σ_kept (φ_B*(v_j) − c_j) − Σ_free max(0, φ_B*(v_j) − c_j),

v = B − M·V, less what rounding can have added (:mod:`formulations.solving.safe_bound`). With at
most K groups, Σ y ≤ K is priced by a multiplier μ, c + μ for c; D then counts the K largest of the
free groups' φ_B* − c alone, which is the exact minimum over y.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.stack import Stack
from formulations.solving import safe_bound
from formulations.solving.node import KEPT, REMOVED, Node
from formulations.terms.partition import Partition

_MULTIPLIERS = 8  # values of μ tried at a node

P = TypeVar("P", LayerProblem, LayerProblem | Stack)


def trivial_bound(problem: LayerProblem) -> float:
    """Fenchel's bound at no weights, which needs no work: c₀ − Σ_j max(0, φ_B*(B_j) − c_j).

    Prices of blocks of groups, where indicators are nested, are left aside.
    """
    point = safe_bound.dual_point(
        problem.curvature, problem.cross, problem.constant, 0 * problem.cross
    )
    sizes = Partition(np.full(problem.groups, problem.block * problem.outputs))
    conjugate = safe_bound.shrinkage_conjugate(problem.term, point, sizes)
    gained = float(np.maximum(conjugate - problem.price, 0.0).sum())
    rounding = safe_bound.unit(problem.groups) * (gained + float(problem.price.sum()))
    return point.value - gained - point.margin - rounding


class Solved(NamedTuple):
    """What a relaxation says of a node: see the attributes of :class:`Node` of the same names."""

    bound: float
    indicator: FloatArray
    surplus: FloatArray
    warm: Any


@dataclass(eq=False)
class NodeRelaxation(Generic[P]):
    """A :class:`formulations.solving.node.Relaxation` of a layer problem.

    Parameters
    ----------
    problem : LayerProblem
        After the extraction.
    most : int
        Largest number of groups; all of them for no limit.
    tolerance : float
        Relative precision of a node's relaxation.

    Attributes
    ----------
    width : int
        Nodes to be branched at once.
    pause : callable
        Called now and then; what it raises ends the work.
    """

    problem: P
    most: int
    tolerance: float
    width: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.pause: Callable[[], None] = lambda: None
        self.price = self.problem.price
        self.limited = self.most < self.problem.groups

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`."""
        for node in nodes:
            if self.limited:
                self._evaluate_limited(node, cutoff)
            else:
                self._take(node, self._solve(node, self.price, cutoff))

    def _solve(self, node: Node, price: FloatArray, cutoff: float) -> Solved:
        """Relax a node at these prices (J,)."""
        raise NotImplementedError

    def _take(self, node: Node, solved: Solved) -> None:
        node.warm = solved.warm
        if solved.bound >= node.bound:
            node.bound, node.surplus = solved.bound, solved.surplus
        node.indicator = np.where(node.free, solved.indicator, node.state)

    def _evaluate_limited(self, node: Node, cutoff: float) -> None:
        left = self.most - int((node.state == KEPT).sum())
        if left == 0:
            node.state = np.where(node.free, REMOVED, node.state).astype(np.int8)
        free = node.free
        low, high, multiplier = 0.0, np.inf, node.multiplier
        for _ in range(_MULTIPLIERS):
            solved = self._solve(node, self.price + multiplier, np.inf)
            bound, surplus = self._at_most(node, left, solved, multiplier)
            node.multiplier = multiplier
            self._take(node, solved._replace(bound=bound, surplus=surplus))
            total = float(solved.indicator[free].sum()) - left
            if node.bound >= cutoff or abs(total) <= 1e-2 or (total < 0 and multiplier == 0.0):
                break
            if total > 0:
                low = multiplier
            else:
                high = multiplier
            if np.isinf(high):
                multiplier = 2 * multiplier + 0.25 * float(self.price.mean())
            else:
                multiplier = 0.5 * (low + high) if high > 1e-9 * self.price.mean() else 0.0

    def _at_most(
        self, node: Node, left: int, solved: Solved, multiplier: float
    ) -> tuple[float, FloatArray]:
        """The bound that counts at most ``left`` of the free groups, and the surplus at c."""
        surplus, free, kept = solved.surplus, node.free, node.state == KEPT
        base = solved.bound + surplus[kept].sum() + np.maximum(surplus[free], 0).sum()
        surplus = np.where(node.state == REMOVED, 0.0, surplus + multiplier)
        gains = np.sort(np.maximum(surplus[free], 0))[::-1][:left]
        rounding = safe_bound.unit(2 * len(surplus)) * (abs(base) + np.abs(surplus).sum())
        return float(base - surplus[kept].sum() - gains.sum() - rounding), surplus
