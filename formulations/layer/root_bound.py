"""The Δ of the best root bound: maximise the perspective relaxation over what is extracted.

With H the whole quadratic (see :mod:`formulations.layer.extraction`) the bound of the root,

    f(Δ) = min_{W, y ∈ [0,1]}  ½⟨W, (H − Δ) W⟩ − ⟨B, W⟩ + c₀ + Σ_j ½⟨W_j, Δ_j W_j⟩/y_j + c_j y_j,

is concave in Δ, with the gradient ½(1/y_j − 1)·W_j W_jᵀ in Δ_j at the minimiser. Its maximum over
0 ⪯ Δ, H − Δ ⪰ 0 is a semidefinite program (Zheng, Sun & Li 2014; Dong, Chen & Linderoth 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from formulations.errors import InputError
from formulations.numerics.block_diagonal import apply, congruent, diagonal_blocks, less_blocks
from formulations.numerics.indicator_newton import PerspectiveLayer, PerspectiveRelaxation

if TYPE_CHECKING:
    from formulations.layer.problem import LayerProblem

_LARGEST_CONE = 64  # rows of the semidefinite program
# weights of the barrier log det(H − Δ), in prices; each start is where the one before ended
_BARRIERS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_STEPS, _MEMORY = 40, 15


def ascend(problem: LayerProblem, delta: np.ndarray) -> np.ndarray:
    """Increase the root bound over Δ: L-BFGS on f + μ·log det(H − Δ), μ decreasing.

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖² and no bound.
    delta : (J, b, b) array
        Where to start, positive definite with H − Δ ⪰ 0.

    Returns
    -------
    (J, b, b) array
        The Δ with the best bound met.
    """
    ascent = _Ascent(problem, delta)
    for barrier in _BARRIERS:
        ascent.run(barrier * float(np.mean(problem.term.price)))
    return ascent.best


class _Ascent:
    """Δ_j = L_j X_j² L_jᵀ with symmetric X, from X = I: L is renewed for every barrier."""

    def __init__(self, problem: LayerProblem, delta: np.ndarray):
        self.problem, self.best = problem, delta
        self.delta = 0.99 * delta  # inside the cone
        self.groups, self.block = delta.shape[:2]
        self.price = problem.price[None]
        self.indicator = np.full((1, self.groups), 0.5)
        self.bound, _ = self._relax(problem.hessian, problem.cross, delta)

    def run(self, barrier: float) -> None:
        self.barrier = barrier
        self.factor = np.linalg.cholesky(self.delta)
        basis = np.linalg.inv(self.factor).transpose(0, 2, 1)
        self.hessian = congruent(self.problem.hessian, basis)
        self.cross = apply(basis.transpose(0, 2, 1), self.problem.cross)
        start = np.tile(np.eye(self.block), (self.groups, 1, 1)).ravel()
        end = _lbfgs(self._negative, start)
        self.delta = self._delta(self._blocks(end))

    def _blocks(self, flat: np.ndarray) -> np.ndarray:
        x = flat.reshape(self.groups, self.block, self.block)
        return (x + x.transpose(0, 2, 1)) / 2

    def _delta(self, x: np.ndarray) -> np.ndarray:
        # a trace of the identity keeps Δ invertible
        inner = (1 - 1e-6) * (x @ x + 1e-7 * np.eye(self.block))
        return self.factor @ inner @ self.factor.transpose(0, 2, 1)

    def _negative(self, flat: np.ndarray) -> tuple[float, np.ndarray | None]:
        """−(f + barrier) and its gradient; infinite outside of the cone."""
        x = self._blocks(flat)
        inner = x @ x
        slack = less_blocks(self.hessian, inner)
        try:
            volume = 2 * float(np.log(np.diag(np.linalg.cholesky(slack))).sum())
        except np.linalg.LinAlgError:
            return np.inf, None
        inverted = np.linalg.inv(slack)
        value, weights = self._relax(self.hessian, self.cross, inner + 1e-9 * np.eye(self.block))
        y = self.indicator[0]
        parts = weights.reshape(self.groups, self.block, -1)
        gradient = (0.5 * (1 / y - 1))[:, None, None] * (parts @ parts.transpose(0, 2, 1))
        if value > self.bound:
            self.bound, self.best = value, self._delta(x)
        gradient = gradient - self.barrier * diagonal_blocks(inverted, self.block)
        return -(value + self.barrier * volume), -(gradient @ x + x @ gradient).ravel()

    def _relax(self, hessian, cross, delta) -> tuple[float, np.ndarray]:
        """Value of the root, less c₀, and its weights."""
        shape = (1, self.groups)
        relaxation = PerspectiveRelaxation(
            [PerspectiveLayer(hessian[None], cross[None], delta[None])],
            *(self.price, np.zeros(shape), np.ones(shape)),
        )
        self.indicator, (weights,) = relaxation.solve(self.indicator, 1e-7)
        value = self.price[0] @ self.indicator[0] - 0.5 * float(np.vdot(cross, weights[0]))
        return float(value), weights[0]


def _lbfgs(function, point: np.ndarray) -> np.ndarray:
    """Limited-memory BFGS with backtracking, which stays where the function is finite."""
    value, gradient = function(point)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(_STEPS):
        direction = -_apply_inverse_hessian(pairs, gradient)
        slope = float(gradient @ direction)
        if slope >= 0:
            direction, pairs = -gradient, []
            slope = float(gradient @ direction)
        length = 1.0
        while True:
            ahead, new = function(point + length * direction)
            if ahead <= value + 1e-4 * length * slope:
                break
            length *= 0.5
            if length < 1e-6:
                return point
        step, change = length * direction, new - gradient
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            pairs = [*pairs[1 - _MEMORY :], (step, change)]
        small = value - ahead < 1e-5 * abs(ahead)
        point, value, gradient = point + step, ahead, new
        if small:
            break
    return point


def _apply_inverse_hessian(pairs, gradient: np.ndarray) -> np.ndarray:
    """The two-loop recursion (Nocedal & Wright 2006, algorithm 7.4)."""
    result, factors = gradient.copy(), []
    for step, change in reversed(pairs):
        factors.append(step @ result / (step @ change))
        result -= factors[-1] * change
    if pairs:
        step, change = pairs[-1]
        result *= (step @ change) / (change @ change)
    else:
        result *= 0.1 / np.abs(result).max()
    for (step, change), factor in zip(pairs, reversed(factors), strict=True):
        result += step * (factor - change @ result / (step @ change))
    return result


def conic(problem: LayerProblem) -> np.ndarray:
    """The Δ of the best root bound, (J, b, b), by Clarabel.

    Its dual is solved: over W, y and 𝒲 ⪰ W Wᵀ,

        min ½⟨H, 𝒲⟩ − ⟨B, W⟩ + c·y,   [𝒲 W; Wᵀ I] ⪰ 0,   [𝒲_jj W_j; W_jᵀ y_j I] ⪰ 0,   0 ≤ y ≤ 1,

    and Δ_j is twice the multiplier of the upper left block of the j-th cone.

    Raises
    ------
    InputError
        If the problem has more than 64 rows, or Clarabel is not installed.
    """
    try:
        import clarabel
    except ImportError:
        raise InputError("extraction 'sdp' needs the package clarabel: pip install clarabel") from (
            None
        )
    from scipy import sparse

    rows = len(problem.cross)
    if rows > _LARGEST_CONE:
        raise InputError(
            f"extraction 'sdp' takes up to {_LARGEST_CONE} rows, not {rows}: use 'ascent'"
        )
    # W enters through W Wᵀ, B and the prices alone: a rotation of the outputs keeps them
    left, singular, _ = np.linalg.svd(problem.cross, full_matrices=False)
    rank = max(1, int((singular > 1e-12 * singular[0]).sum()))
    cross = left[:, :rank] * singular[:rank]
    groups, block = problem.groups, problem.block

    lift = np.zeros((rows, rows), int)
    upper = np.triu_indices(rows)
    lift[upper] = lift.T[upper] = np.arange(len(upper[0]))
    weight = len(upper[0]) + np.arange(rows * rank).reshape(rows, rank)
    indicator = weight[-1, -1] + 1 + np.arange(groups)
    unknowns = int(indicator[-1]) + 1

    cost = np.zeros(unknowns)
    np.add.at(cost, lift.ravel(), 0.5 * problem.hessian.ravel())
    cost[weight] = -cross
    cost[indicator] = problem.term.price

    entries: list[tuple[int, int, float]] = []
    right: list[float] = []
    cones = []

    def add_cone(members: np.ndarray, corner) -> None:
        """[𝒲_mm W_m; W_mᵀ corner·I] ⪰ 0; ``corner`` is 1 or an indicator's column."""
        side = len(members) + rank
        for j in range(side):  # Clarabel's order: the upper triangle by columns
            for i in range(j + 1):
                scale = 1.0 if i == j else 2**0.5
                row = len(right)
                right.append(0.0)
                if j < len(members):
                    entries.append((row, lift[members[i], members[j]], -scale))
                elif i < len(members):
                    entries.append((row, weight[members[i], j - len(members)], -scale))
                elif i == j and corner is None:
                    right[-1] = 1.0
                elif i == j:
                    entries.append((row, corner, -1.0))
        cones.append(clarabel.PSDTriangleConeT(side))

    add_cone(np.arange(rows), None)
    starts = []
    for j in range(groups):
        starts.append(len(right))
        add_cone(np.arange(j * block, (j + 1) * block), int(indicator[j]))
    for j in range(groups):
        entries.append((len(right), int(indicator[j]), 1.0))
        right.append(1.0)
    cones.append(clarabel.NonnegativeConeT(groups))

    row, column, value = zip(*entries, strict=True)
    matrix = sparse.csc_matrix((value, (row, column)), shape=(len(right), unknowns))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    zero = sparse.csc_matrix((unknowns, unknowns))
    solver = clarabel.DefaultSolver(zero, cost, matrix, np.array(right), cones, settings)
    solution = solver.solve()
    dual = np.array(solution.z)
    if not np.isfinite(dual).all():
        raise RuntimeError(f"Clarabel ended with {solution.status}: take another extraction")

    delta = np.zeros((groups, block, block))
    inner = [(i, j) for j in range(block) for i in range(j + 1)]
    for group, start in enumerate(starts):
        for k, (i, j) in enumerate(inner):
            delta[group, i, j] = delta[group, j, i] = (
                2 * dual[start + k] * (1.0 if i == j else 0.5**0.5)
            )
    return _inside(problem.hessian, delta)


def _inside(hessian: np.ndarray, delta: np.ndarray) -> np.ndarray:
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
