"""What a solver answers, whatever the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations.errors import InputError


@dataclass(frozen=True)
class Progress:
    """Where a solve stands: its incumbent and bound, the nodes and the seconds so far."""

    objective: float
    bound: float
    nodes: int
    seconds: float

    @property
    def gap(self) -> float:
        """As in :class:`Solution`."""
        return relative_gap(self.objective, self.bound)


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
        ``"optimal"`` (gap within the tolerance), ``"time_limit"``, ``"node_limit"``,
        ``"round_limit"``, ``"interrupted"`` or ``"numerical"`` (the linear programs' precision
        allows no more).
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


def check_limits(tolerance: float, time_limit: float) -> None:
    """Refuse a tolerance or a time limit that is not positive."""
    if not tolerance > 0:
        raise InputError(f"the tolerance must be positive: it is {tolerance:g}")
    if not time_limit > 0:
        raise InputError(f"the time limit must be positive: it is {time_limit:g}")


def check_cardinality(cardinality: int | None, groups: int) -> int:
    """The largest number of groups, from a limit that may be absent."""
    if cardinality is None:
        return groups
    if cardinality < 0 or int(cardinality) != cardinality:
        raise InputError(f"the cardinality must be a whole number from 0: it is {cardinality}")
    return min(int(cardinality), groups)
