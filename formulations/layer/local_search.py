"""Refits and local search on supports, φ = a‖w‖².

The objective of a support S is a Schur complement of the Hessian H = G + 2a; what adding or
removing a group changes follows from one inverse (Hassibi & Stork 1993 for the removal).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import lapack

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.numerics.block_diagonal import diagonal_blocks

SWAPS = 8  # groups that a swap may drop, the cheapest first
_ROUNDING = 1e-12  # relative


def refit(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    support: IntArray,
    block: int,
) -> tuple[float, FloatArray, FloatArray]:
    """(objective, weights (k·b, O), inverse (k·b, k·b)) of the best weights on a support (k,)."""
    rows = _rows(support, block)
    right = cross[rows]
    inverse = _inverse(hessian[rows[:, None], rows])
    weights = inverse @ right
    paid = constant + float(price[support].sum())
    return paid - 0.5 * float(np.vdot(weights, right)), weights, inverse


def changes(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    chosen: IntArray,
    block: int,
) -> tuple[float, FloatArray]:
    """The objective of a support (k,), and what adding or removing each group changes, (J,).

    Exactly: removal of j costs ½⟨W_j, ((H_SS⁻¹)_jj)⁻¹ W_j⟩ − c_j; addition gains
    ½⟨R_j, Z_j⁻¹ R_j⟩ − c_j, R_j the residual and Z_j the Schur complement of block j.
    """
    value, weights, inverse = refit(hessian, cross, constant, price, chosen, block)
    outside = np.ones(len(price), bool)
    outside[chosen] = False
    others = np.flatnonzero(outside)
    rows, columns = _rows(chosen, block), _rows(others, block)
    coupling = hessian[rows[:, None], columns]
    residual = cross[columns] - coupling.T @ weights
    fixed = _products(coupling, inverse @ coupling, block)
    schur = diagonal_blocks(hessian, block)[others] - fixed
    change = np.empty(len(price))
    change[chosen] = _energy(diagonal_blocks(inverse, block), weights) - price[chosen]
    change[others] = price[others] - _energy(schur, residual)
    return value, change


def improve(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    support: BoolArray,
    most: int,
    block: int,
) -> tuple[float, bool]:
    """One step of a local search: the best single flip, else the best swap.

    Parameters
    ----------
    hessian, cross, constant, price : (D, D), (D, O), float, (J,)
        φ is in the Hessian.
    support : (J,) bool array
        Where to start, of at most ``most`` groups; overwritten with the better one.
    most : int
        Largest number of groups.
    block : int

    Returns
    -------
    (float, bool)
        The objective, and whether it fell.
    """
    chosen = np.flatnonzero(support)
    data = (hessian, cross, constant, price)
    value, change = changes(*data, chosen, block)
    least = -_ROUNDING * abs(value)
    move = _flip(change, support, most, least)
    if not move:
        move = _swap(lambda rest: changes(*data, rest, block), chosen, value, change, least)
    trial = support.copy()
    trial[move] ^= True
    # a promise counts only if the refit keeps it: rounding must not make the search go in circles
    found = refit(*data, np.flatnonzero(trial), block)[0] if move else value
    if found < value - _ROUNDING * (abs(value) + constant):
        support[:] = trial
        return found, True
    return value, False


def _flip(change: FloatArray, support: BoolArray, most: int, least: float) -> list[int]:
    """The group whose flip changes the objective by least, and by less than ``least``."""
    allowed = change if support.sum() < most else np.where(support, change, np.inf)
    group = int(allowed.argmin())
    return [group] if allowed[group] < least else []


def _swap(
    without: Callable[[IntArray], tuple[float, FloatArray]],
    chosen: IntArray,
    value: float,
    change: FloatArray,
    least: float,
) -> list[int]:
    """The groups (dropped, added) that change the objective by least, and by less than ``least``.

    Parameters
    ----------
    without : callable
        :func:`changes` of the groups that are left.
    chosen : (k,) array
        The groups of the support.
    value, change : float, (J,) array
        :func:`changes` of the support. Of its groups those that cost least to drop are tried.
    least : float
    """
    swap: list[int] = []
    for dropped in chosen[np.argsort(change[chosen], kind="stable")][:SWAPS]:
        after, added = without(chosen[chosen != dropped])
        added[chosen] = np.inf
        group = int(added.argmin())
        if after - value + added[group] < least:
            least, swap = after - value + added[group], [int(dropped), group]
    return swap


def _rows(groups: IntArray, block: int) -> IntArray:
    """The rows of groups (k,), (k·b,)."""
    return (groups[:, None] * block + np.arange(block)).ravel()


def _inverse(matrix: FloatArray) -> FloatArray:
    """Of a symmetric matrix, which is overwritten: twice as fast as ``np.linalg.inv``."""
    size = len(matrix)
    if size == 0:
        return matrix
    # LAPACK reads by columns: a symmetric matrix transposed need not be copied
    factors, pivots, singular = lapack.dgetrf(matrix.T, overwrite_a=True)
    if singular:
        raise np.linalg.LinAlgError("the Hessian of the support is singular")
    inverse, _ = lapack.dgetri(factors, pivots, lwork=64 * size, overwrite_lu=True)
    return np.asarray(inverse.T)


def _products(left: FloatArray, right: FloatArray, block: int) -> FloatArray:
    """left_jᵀ right_j of every block of b columns of two (n, m·b) matrices, (m, b, b)."""
    shape = (left.shape[1] // block, block, len(left))
    left = np.ascontiguousarray(left.T).reshape(shape)
    right = np.ascontiguousarray(right.T).reshape(shape)
    return left @ right.transpose(0, 2, 1)


def _energy(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    """½⟨v_j, matrix_j⁻¹ v_j⟩, summed over the columns, (m,), of (m, b, b) and (m·b, O) arrays."""
    blocks, block = matrices.shape[:2]
    if block == 1:
        return 0.5 * (vectors * vectors).sum(axis=1) / matrices[:, 0, 0]
    parts = vectors.reshape(blocks, block, vectors.shape[1])
    return 0.5 * (parts * np.linalg.solve(matrices, parts)).sum(axis=(1, 2))
