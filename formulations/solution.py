"""What a solver answers, whatever the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Solution:
    """A feasible choice with a proved bound.

    Attributes
    ----------
    objective : float
        Value of the incumbent (of the relaxation, for a relaxed problem).
    bound : float
        Proved lower bound on the optimum.
    status : str
        ``"optimal"`` (gap within the tolerance), ``"time_limit"``, ``"round_limit"``,
        ``"interrupted"`` or ``"numerical"`` (the linear programs' precision allows no more).
    support : (G,) bool array
        Kept groups (of a relaxed problem: indicator above ½).
    weights : (D, O) array
        Weights of the incumbent, zero outside the support.
    nodes : int
        Branch-and-bound nodes, over all solves.
    seconds : float
        Wall time.
    solver : str
        Engine and form, such as ``"highs/perspective"``.
    """

    objective: float
    bound: float
    status: str
    support: np.ndarray
    weights: np.ndarray
    nodes: int
    seconds: float
    solver: str

    @property
    def gap(self) -> float:
        """(objective − bound) / |objective|, never negative."""
        return relative_gap(self.objective, self.bound)

    @property
    def kept(self) -> int:
        """Number of groups kept."""
        return int(self.support.sum())


def relative_gap(objective: float, bound: float) -> float:
    """(objective − bound) / |objective|, 0 where the bound is as good within rounding."""
    return max(0.0, objective - bound) / max(abs(objective), 1e-12)
