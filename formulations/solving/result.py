"""What a solver answers, whatever the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError


class Status(StrEnum):
    """How a solve ended; each is the text of its value, too."""

    OPTIMAL = "optimal"
    """The proved gap is within the one that was asked for."""
    TIME_LIMIT = "time_limit"
    NODE_LIMIT = "node_limit"
    """More open nodes than were allowed."""
    ROUND_LIMIT = "round_limit"
    """More rounds of cuts than any relaxation needs."""
    INTERRUPTED = "interrupted"
    """By Ctrl-C."""
    NUMERICAL = "numerical"
    """The arithmetic's precision allows no smaller gap."""
    INFEASIBLE = "infeasible"


class Bounded:
    """What has an objective and a proved lower bound on the optimum."""

    objective: float
    bound: float

    @property
    def gap(self) -> float:
        """(objective − bound) / |objective|, never negative."""
        return relative_gap(self.objective, self.bound)


@dataclass(frozen=True)
class Progress(Bounded):
    """Where a solve stands.

    Attributes
    ----------
    objective, bound : float
        Of the incumbent, and proved so far.
    nodes : int
        Of the branch and bound, so far.
    seconds : float
        Wall time so far.
    """

    objective: float
    bound: float
    nodes: int
    seconds: float


@dataclass(frozen=True)
class Solution(Bounded):
    """A feasible choice with a proved bound.

    Attributes
    ----------
    objective : float
        Value of the incumbent (of the relaxation, for a relaxed problem).
    bound : float
        Proved lower bound on the optimum.
    status : Status
        How the solve ended.
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
    status: Status
    support: BoolArray
    weights: FloatArray
    nodes: int
    seconds: float
    solver: str

    @property
    def kept(self) -> int:
        """Number of groups kept."""
        return int(self.support.sum())


def relative_gap(objective: float, bound: float) -> float:
    """(objective − bound) / |objective|, never negative; of an objective of 0, 0 or infinite."""
    short = max(0.0, objective - bound)
    if short == 0:
        return 0.0
    return short / abs(objective) if objective else math.inf


def judge(ended: Status, *, closed: bool) -> Status:
    """The status of a solution: optimal only if its gap is closed.

    Parameters
    ----------
    ended : Status
        How the work ended: optimal where it came to its own end.
    closed : bool
        Whether the proved gap is within the one that was asked for.
    """
    if closed:
        return Status.OPTIMAL
    return Status.NUMERICAL if ended == Status.OPTIMAL else ended


def check_positive(name: str, value: float) -> None:
    """Refuse a gap or the like that is not positive, by its name.

    Raises
    ------
    InputError
        Not positive, or no number.
    """
    if not value > 0:
        raise InputError(f"the {name} must be positive: it is {value:g}")


def check_cardinality(cardinality: int | None, groups: int) -> int:
    """The largest number of groups, from a limit that may be absent.

    Raises
    ------
    InputError
        Not a whole number from 0 to ``groups``.
    """
    if cardinality is None:
        return groups
    if cardinality not in range(groups + 1):
        raise InputError(
            f"the cardinality must be a whole number from 0 to {groups}, the number of groups: "
            f"it is {cardinality}"
        )
    return int(cardinality)
