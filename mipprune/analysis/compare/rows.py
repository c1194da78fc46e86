"""One row a way of pruning: what all comparisons print, draw and write."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from formulations.arrays import BoolArray
from formulations.solving.deadline import Deadline
from formulations.solving.result import Solution, Status, relative_gap


class Exact(Protocol):
    """What rows are compared with: the exact solution's value, proved bound and support."""

    @property
    def objective(self) -> float:
        """Of the best choice found."""

    @property
    def bound(self) -> float:
        """Proved bound on the objective."""

    @property
    def support(self) -> BoolArray:
        """What is kept, (G,)."""


class Chosen(NamedTuple):
    """The same, of a problem whose solution is no :class:`Solution`."""

    objective: float
    bound: float
    support: BoolArray


def make_row(
    name: str,
    objective: float,
    support: BoolArray,
    *,
    exact: Exact,
    bound: float | None = None,
    seconds: float = 0.0,
    nodes: int = 0,
    status: str = "heuristic",
) -> dict[str, Any]:
    """A row.

    Its gap says how far it is from the optimum at most, as a share: (U − L)/|U|. A choice has its
    own objective as U and the exact solve's bound as L; what proves a bound, a relaxation, has that
    bound as L and the exact solution's objective as U. Of the exact row both say the same.

    Parameters
    ----------
    objective : float
        Of the MIP, or of a relaxation its own value.
    support : (G,) bool array
        What is kept.
    exact : Exact
    bound : float, optional
        Of the exact row and of relaxations.
    """
    upper, lower = (objective, exact.bound) if bound is None else (exact.objective, bound)
    return {
        "name": name,
        "objective": float(objective),
        "bound": None if bound is None else float(bound),
        "gap": float(relative_gap(upper, lower)),
        "kept": int(support.sum()),
        "support": np.flatnonzero(support).tolist(),
        "agreement": float((support == exact.support).mean()),
        "seconds": float(seconds),
        "nodes": int(nodes),
        "status": status,
    }


def solution_row(name: str, solution: Solution, exact: Solution) -> dict[str, Any]:
    """The row of a solution, the exact one or a relaxation's."""
    return make_row(
        name,
        solution.objective,
        solution.support,
        exact=exact,
        bound=solution.bound,
        seconds=solution.seconds,
        nodes=solution.nodes,
        status=solution.status,
    )


def ended(deadline: Deadline, otherwise: str = "heuristic") -> str:
    """The status of work that stops where it is when its time is over."""
    return Status.TIME_LIMIT if deadline.over else otherwise
