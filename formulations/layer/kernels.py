"""Compiled kernels for φ = a‖w‖²: block coordinate descent on a node, refits, local search.

A node fixes some groups (state 0: removed, 1: kept) and leaves others free (2). Each step minimises
over one group with all others held: with the residual R = B − M·W and the Lipschitz constant L_j of
block j (M_jj itself where a group is one row), W_j ← prox_{h_j/L_j}(W_j + R_j/L_j), the closed form
of :mod:`formulations.terms.term`. The bound is Fenchel's, D(V) of :meth:`LayerProblem.dual_bound`,
at the point reached: it is valid whatever the point, and what rounding can have added is taken off.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from formulations.solving.node import FREE, KEPT, REMOVED

_CHECK = 3  # sweeps between two looks at the bound
_PATIENCE = 12  # looks without progress
SWAPS = 8  # groups that a swap may drop, the cheapest first


@njit(cache=True)
def _scale(size, step, ridge, price, bound, is_free):
    """Factors of the proximal step of one group's magnitudes (n,): the result, in place.

    For a free group with a bound the z of ``search._prox_in_box`` is found by bisection.
    """
    shrink = 1.0 / (1.0 + 2.0 * step * ridge)
    if not is_free:
        for i in range(size.size):
            size[i] = min(size[i] * shrink, bound)
        return
    norm = np.sqrt(np.sum(size * size))
    radius = np.sqrt(price / ridge)
    free_slope = 2.0 * np.sqrt(ridge * price)
    if norm <= step * free_slope and bound == np.inf:
        size[:] = 0.0
        return
    slack = norm - step * free_slope
    factor = max(slack, 0.0) / norm if norm > 0 else 0.0
    if slack > radius:
        factor = shrink
    peak = np.max(size)
    y = min(1.0, factor * norm / radius)
    if peak * factor <= bound * y or peak == 0.0:
        size *= factor
        return
    low, high = 0.0, peak / bound
    for _ in range(60):
        z = 0.5 * (low + high)
        paid, over = 0.0, 0.0
        for i in range(size.size):
            ratio = size[i] / z
            if ratio > bound:
                over += size[i] - bound * z
                ratio = bound
            paid += ratio * ratio
        if price - ridge * paid - bound * over / step < 0:
            low = z
        else:
            high = z
    z = 0.5 * (low + high)
    y = min(1.0, max(0.0, z - 2.0 * step * ridge))
    if y >= 1.0:
        for i in range(size.size):
            size[i] = min(size[i] * shrink, bound)
        return
    for i in range(size.size):
        size[i] = y * min(size[i] / z, bound)


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _sweep(gram, residual, weights, ridge, price, bound, state, lipschitz, block):
    """One step for every group that is there, in place."""
    rows, columns = weights.shape
    size = np.empty(block * columns)
    delta = np.empty((block, columns))
    for j in range(len(state)):
        if state[j] == REMOVED:
            continue
        step = 1.0 / lipschitz[j]
        first = j * block
        for i in range(block):
            for o in range(columns):
                size[i * columns + o] = abs(weights[first + i, o] + step * residual[first + i, o])
        _scale(size, step, ridge[j], price[j], bound[j], state[j] == FREE)
        moved = False
        for i in range(block):
            for o in range(columns):
                old = weights[first + i, o]
                new = size[i * columns + o]
                if old + step * residual[first + i, o] < 0:
                    new = -new
                delta[i, o] = new - old
                if new != old:
                    moved = True
                    weights[first + i, o] = new
        if moved:
            for k in range(rows):
                if state[k // block] == REMOVED:
                    continue
                for i in range(block):
                    entry = gram[first + i, k]
                    for o in range(columns):
                        residual[k, o] -= entry * delta[i, o]


@njit(cache=True)
def _values(gram, cross, constant, weights, residual, ridge, price, bound, state, block, score):
    """(relaxed objective, dual bound) at the weights; fills the conjugate less price, (J,).

    ``residual`` is recomputed. ``score[j]`` is φ_B*(v_j) − c_j, from above.
    """
    rows, columns = weights.shape
    residual[:] = cross
    for j in range(len(state)):
        if state[j] != REMOVED:
            part = weights[j * block : (j + 1) * block]
            if np.any(part != 0):
                residual -= np.ascontiguousarray(gram[:, j * block : (j + 1) * block]) @ part
    quadratic = np.sum(weights * (cross - residual))
    linear = np.sum(weights * cross)
    relaxed = 0.5 * quadratic - linear + constant
    # rounding: of v, of the quadratic form and of the sums (Higham 2002, chapter 3)
    unit = 4.0 * (rows + columns) * 2.220446049250313e-16
    length = np.sqrt(np.sum(weights * weights))
    reach = unit * (np.sqrt(np.sum(cross * cross)) + np.sqrt(np.sum(gram * gram)) * length)
    dual = constant - 0.5 * quadratic
    magnitude = abs(constant) + abs(quadratic) + reach * length
    for j in range(len(state)):
        score[j] = 0.0
        if state[j] == REMOVED:
            continue
        a, c, limit = ridge[j], price[j], bound[j]
        squares, peak, conjugate, dual_squares = 0.0, 0.0, 0.0, 0.0
        for k in range(j * block, (j + 1) * block):
            for o in range(columns):
                w, v = abs(weights[k, o]), abs(residual[k, o])
                squares += w * w
                peak = max(peak, w)
                if v <= 2.0 * a * limit:
                    dual_squares += v * v
                else:
                    conjugate += (v + reach) * limit - a * limit * limit
        norm = np.sqrt(dual_squares) + reach
        conjugate += norm * norm / (4.0 * a)
        magnitude += conjugate + c
        score[j] = conjugate - c
        if state[j] == KEPT:
            relaxed += a * squares + c
            dual -= score[j]
            continue
        y = min(1.0, max(np.sqrt(squares * a / c), peak / limit))
        if y > 0.0:
            relaxed += a * squares / y + c * y
        if score[j] > 0.0:
            dual -= score[j]
    return relaxed, dual - unit * magnitude


@njit(cache=True)
def descend(
    gram, cross, constant, ridge, price, bound, lipschitz, block, state, weights, tolerance, cutoff,
    sweeps,
):  # fmt: skip
    """Minimise a node's relaxation from ``weights``, in place.

    Parameters
    ----------
    gram, cross, constant : (D, D), (D, O), float
    ridge, price, bound, lipschitz : (J,) arrays
    block : int
    state : (J,) int8 array
    weights : (D, O) array, zero in removed groups
    tolerance : float
        Relative difference of value and bound at which to stop.
    cutoff : float
        A bound beyond it ends the work.
    sweeps : int
        Most of them.

    Returns
    -------
    (value, bound, score)
        The relaxed objective; a valid lower bound; φ_B*(v_j) − c_j, (J,), of the bound's point.
    """
    residual = np.empty_like(weights)
    score, best_score = np.zeros(len(state)), np.zeros(len(state))
    value, best = _values(
        gram, cross, constant, weights, residual, ridge, price, bound, state, block, best_score
    )
    idle = 0
    for _ in range(sweeps // _CHECK):
        if best >= cutoff or value - best <= tolerance * abs(value) or idle > _PATIENCE:
            break
        for _ in range(_CHECK):
            _sweep(gram, residual, weights, ridge, price, bound, state, lipschitz, block)
        before = value - best
        value, dual = _values(
            gram, cross, constant, weights, residual, ridge, price, bound, state, block, score
        )
        if dual > best:
            best = dual
            best_score[:] = score
        idle = idle + 1 if value - best > 0.999 * before else 0
    return value, best, best_score


@njit(cache=True)
def refit(hessian, cross, constant, price, support, block):
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
def _energy(matrix, vectors):
    """½⟨v, matrix⁻¹ v⟩, summed over the columns of (b, O)."""
    if len(matrix) == 1:
        return 0.5 * np.sum(vectors * vectors) / matrix[0, 0]
    return 0.5 * np.sum(vectors * np.linalg.solve(matrix, vectors))


@njit(cache=True)
def _gains(hessian, cross, price, support, weights, inverse, block, change):
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
                for l in range(block):
                    schur[k, l] -= coupling[i, first + k] * pushed[i, first + l]
        own = np.ascontiguousarray(residual[first : first + block])
        change[j] = price[j] - _energy(schur, own)


@njit(cache=True)
def changes(hessian, cross, constant, price, chosen, block):
    """The objective of a support (k,), and what adding or removing each group changes, (J,)."""
    value, weights, inverse = refit(hessian, cross, constant, price, chosen, block)
    change = np.empty(len(price))
    _gains(hessian, cross, price, chosen, weights, inverse, block, change)
    return value, change


@njit(cache=True)
def improve(hessian, cross, constant, price, fixed, support, most, block):
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
