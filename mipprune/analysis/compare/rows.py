"""One row a way of pruning: what all comparisons print, draw and write."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from formulations.arrays import BoolArray
from formulations.solving.result import Solution, relative_gap


class Exact(Protocol):
    """What rows are compared with: the exact solution's proved bound and support, (G,) bool."""

    @property
    def bound(self) -> float:
        """Proved bound on the objective."""

    @property
    def support(self) -> BoolArray:
        """What is kept, (G,)."""


class Chosen(NamedTuple):
    """The same, of a problem whose solution is no :class:`Solution`."""

    bound: float
    support: BoolArray


def make_row(
    name: str,
    objective: float,
    support: BoolArray,
    *,
    exact: Exact,
    bound: float | None = None,
    gap: float | None = None,
    seconds: float = 0.0,
    nodes: int = 0,
    status: str = "heuristic",
) -> dict[str, Any]:
    """A row; the gap of one that proves no bound is to the exact row's.

    Parameters
    ----------
    objective : float
        Of the MIP, or of a relaxation its own value.
    support : (G,) bool array
        What is kept.
    exact : Exact
    """
    return {
        "name": name,
        "objective": float(objective),
        "bound": None if bound is None else float(bound),
        "gap": float(relative_gap(objective, exact.bound) if gap is None else gap),
        "kept": int(support.sum()),
        "support": np.flatnonzero(support).tolist(),
        "agreement": float((support == exact.support).mean()),
        "seconds": float(seconds),
        "nodes": int(nodes),
        "status": status,
    }


def solution_row(name: str, solution: Solution, exact: Solution) -> dict[str, Any]:
    """The row of a solution: of a relaxation, the gap is that of its bound to the exact optimum."""
    relaxed = solution is not exact
    return make_row(
        name,
        solution.objective,
        solution.support,
        exact=exact,
        bound=solution.bound,
        gap=relative_gap(exact.objective, solution.bound) if relaxed else solution.gap,
        seconds=solution.seconds,
        nodes=solution.nodes,
        status=solution.status,
    )
