"""Units in which the numbers of a layer problem are near one.

Tolerances of solvers, HiGHS's and SCIP's above all, are absolute: on data of scale 10⁻¹², whose
objective is 10⁻²⁴, any answer is within them. So every engine sees the problem in units of c₀, and
with φ = a‖w‖² in units of a weight in which the largest entry on the diagonal of the Hessian is
about 1 for every group. All units are powers of two: nothing is rounded on the way there or back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from formulations.arrays import FloatArray, IntArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.solving.result import Progress, Solution


@dataclass(frozen=True, eq=False)
class InUnits:
    """A layer problem in units of its own.

    Attributes
    ----------
    problem : LayerProblem
        In these units.
    objective : int
        The unit of the objective is 2 to this power.
    weights : (D,) int array
        The unit of a weight, a row, likewise.
    """

    problem: LayerProblem
    objective: int
    weights: IntArray

    @classmethod
    def of(cls, problem: LayerProblem) -> InUnits:
        """The problem in units in which c₀ is about 1.

        Raises
        ------
        InputError
            Numbers so far apart that one unit does not hold them.
        """
        objective = _exponent(_size(problem))
        group = np.zeros(problem.groups, int)
        if problem.term.ridge is not None:
            diagonal = np.diag(problem.gram) + 2 * problem.per_row(problem.term.ridge)
            largest = diagonal.reshape(problem.groups, problem.block).max(axis=1)
            group = (objective - _exponent(largest)) // 2
        weights = np.repeat(group, problem.block)
        with np.errstate(over="ignore", under="ignore"):
            gram = np.ldexp(problem.gram, weights[:, None] + weights - objective)
            cross = np.ldexp(problem.cross, (weights - objective)[:, None])
            term = problem.term.in_units(objective, group if group.any() else None)
        constant = float(np.ldexp(problem.constant, -objective))
        if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
            raise InputError("the numbers of G, B, c0 and the term are too far apart: scale them")
        inner = LayerProblem.unchecked(gram, cross, constant, term, problem.block)
        return cls(inner, objective, weights)

    def value(self, value: float) -> float:
        """An objective or bound, in the units of the stated problem."""
        return float(np.ldexp(value, self.objective))

    def weights_of(self, weights: FloatArray) -> FloatArray:
        """(D, O) weights, in the units of the stated problem."""
        stated: FloatArray = np.ldexp(weights, self.weights[:, None])
        return stated

    def solution(self, found: Solution) -> Solution:
        """A solution, in the units of the stated problem."""
        return replace(
            found,
            objective=self.value(found.objective),
            bound=self.value(found.bound),
            weights=self.weights_of(found.weights),
        )

    def told(
        self, on_progress: Callable[[Progress], None] | None
    ) -> Callable[[Progress], None] | None:
        """What tells the progress in the units of the stated problem."""
        if on_progress is None:
            return None
        tell = on_progress

        def convert(state: Progress) -> None:
            objective, bound = self.value(state.objective), self.value(state.bound)
            tell(replace(state, objective=objective, bound=bound))

        return convert


def _size(problem: LayerProblem) -> float:
    """What objectives are like: c₀, or what the loss can fall by, or a price."""
    if problem.constant > 0:
        return problem.constant
    diagonal = np.diag(problem.gram)
    seen = diagonal > 0
    falls = (problem.cross[seen] ** 2).sum(axis=1) / diagonal[seen]
    return float(falls.max(initial=0.0)) or float(np.max(problem.price))


def _exponent(value: Any) -> Any:
    """The e with value = m·2ᵉ, ½ ≤ m < 1."""
    return np.frexp(value)[1]
