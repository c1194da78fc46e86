"""Layer problems of the same groups, stacked: one choice, every layer refitted on its own.

Channels that several layers read stay or go for all of them at once. With the layers' inputs X_l,
weights W_l and the rows of X_l that belong to the groups of a support S,

    min over S of  Σ_l min_V ½‖X_l W_l − X_l[S] V‖²/n + φ_l(V) + c·|S|:

one layer problem whose Hessian is block-diagonal over the layers, group by group. All that is asked
of it is found layer by layer, and no matrix is larger than a layer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.layer.local_search import changes
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit


@dataclass(frozen=True, eq=False)
class Stack:
    """Layer problems that choose the same groups; one alone is a stack too.

    Parameters
    ----------
    problems : tuple of LayerProblem
        With φ = a‖w‖², each of its own a; their own prices are left aside.
    each : float
        c, the price of a kept group, which :meth:`objective` and :meth:`changes` leave aside too.

    Raises
    ------
    InputError
        If their numbers of groups differ, or one has another φ, bounds or nested indicators.
    """

    problems: tuple[LayerProblem, ...]
    each: float = 0.0

    def __post_init__(self) -> None:
        if len({problem.groups for problem in self.problems}) != 1:
            raise InputError("problems are stacked that have the same groups")
        if not all(problem.plain for problem in self.problems):
            raise InputError("a choice is for φ = a‖w‖² without bounds or nested indicators")

    @property
    def groups(self) -> int:
        """J."""
        return self.problems[0].groups

    @property
    def price(self) -> FloatArray:
        """Price c of every group, (J,)."""
        return np.full(self.groups, self.each)

    @property
    def constant(self) -> float:
        """Σ c₀: loss of keeping no group."""
        return sum(problem.constant for problem in self.problems)

    def objective(self, support: BoolArray) -> float:
        """Loss and shrinkage of a (J,) support, every problem refitted, without prices."""
        total = 0.0
        for problem in self.problems:
            weights = refit(problem, support)
            shrinkage = problem.term.shrinkage(problem.by_group(weights)).sum()
            total += problem.loss(weights) + float(shrinkage)
        return total

    def changes(self, support: BoolArray) -> tuple[float, FloatArray]:
        """The objective of a support, and by how much adding or removing each group changes it.

        Exactly, (J,): a removal by ½⟨W_j, ((H_SS⁻¹)_jj)⁻¹ W_j⟩, an addition by −½⟨R_j, Z_j⁻¹ R_j⟩,
        R the residual and Z_j the Schur complement of the group.
        """
        chosen, free = np.flatnonzero(support), np.zeros(self.groups)
        value, change = 0.0, np.zeros(self.groups)
        for p in self.problems:
            hessian, cross = (np.ascontiguousarray(m) for m in (p.hessian, p.cross))
            own, moved = changes(hessian, cross, p.constant, free, chosen, p.block)
            value, change = value + own, change + moved
        return value, change
