"""Proximal steps and conjugates that a group's norm and peak do not decide, by nested root finding.

They are needed where a box is active, and for norms other than ‖·‖₂. Every unknown is one number a
group, found by a bracketed search over all groups at once (:mod:`formulations.numerics.roots`).
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from formulations.arrays import ArrayT, FloatArray
from formulations.numerics.roots import chandrupatla, newton
from formulations.terms.partition import Layout
from formulations.terms.projection import Projection


def prox(term: Projection, size: ArrayT, step: ArrayT, layout: Layout) -> ArrayT:
    """The proximal step of t·h of every group: magnitudes, (D,).

    For a fixed y it is x = y·prox of (t/y)·φ_B at v/y, φ_B the shrinkage within its bound, and the
    minimum over x has the derivative t·(c − φ_B*((v − x)/t)) in y, which increases. The y at
    which it vanishes, cut to [0, 1], is the relaxed indicator of the result.

    Parameters
    ----------
    term : Projection
        Its parameters are of these groups alone: () or (G,).
    size : (D,) array
        |v|.
    step : (G,) array
        t > 0.
    layout : Layout
    """
    xp = array_namespace(size)
    profile, zero = term.profile, layout.sum(0 * size)
    # below, x is lost in the rounding of v − x; a smaller indicator counts as 0
    least = zero + xp.finfo(size.dtype).eps ** 0.5
    if profile.norm_order == 2:
        return _prox_in_box(term, size, step, layout)

    bound, order = term.bound + zero, profile.norm_order

    def inner(y: ArrayT) -> tuple[ArrayT, ArrayT]:
        return shrinkage_prox(term, size, step, y, layout.expand(bound * y), layout)

    def derivative(y: ArrayT) -> ArrayT:
        # φ_B* at its maximiser x/y is F there and what the box's multipliers add; as a difference
        # of its terms it would cancel where y is small
        x, norm = inner(y)
        alive = norm > 0
        r = xp.where(alive, norm, zero + 1) / y
        slope = step * term.slope(r) / (r * y) ** (order - 1)
        over = size - x - layout.expand(slope) * x ** (order - 1)
        at_bound = (x >= layout.expand(bound * y)) & (over > 0)
        multipliers = layout.sum(xp.where(at_bound, over, 0 * over))
        limited = bound < float("inf")
        paid = xp.where(limited, bound, zero) * multipliers / step
        return xp.where(alive, term.price - term.legendre(r) - paid, term.price + zero)

    y = chandrupatla(derivative, least, zero + 1)
    # at y = 0 only the recession function, without a bound, leaves anything
    recedes = xp.isinf(bound) & xp.isinf(term.radius + zero)
    x, _ = inner(xp.where(recedes, least**4, y))
    return xp.where(layout.expand((y > least) | recedes), x, 0 * x)


def _prox_in_box(term: Projection, size: ArrayT, step: ArrayT, layout: Layout) -> ArrayT:
    """With ‖·‖₂ and a box one search is enough.

    With z = y + t·ψ'(ρ)/ρ the solution is x = y·min(v/z, M), ρ = ‖min(v/z, M)‖, and the derivative
    in y over t, which is c − F(ρ) − M·Σ max(0, v − M·z)/t, depends on z alone.
    """
    xp = array_namespace(size)
    zero = layout.sum(0 * size)
    bound = term.bound + zero
    wide = layout.expand(bound)
    high = layout.max(size) / bound  # the box is slack beyond

    def ratio(z: ArrayT) -> ArrayT:
        return xp.minimum(size / layout.expand(z), wide)

    def derivative(z: ArrayT) -> tuple[ArrayT, ArrayT]:
        height = layout.expand(z)
        over = size - wide * height
        free = over <= 0
        share = xp.where(free, size / height, 0 * size)
        inner = layout.sum(share * share)
        count = layout.sum(xp.where(free, 0 * size, 0 * size + 1))
        rho = (inner + count * bound * bound) ** 0.5
        surplus = layout.sum(xp.where(free, 0 * size, over))
        value = term.price - term.legendre(rho) - bound * surplus / step
        return value, term.curvature(rho) * inner / z + count * bound * bound / step

    # the largest weight alone makes the derivative negative further below
    least = xp.maximum(high * xp.finfo(size.dtype).eps, high - step * term.price / bound**2)
    z = newton(derivative, least, high)
    rho = layout.norm(ratio(z), 2)
    y = z - step * term.slope(rho) / rho
    whole = (y >= 1) | (derivative(high)[0] < 0)
    y = xp.clip(y, 0, 1)
    x = layout.expand(y) * ratio(z)
    if bool(xp.any(whole)):
        kept, _ = shrinkage_prox(term, size, step, zero + 1, wide, layout)
        x = xp.where(layout.expand(whole), kept, x)
    return x


def shrinkage_prox(
    term: Projection, size: ArrayT, step: ArrayT, y: ArrayT, limit: ArrayT, layout: Layout
) -> tuple[ArrayT, ArrayT]:
    """(x, ‖x‖) of the proximal step of t·y·φ(·/y) within magnitudes ``limit`` (D,).

    By a search for n = ‖x‖: with u = x/n, u + (t·φ'(n/y)/n)·u^(p−1) = v/n, cut at the limit.
    """
    xp = array_namespace(size)
    order = term.profile.norm_order

    def at(n: ArrayT) -> ArrayT:
        level, unit = step * term.slope(n / y) / n, layout.expand(n)
        return xp.minimum(unit * resolvent(size / unit, layout.expand(level), order), limit)

    high = layout.norm(xp.minimum(size, limit), order)
    safe = xp.where(high > 0, high, xp.ones_like(high))
    least = y * safe * xp.finfo(size.dtype).eps  # x is of the order of y
    n = chandrupatla(lambda n: n - layout.norm(at(n), order), least, safe)
    alive = (high > 0) & (n > least)
    x = xp.where(layout.expand(alive), at(n), 0 * size)
    return x, layout.norm(x, order)


def conjugate_in_box(
    term: Projection, size: FloatArray, limit: FloatArray, layout: Layout
) -> tuple[FloatArray, FloatArray]:
    """Suprema of ⟨v, w⟩ − φ(w) within |w| ≤ limit for every group, and the limits' multipliers.

    Parameters
    ----------
    term : Projection
        Of these groups alone; its own bound plays no part. NumPy.
    size, limit : (D,) arrays
        |v|, and the limits, finite.
    layout : Layout

    Returns
    -------
    ((G,) array, (D,) array)
        The suprema, and their derivatives by the limits.
    """
    order = term.profile.norm_order
    eps = np.finfo(float).eps
    high = layout.norm(limit, order)
    high = np.where(high > 0, high, 1.0)
    if order == 1:
        # all weights with |v| above φ'(n) are at their limit, and n is the sum of all

        def surplus(n: FloatArray) -> FloatArray:
            return n - layout.sum(limit * (size > layout.expand(term.slope(n) + 0 * n)))

        n = chandrupatla(surplus, eps * high, high)
        level = term.slope(n) + 0 * n
        multiplier = np.maximum(size - layout.expand(level), 0)
        return layout.sum(limit * multiplier) + level * n - term.phi(n), multiplier

    def point(n: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = layout.expand(term.slope(n) / n ** (order - 1))
        with np.errstate(all="ignore"):
            free = np.where(size > 0, (size / level) ** (1 / (order - 1)), 0.0)
        return np.minimum(free, limit), level

    n = chandrupatla(lambda n: n - layout.norm(point(n)[0], order), eps * high, high)
    x, level = point(n)
    value = layout.sum(size * x) - term.phi(layout.norm(x, order))
    return value, np.maximum(size - level * limit ** (order - 1), 0)


def resolvent(size: ArrayT, level: ArrayT, order: float) -> ArrayT:
    """Resolvent of level·∇(x^p/p): x ≥ 0 with x + level·x^(p−1) = size, or 0 where there is none.

    Parameters
    ----------
    size, level : arrays of one shape
        Not negative.
    order : float
        p, at least 1.
    """
    if order == 2:
        return size / (1 + level)
    xp = array_namespace(size)
    zero = 0 * size
    if order == 1:
        return xp.maximum(size - level, zero)
    if order < 2:
        # in u = x^(p−1) the equation is convex and has no infinite slope
        power = 1 / (order - 1)

        def convex(u: ArrayT) -> tuple[ArrayT, ArrayT]:
            return u**power + level * u - size, power * u ** (power - 1) + level

        return newton(convex, zero, size ** (order - 1)) ** power

    def residual(x: ArrayT) -> tuple[ArrayT, ArrayT]:
        raised = level * x ** (order - 2)
        return x + raised * x - size, 1 + (order - 1) * raised

    return newton(residual, zero, size)
