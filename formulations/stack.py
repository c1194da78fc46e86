"""Layer problems of the same groups, stacked: one choice, every layer refitted on its own.

Channels that several layers read stay or go for all of them at once. With the layers' inputs X_l,
weights W_l and the rows of X_l that belong to the groups of a support S,

    min over S of  Σ_l min_V ½‖X_l W_l − X_l[S] V‖²/n + φ_l(V):

one layer problem whose Hessian is block-diagonal over the layers, group by group. What is asked of
it is mostly found layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations.block_descent import changes
from formulations.catalogue import square
from formulations.errors import InputError
from formulations.layer import LayerProblem


@dataclass(frozen=True, eq=False)
class Stack:
    """Layer problems that choose the same groups; one alone is a stack too.

    Parameters
    ----------
    problems : tuple of LayerProblem
        With φ = a‖w‖², each of its own a; their prices are left aside.

    Raises
    ------
    InputError
        If their numbers of groups differ, or one has another φ, bounds or nested indicators.
    """

    problems: tuple[LayerProblem, ...]

    def __post_init__(self):
        if len({problem.groups for problem in self.problems}) != 1:
            raise InputError("problems are stacked that have the same groups")
        if not all(problem.plain for problem in self.problems):
            raise InputError("a choice is for φ = a‖w‖² without bounds or nested indicators")

    @property
    def groups(self) -> int:
        """J."""
        return self.problems[0].groups

    @property
    def rows(self) -> int:
        """Of all problems together."""
        return sum(len(problem.gram) for problem in self.problems)

    @property
    def constant(self) -> float:
        """Σ c₀: loss of keeping no group."""
        return sum(problem.constant for problem in self.problems)

    def objective(self, support: np.ndarray) -> float:
        """Loss and shrinkage of a (J,) support, every problem refitted, without prices."""
        total = 0.0
        for problem in self.problems:
            weights = problem.refit(support)
            shrinkage = problem.term.shrinkage(problem.by_group(weights)).sum()
            total += problem.loss(weights) + float(shrinkage)
        return total

    def changes(self, support: np.ndarray) -> tuple[float, np.ndarray]:
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

    def joined(self) -> LayerProblem:
        """The one layer problem of the same objective, with the price 1.

        A group's rows are those that it has in every problem, one under another; so are the
        weights, the n-th output of every problem in the n-th column. As H is block-diagonal, W is
        then what the problems' own weights are. All have the least of their ridges; what theirs are
        above it goes to G.
        """
        least = min(float(np.min(problem.term.ridge)) for problem in self.problems)
        block = sum(problem.block for problem in self.problems)
        rows = np.arange(self.groups * block).reshape(self.groups, block)
        gram = np.zeros((rows.size, rows.size))
        cross = np.zeros((rows.size, max(problem.outputs for problem in self.problems)))
        first = 0
        for problem in self.problems:
            own = rows[:, first : first + problem.block].ravel()
            gram[np.ix_(own, own)] = problem.hessian
            cross[own, : problem.outputs] = problem.cross
            first += problem.block
        gram[np.diag_indices_from(gram)] -= 2 * least
        return LayerProblem.unchecked(gram, cross, self.constant, square(least, 1.0), block)
