"""The Δ of the best root bound, by a conic solver: for layers of up to some 60 rows.

The root bound f(Δ) of :mod:`formulations.layer.extraction.ascent` is maximised over 0 ⪯ Δ,
H − Δ ⪰ 0, by a semidefinite program (Zheng, Sun & Li 2014; Dong, Chen & Linderoth 2015). Its dual
is solved: over W, y and 𝒲 ⪰ W Wᵀ,

    min ½⟨H, 𝒲⟩ − ⟨B, W⟩ + c·y,   [𝒲 W; Wᵀ I] ⪰ 0,   [𝒲_jj W_j; W_jᵀ y_j I] ⪰ 0,   0 ≤ y ≤ 1,

and Δ_j is twice the multiplier of the upper left block of the j-th cone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from formulations.arrays import FloatArray, IntArray
from formulations.errors import InputError
from formulations.layer.extraction.schur import schur
from formulations.layer.problem import LayerProblem
from formulations.numerics.block_diagonal import less_blocks
from formulations.solving.deadline import Deadline

_LARGEST_CONE = 64  # rows of the semidefinite program


def conic(problem: LayerProblem, deadline: Deadline) -> FloatArray:
    """The Δ of the best root bound, (J, b, b), by Clarabel; of Schur complements without the time.

    Raises
    ------
    InputError
        If the problem has more than 64 rows, Clarabel is not installed, or it finds no finite
        multipliers.
    """
    try:
        import clarabel  # noqa: PLC0415, an extra
    except ImportError:
        raise InputError("extraction 'sdp' needs the package clarabel: pip install clarabel") from (
            None
        )
    rows, groups, block = len(problem.cross), problem.groups, problem.block
    if rows > _LARGEST_CONE:
        raise InputError(
            f"extraction 'sdp' takes up to {_LARGEST_CONE} rows, not {rows}: use 'ascent'"
        )
    # W enters through W Wᵀ, B and the prices alone: a rotation of the outputs keeps them
    left, singular, _ = np.linalg.svd(problem.cross, full_matrices=False)
    rank = max(1, int((singular > 1e-12 * singular[0]).sum()))
    cross = left[:, :rank] * singular[:rank]
    unknowns = _Unknowns(rows, rank, groups)
    cost = np.zeros(unknowns.count)
    np.add.at(cost, unknowns.lift.ravel(), 0.5 * problem.hessian.ravel())
    cost[unknowns.weight] = -cross
    cost[unknowns.indicator] = problem.term.price

    program = _Program(unknowns)
    program.add_cone(np.arange(rows), None)
    starts = [
        program.add_cone(np.arange(j * block, (j + 1) * block), int(unknowns.indicator[j]))
        for j in range(groups)
    ]
    program.add_upper_bounds()
    cones = [clarabel.PSDTriangleConeT(side) for side in program.sides]
    cones.append(clarabel.NonnegativeConeT(groups))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.time_limit = max(deadline.left, 1e-3)
    zero = sparse.csc_matrix((unknowns.count, unknowns.count))
    solver = clarabel.DefaultSolver(
        zero, cost, program.matrix(), np.array(program.right), cones, settings
    )
    solution = solver.solve()
    if deadline.over:
        return schur(problem)
    dual = np.array(solution.z)
    if not np.isfinite(dual).all():
        raise InputError(f"Clarabel ended with {solution.status}: take another extraction")
    return _inside(problem.hessian, _blocks_of(dual, starts, block))


class _Unknowns:
    """Columns of the program: the upper triangle of 𝒲, then W, then y."""

    def __init__(self, rows: int, rank: int, groups: int) -> None:
        self.rank = rank
        self.lift = np.zeros((rows, rows), int)
        upper = np.triu_indices(rows)
        self.lift[upper] = self.lift.T[upper] = np.arange(len(upper[0]))
        self.weight = len(upper[0]) + np.arange(rows * rank).reshape(rows, rank)
        self.indicator = self.weight[-1, -1] + 1 + np.arange(groups)
        self.count = int(self.indicator[-1]) + 1


@dataclass
class _Program:
    """Rows of the program, s = right − matrix·x in a product of cones."""

    unknowns: _Unknowns
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)

    def add_cone(self, members: IntArray, corner: int | None) -> int:
        """[𝒲_mm W_m; W_mᵀ corner·I] ⪰ 0, corner 1 or an indicator's column; its first row."""
        first, side = len(self.right), len(members) + self.unknowns.rank
        for j in range(side):  # Clarabel's order: the upper triangle by columns
            for i in range(j + 1):
                self._add_entry(members, i, j, corner)
        self.sides.append(side)
        return first

    def _add_entry(self, members: IntArray, i: int, j: int, corner: int | None) -> None:
        count, row = len(members), len(self.right)
        scale = 1.0 if i == j else 2**0.5
        self.right.append(0.0)
        if j < count:
            self.entries.append((row, self.unknowns.lift[members[i], members[j]], -scale))
        elif i < count:
            self.entries.append((row, self.unknowns.weight[members[i], j - count], -scale))
        elif i == j and corner is None:
            self.right[-1] = 1.0
        elif i == j and corner is not None:
            self.entries.append((row, corner, -1.0))

    def add_upper_bounds(self) -> None:
        """Y ≤ 1."""
        for column in self.unknowns.indicator:
            self.entries.append((len(self.right), int(column), 1.0))
            self.right.append(1.0)

    def matrix(self) -> Any:
        """In compressed columns."""
        row, column, value = zip(*self.entries, strict=True)
        shape = (len(self.right), self.unknowns.count)
        return sparse.csc_matrix((value, (row, column)), shape=shape)


def _blocks_of(dual: FloatArray, starts: list[int], block: int) -> FloatArray:
    """Δ, (J, b, b), from the multipliers of cones that begin at these rows."""
    delta = np.zeros((len(starts), block, block))
    inner = [(i, j) for j in range(block) for i in range(j + 1)]
    for group, start in enumerate(starts):
        for k, (i, j) in enumerate(inner):
            delta[group, i, j] = delta[group, j, i] = (
                2 * dual[start + k] * (1.0 if i == j else 0.5**0.5)
            )
    return delta


def _inside(hessian: FloatArray, delta: FloatArray) -> FloatArray:
    """A Δ next to this one that is positive definite with H − Δ ⪰ 0."""
    block = delta.shape[1]
    scale = np.trace(hessian) / len(hessian)
    lowest = np.linalg.eigvalsh(hessian)[0]
    values, vectors = np.linalg.eigh(delta)
    values = np.maximum(values, 1e-3 * lowest)
    delta = (vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1)
    for shrink in 1 - np.geomspace(1e-7, 0.5, 40):
        slack = less_blocks(hessian, shrink * delta)
        try:
            np.linalg.cholesky(slack - 1e-12 * scale * np.eye(len(slack)))
        except np.linalg.LinAlgError:
            continue
        return shrink * delta
    return np.tile(0.5 * lowest * np.eye(block), (len(delta), 1, 1))
