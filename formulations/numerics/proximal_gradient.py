"""Accelerated proximal gradient descent (Beck & Teboulle 2009) for quadratic losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any  # an array of any library


def accelerated(
    gradient: Callable[[Array], Array],
    prox: Callable[[Array], Array],
    start: Array,
    step: float,
    *,
    tolerance: float = 1e-10,
    iterations: int = 50_000,
    pause: Callable[[], None] = lambda: None,
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
    step : float
        At most one over the gradient's Lipschitz constant.
    tolerance : float
        Stops when a step moves the point by less, relative to its length.
    iterations : int
    pause : callable
        Called before every step; what it raises ends the work.
    """
    point, ahead, momentum = start, start, 1.0
    for _ in range(iterations):
        pause()
        before, point = point, prox(ahead - step * gradient(ahead))
        move = point - before
        if float(((ahead - point) * move).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = point + (momentum - 1) / following * move
        momentum = following
        length = float((point * point).sum()) ** 0.5
        if float((move * move).sum()) ** 0.5 <= tolerance * max(length, 1e-12):
            break
    return point
