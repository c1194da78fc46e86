"""A node of the branch and bound, and what a relaxation that bounds nodes must offer.

A node removes some groups, keeps some and leaves the others free. The tree
(:mod:`formulations.solving.tree`) makes nodes and closes them; a relaxation says how good a
solution in one can be at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from formulations.arrays import BoolArray, FloatArray

REMOVED, KEPT, FREE = 0, 1, 2  # states of a group


@dataclass(eq=False)
class Node:
    """A subproblem: some groups removed, some kept, the others free.

    Attributes
    ----------
    state : (J,) int8 array
        0 removed, 1 kept, 2 free.
    bound : float
        Valid lower bound on every solution in it.
    indicator : (J,) array
        y of its relaxation.
    surplus : (J,) array or None
        φ_B*(v_j) − c_j at the bound's point: removing a free group raises the bound by its positive
        part, keeping it by its negative part. None where the relaxation knows of none: then no
        group is fixed by it, and a node whose indicators are 0 or 1 is closed at its bound.
    warm : object
        Where the relaxation starts in the children; each kind has its own.
    multiplier : float
        μ of the limit on the number of groups.
    """

    state: NDArray[np.int8]
    bound: float
    indicator: FloatArray
    surplus: FloatArray | None
    warm: Any = None
    multiplier: float = 0.0

    @classmethod
    def root(cls, groups: int) -> Node:
        """The node in which all groups are free."""
        free = np.full(groups, FREE, np.int8)
        return cls(free, -np.inf, np.full(groups, 0.5), np.zeros(groups))

    @property
    def free(self) -> BoolArray:
        """Groups that are not decided yet, (J,)."""
        return self.state == FREE

    @property
    def doubt(self) -> FloatArray:
        """Distance of every indicator from 0 and 1, (J,); −1 for groups that are decided."""
        return np.where(self.free, np.minimum(self.indicator, 1 - self.indicator), -1.0)

    def child(self, group: int, state: int) -> Node:
        """The same with one group more decided: ``KEPT`` or ``REMOVED``."""
        states, indicator = self.state.copy(), self.indicator.copy()
        states[group], indicator[group] = state, float(state)
        return Node(states, self.bound, indicator, self.surplus, self.warm, self.multiplier)


class Relaxation(Protocol):
    """Bounds nodes.

    Attributes
    ----------
    width : int
        How many nodes it likes to have branched at once.
    pause : callable
        Set by the tree and called now and then; what it raises ends the work.
    """

    width: int
    pause: Callable[[], None]

    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """Set bound, indicator, surplus and warm start; a bound beyond ``cutoff`` will do."""
