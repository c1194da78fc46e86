"""Compiled block coordinate descent on a node, φ = a‖w‖².

A node fixes some groups (state 0: removed, 1: kept) and leaves others free (2). Each step minimises
over one group with all others held: with the residual R = B − M·W and the Lipschitz constant L_j of
block j (M_jj itself where a group is one row), W_j ← prox_{h_j/L_j}(W_j + R_j/L_j), the closed form
of :mod:`formulations.terms.term`. The bound is Fenchel's, D(V) of :meth:`LayerProblem.dual_bound`,
at the point reached: it is valid whatever the point, and what rounding can have added is taken off
(:mod:`formulations.solving.safe_bound`, of which these loops do the same, group by group).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from formulations.arrays import FloatArray
from formulations.solving.node import FREE, KEPT, REMOVED

_CHECK = 3  # sweeps between two looks at the bound
_PATIENCE = 12  # looks without progress


@njit(cache=True)
def _scale(
    size: FloatArray,
    step: float,
    ridge: float,
    price: float,
    bound: float,
    is_free: bool,
) -> None:
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
def _sweep(
    gram: FloatArray,
    residual: FloatArray,
    weights: FloatArray,
    ridge: FloatArray,
    price: FloatArray,
    bound: FloatArray,
    state: NDArray[np.int8],
    lipschitz: FloatArray,
    block: int,
) -> None:
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
def _values(
    gram: FloatArray,
    cross: FloatArray,
    constant: float,
    weights: FloatArray,
    residual: FloatArray,
    ridge: FloatArray,
    price: FloatArray,
    bound: FloatArray,
    state: NDArray[np.int8],
    block: int,
    rounding: float,
    score: FloatArray,
) -> tuple[float, float]:
    """(relaxed objective, dual bound) at the weights; fills the conjugate less price, (J,).

    ``residual`` is recomputed. ``score[j]`` is φ_B*(v_j) − c_j, from above.
    """
    columns = weights.shape[1]
    residual[:] = cross
    for j in range(len(state)):
        if state[j] != REMOVED:
            part = weights[j * block : (j + 1) * block]
            if np.any(part != 0):
                residual -= np.ascontiguousarray(gram[:, j * block : (j + 1) * block]) @ part
    quadratic = np.sum(weights * (cross - residual))
    linear = np.sum(weights * cross)
    relaxed = 0.5 * quadratic - linear + constant
    # as safe_bound.dual_point: of v, of the quadratic form and of the sums
    length = np.sqrt(np.sum(weights * weights))
    image = np.sqrt(np.sum((cross - residual) ** 2))
    reach = rounding * (np.sqrt(np.sum(cross * cross)) + np.sqrt(np.sum(gram * gram)) * length)
    dual = constant - 0.5 * quadratic - 0.5 * reach * length
    magnitude = abs(constant) + length * image
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
    return relaxed, dual - rounding * magnitude


@njit(cache=True)
def descend(
    gram: FloatArray,
    cross: FloatArray,
    constant: float,
    ridge: FloatArray,
    price: FloatArray,
    bound: FloatArray,
    lipschitz: FloatArray,
    block: int,
    state: NDArray[np.int8],
    weights: FloatArray,
    tolerance: float,
    cutoff: float,
    sweeps: int,
    rounding: float,
) -> tuple[float, float, FloatArray]:
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
    rounding : float
        ``safe_bound.unit`` of all entries of the weights.

    Returns
    -------
    (value, bound, score)
        The relaxed objective; a valid lower bound; φ_B*(v_j) − c_j, (J,), of the bound's point.
    """
    residual = np.empty_like(weights)
    score, best_score = np.zeros(len(state)), np.zeros(len(state))
    value, best = _values(
        gram,
        cross,
        constant,
        weights,
        residual,
        ridge,
        price,
        bound,
        state,
        block,
        rounding,
        best_score,
    )
    idle = 0
    for _ in range(sweeps // _CHECK):
        if best >= cutoff or value - best <= tolerance * abs(value) or idle > _PATIENCE:
            break
        for _ in range(_CHECK):
            _sweep(gram, residual, weights, ridge, price, bound, state, lipschitz, block)
        before = value - best
        value, dual = _values(
            gram,
            cross,
            constant,
            weights,
            residual,
            ridge,
            price,
            bound,
            state,
            block,
            rounding,
            score,
        )
        if dual > best:
            best = dual
            best_score[:] = score
        idle = idle + 1 if value - best > 0.999 * before else 0
    return value, best, best_score
