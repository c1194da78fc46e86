"""Compiled refits and local search on supports, φ = a‖w‖².

The objective of a support S is a Schur complement of the Hessian H = G + 2a; what adding or
removing a group changes follows from one inverse (Hassibi & Stork 1993 for the removal).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.solving.node import FREE

SWAPS = 8  # groups that a swap may drop, the cheapest first


@njit(cache=True)
def refit(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    support: IntArray,
    block: int,
) -> tuple[float, FloatArray, FloatArray]:
    """(objective, weights (k·b, O), inverse (k·b, k·b)) of the best weights on a support (k,)."""
    rows = np.empty(len(support) * block, np.int64)
    paid = constant
    for i in range(len(support)):
        paid += price[support[i]]
        for k in range(block):
            rows[i * block + k] = support[i] * block + k
    part = np.empty((len(rows), len(rows)))
    right = np.empty((len(rows), cross.shape[1]))
    for i in range(len(rows)):
        for k in range(len(rows)):
            part[i, k] = hessian[rows[i], rows[k]]
        right[i] = cross[rows[i]]
    inverse = np.ascontiguousarray(np.linalg.inv(part)) if len(rows) else part
    weights = inverse @ right
    return paid - 0.5 * np.sum(weights * right), weights, inverse


@njit(cache=True)
def _energy(
    matrix: FloatArray,
    vectors: FloatArray,
) -> float:
    """½⟨v, matrix⁻¹ v⟩, summed over the columns of (b, O)."""
    if len(matrix) == 1:
        return 0.5 * np.sum(vectors * vectors) / matrix[0, 0]
    return 0.5 * np.sum(vectors * np.linalg.solve(matrix, vectors))


@njit(cache=True)
def _gains(
    hessian: FloatArray,
    cross: FloatArray,
    price: FloatArray,
    support: IntArray,
    weights: FloatArray,
    inverse: FloatArray,
    block: int,
    change: FloatArray,
) -> None:
    """What adding or removing each group changes, exactly, (J,), in place.

    Removal of j costs ½⟨W_j, ((H_SS⁻¹)_jj)⁻¹ W_j⟩ − c_j; addition gains ½⟨r_j, Z_j⁻¹ r_j⟩ − c_j,
    r_j the residual and Z_j the Schur complement of block j.
    """
    count = len(support)
    inside = np.zeros(len(change), np.bool_)
    rows = np.empty(count * block, np.int64)
    for i in range(count):
        inside[support[i]] = True
        for k in range(block):
            rows[i * block + k] = support[i] * block + k
    for i in range(count):
        first = i * block
        own = np.ascontiguousarray(weights[first : first + block])
        part = np.ascontiguousarray(inverse[first : first + block, first : first + block])
        change[support[i]] = _energy(part, own) - price[support[i]]
    coupling = hessian[rows]
    pushed = inverse @ coupling
    residual = cross - np.ascontiguousarray(coupling.T) @ weights
    for j in range(len(change)):
        if inside[j]:
            continue
        first = j * block
        schur = hessian[first : first + block, first : first + block].copy()
        for i in range(len(rows)):
            for k in range(block):
                for m in range(block):
                    schur[k, m] -= coupling[i, first + k] * pushed[i, first + m]
        own = np.ascontiguousarray(residual[first : first + block])
        change[j] = price[j] - _energy(schur, own)


@njit(cache=True)
def changes(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    chosen: IntArray,
    block: int,
) -> tuple[float, FloatArray]:
    """The objective of a support (k,), and what adding or removing each group changes, (J,)."""
    value, weights, inverse = refit(hessian, cross, constant, price, chosen, block)
    change = np.empty(len(price))
    _gains(hessian, cross, price, chosen, weights, inverse, block, change)
    return value, change


@njit(cache=True)
def improve(
    hessian: FloatArray,
    cross: FloatArray,
    constant: float,
    price: FloatArray,
    fixed: NDArray[np.int8],
    support: BoolArray,
    most: int,
    block: int,
) -> tuple[float, bool]:
    """One step of a local search: the best single flip, else the best swap.

    Parameters
    ----------
    hessian, cross, constant, price : (D, D), (D, O), float, (J,)
        φ is in the Hessian.
    fixed : (J,) int8 array
        States that the search respects; all 2 for a free one.
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
    groups = len(support)
    chosen = np.flatnonzero(support)
    value, change = changes(hessian, cross, constant, price, chosen, block)
    best, first, second = -1e-12 * abs(value), -1, -1
    for j in range(groups):
        if fixed[j] != FREE or (not support[j] and len(chosen) >= most):
            continue
        if change[j] < best:
            best, first = change[j], j
    if first < 0:
        # swaps: drop one of the groups that cost least to drop, then add the best
        order = np.argsort(change)
        tried = 0
        for j in order:
            if not support[j] or fixed[j] != FREE:
                continue
            tried += 1
            if tried > SWAPS:
                break
            rest = chosen[chosen != j]
            after, swapped = changes(hessian, cross, constant, price, rest, block)
            for k in range(groups):
                if support[k] or fixed[k] != FREE:
                    continue
                if after - value + swapped[k] < best:
                    best, first, second = after - value + swapped[k], j, k
    if first < 0:
        return value, False
    support[first] = not support[first]
    if second >= 0:
        support[second] = True
    # a promise counts only if the refit keeps it: rounding must not make the search go in circles
    found = refit(hessian, cross, constant, price, np.flatnonzero(support), block)[0]
    if found < value - 1e-12 * (abs(value) + constant):
        return found, True
    support[first] = not support[first]
    if second >= 0:
        support[second] = False
    return value, False
