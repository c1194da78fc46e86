"""Accelerated proximal gradient descent (Beck & Teboulle 2009) for quadratic losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from formulations.arrays import FloatArray

Array = Any  # an array of any library

_LOOK = 20  # steps between two questions whether a point is good enough


def accelerated(
    gradient: Callable[[Array], Array],
    prox: Callable[[Array], Array],
    start: Array,
    step: Array | float,
    *,
    tolerance: float = 1e-10,
    iterations: int = 50_000,
    pause: Callable[[], None] = lambda: None,
    enough: Callable[[Array], bool] = lambda point: False,
) -> Array:
    """Minimise a smooth convex function plus one with a proximal step.

    With restarts where the momentum points uphill (O'Donoghue & Candès 2015).

    Parameters
    ----------
    gradient : callable
        Of the smooth function.
    prox : callable
        Proximal step of length ``step`` of the other function.
    start : array
    step : float or array
        At most one over the gradient's Lipschitz constant; or one for each entry, in whose metric
        the gradient has the constant 1 (:func:`scaled_steps`).
    tolerance : float
        Stops when a step moves the point by less, relative to its length, in that metric.
    iterations : int
    pause : callable
        Called before every step; what it raises ends the work.
    enough : callable
        Asked of the point now and then; where it says so, the work ends.
    """
    point, ahead, momentum = start, start, 1.0
    for number in range(1, iterations + 1):
        pause()
        before, point = point, prox(ahead - step * gradient(ahead))
        move = point - before
        if float(((ahead - point) * move / step).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = point + (momentum - 1) / following * move
        momentum = following
        length = float((point * point / step).sum()) ** 0.5
        if float((move * move / step).sum()) ** 0.5 <= tolerance * length:
            break
        if number % _LOOK == 0 and enough(point):
            break
    return point


def scaled_steps(matrix: FloatArray, block: int) -> FloatArray:
    """Steps for a quadratic of this Hessian, one for each block of rows: columns of one scale.

    With s_j² = 1/max of block j's diagonal and S = diag(s), S·H·S ⪯ λ gives H ⪯ λ·S⁻².

    Parameters
    ----------
    matrix : (J·b, J·b) array
        H, positive semidefinite.
    block : int
        b.

    Returns
    -------
    (J,) array
        s_j²/λ.
    """
    largest = np.diag(matrix).reshape(-1, block).max(axis=1)
    if not largest.any():  # nothing to descend
        return np.ones(len(largest))
    square = 1 / np.where(largest > 0, largest, largest.max())
    scale = np.sqrt(np.repeat(square, block))
    turned = scale[:, None] * matrix * scale
    return np.asarray(square / float(np.linalg.eigvalsh(turned)[-1]))
