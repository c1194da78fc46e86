"""Roots of increasing functions of one variable, many at once, on arrays of any library.

The closed forms of a term end where an equation has no symbolic solution. Both searches keep a
bracket, so they cannot run away, and stop at the precision of the array's type.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from formulations.arrays import AnyArray, ArrayT

_STEPS = 200  # never reached by either search
# From then on a bracket whose ends differ in scale is halved in their logarithms: from 0 to 1e150
# halves would take a thousand steps, and Newton's, too, where the function is a power.
_LINEAR_STEPS = 60


def newton(
    function: Callable[[ArrayT], tuple[ArrayT, ArrayT]], low: ArrayT, high: ArrayT
) -> ArrayT:
    """Root of an increasing function by Newton's method, safeguarded by halving.

    Parameters
    ----------
    function : callable
        x to (value, derivative), each of the shape of x. The value may jump.
    low, high : arrays of one shape
        Ends of the bracket.

    Returns
    -------
    array
        The root; ``low`` where the value is not negative there, ``high`` where it is not positive
        there.
    """
    xp = array_namespace(low)
    eps = xp.finfo(low.dtype).eps
    move = high - low
    value: AnyArray  # which is compared with 0
    x = low + 0.5 * move
    for count in range(_STEPS):
        with np.errstate(all="ignore"):  # a trial point may overflow
            value, slope = function(x)
        below = value < 0
        low, high = xp.where(below, x, low), xp.where(below, high, x)
        with np.errstate(all="ignore"):
            step = value / xp.where(slope > 0, slope, xp.ones_like(x))
            ahead = x - step
        # halve where Newton leaves the bracket or does not halve the step before
        usable = (slope > 0) & (ahead >= low) & (ahead <= high) & (2 * xp.abs(step) <= xp.abs(move))
        # at the root rounding decides the step: halving would lead away from it again
        settled = (value == 0) | ((slope > 0) & (xp.abs(step) <= 2 * eps * xp.abs(x)))
        middle = low + 0.5 * (high - low)
        if count > _LINEAR_STEPS:
            least = xp.maximum(low, xp.finfo(low.dtype).smallest_normal + 0 * low)
            wide = (low >= 0) & (high > 4 * least)
            middle = xp.where(wide, least**0.5 * xp.where(wide, high, least) ** 0.5, middle)
            usable = usable & ~wide
        ahead = xp.where(settled, x, xp.where(usable, ahead, middle))
        move, x = ahead - x, ahead
        if bool(xp.all(xp.abs(move) <= 2 * eps * xp.abs(x))):
            break
    return x


def chandrupatla(function: Callable[[ArrayT], ArrayT], low: ArrayT, high: ArrayT) -> ArrayT:
    """Root of an increasing function without its derivative.

    Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives", Advances in Engineering Software 28 (1997).

    Parameters
    ----------
    function : callable
        x to its value, of the shape of x. The value may jump.
    low, high : arrays of one shape
        Ends of the bracket.

    Returns
    -------
    array
        The root; ``low`` where the value is not negative there, ``high`` where it is not positive
        there.
    """
    xp = array_namespace(low)
    eps = xp.finfo(low.dtype).eps
    first, last = low, high
    fa: AnyArray
    with np.errstate(all="ignore"):
        a, b, fa, fb = high, low, function(high), function(low)
    fixed_low, fixed_high = fb >= 0, fa <= 0
    c, fc, t = b, fb, xp.full_like(a, 0.5)
    for _ in range(_STEPS):
        x = a + t * (b - a)
        with np.errstate(all="ignore"):
            fx = function(x)
        same = (fx > 0) == (fa > 0)
        c, fc = xp.where(same, a, b), xp.where(same, fa, fb)
        b, fb = xp.where(same, b, a), xp.where(same, fb, fa)
        a, fa = x, fx
        best = xp.where(xp.abs(fa) < xp.abs(fb), a, b)
        width = xp.abs(b - a)
        least = 2 * eps * xp.abs(best) / xp.where(width > 0, width, xp.ones_like(width))
        least = xp.clip(least, 0, 0.5)
        done = (width <= 4 * eps * xp.abs(best)) | (fa == 0) | fixed_low | fixed_high
        if bool(xp.all(done)):
            break
        with np.errstate(all="ignore"):  # where the search has ended these divide by zero
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            bent = fa / (fb - fa) * fc / (fb - fc)
            bent = bent + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = xp.where(smooth, bent, xp.full_like(a, 0.5))
        t = xp.minimum(xp.maximum(t, least), 1 - least)
    return xp.where(fixed_low, first, xp.where(fixed_high, last, best))
