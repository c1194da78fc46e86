"""A module of a term that stands alone: NumPy and torch, nothing of this project."""

from __future__ import annotations

import textwrap

from formulations.errors import InputError
from formulations.symbolic.algebra import Algebra
from formulations.symbolic.codegen import functions


def standalone(derivation: Algebra) -> str:
    """Source of a module with value, keep, gradient and prox on NumPy arrays and torch tensors.

    It needs NumPy, and torch where tensors are given; nothing of this project. The proximal step
    is there for the norm ‖·‖₂.

    Raises
    ------
    InputError
        For nested indicators, whose groups are not independent of each other.
    """
    d = derivation
    if d.block_price is not None:
        raise InputError("nested indicators have no module of their own: use NestedTerm")
    formulas = functions(
        d,
        [
            ("_psi", ["r"], d.psi, "ψ(r)"),
            ("_slope", ["r"], d.slope, "ψ'(r)"),
            ("_legendre", ["r"], d.legendre, "F(r) = r·ψ'(r) − ψ(r)"),
            ("_slope_limit", [], d.slope_limit, "ψ'(∞)"),
            ("_legendre_limit", [], d.legendre_limit, "F(∞)"),
            ("_extract", [], d.extract, "δ"),
        ],
    )
    peak = "‖w‖₂" if d.ball else "‖w‖∞"
    text = _MODULE.format(
        phi=d.phi,
        extract=d.extract,
        peak=peak,
        parameters=repr(d.defaults),
        price=repr(d.price),
        bound=repr(d.bound) if d.bounded else "math.inf",
        order=repr(d.norm),
        ball=repr(d.ball),
        formulas=formulas.rstrip(),
    )
    return text + (_PROX if d.norm == 2 else "")


_MODULE = textwrap.dedent(
    '''\
    """The regularizer of the pruning term φ(w) + c·y with φ(w) = ψ(‖w‖), ψ(r) = {phi}.

    h(w) = min {{ y·φ(w/y) + c·y : {peak}/M ≤ y ≤ 1 }} − δ‖w‖², δ = {extract}, of every group.

    Every function takes a (groups, size) array, one group a row: NumPy or a torch tensor. Written
    by `mipprune derive --python`.
    """

    import math

    import numpy as np

    PARAMETERS = {parameters}  # of ψ
    PRICE = {price}  # c
    BOUND = {bound}  # M
    ORDER = {order}  # p of the norm ‖·‖_p in φ
    BALL = {ball}  # whether the bound is ‖w‖₂ ≤ M, not ‖w‖∞ ≤ M


    {formulas}


    def _library(w):
        if isinstance(w, np.ndarray):
            return np
        import torch

        return torch


    def _number(formula, *arguments):
        return float(formula(np, *map(np.float64, arguments), **PARAMETERS))


    def _find_radius():
        """r* with F(r*) = c, by halving in log r; infinite where F stays below c."""
        if PRICE >= _number(_legendre_limit):
            return math.inf
        low, high = -60.0, 60.0
        for _ in range(200):
            middle = (low + high) / 2
            with np.errstate(all="ignore"):
                below = _number(_legendre, math.exp(middle)) < PRICE
            low, high = (middle, high) if below else (low, middle)
        return math.exp(high)


    RADIUS = _find_radius()
    # h/‖w‖ where neither the bound nor y = 1 holds
    if math.isfinite(RADIUS):
        FREE_SLOPE = (_number(_psi, RADIUS) + PRICE) / RADIUS
    else:
        FREE_SLOPE = _number(_slope_limit)
    SLOPE_LIMIT, LEGENDRE_LIMIT = _number(_slope_limit), _number(_legendre_limit)
    EXTRACT = _number(_extract)


    def _or(xp, values, limit):
        """A formula may overflow far out, where its limit is as good."""
        return xp.where(xp.isfinite(values), values, xp.full_like(values, limit))


    def _measure(w):
        """(‖w‖_p, the norm that the bound limits) of every group."""
        xp = _library(w)
        size = xp.abs(w)
        norm = (size**ORDER).sum(-1) ** (1 / ORDER)
        return norm, (size**2).sum(-1) ** 0.5 if BALL else xp.amax(size, -1)


    def keep(w):
        """Keep-score y* = min(1, max({peak}/M, ‖w‖/r*)) of every group, (groups,)."""
        norm, peak = _measure(w)
        return _library(w).clip(_library(w).maximum(peak / BOUND, norm / RADIUS), 0, 1)


    def _regimes(norm, peak):
        """(free, bound decides): neither holds where y* = 1."""
        share, ratio = peak / BOUND, norm / RADIUS
        return (ratio <= 1) & (share <= ratio), (ratio <= 1) & (share > ratio)


    def value(w):
        """h of every group, (groups,); infinite where {peak} > M."""
        xp = _library(w)
        norm, peak = _measure(w)
        free, _ = _regimes(norm, peak)
        y = xp.where(free, xp.ones_like(norm), keep(w))
        paid = y * _psi(xp, norm / y, **PARAMETERS) + PRICE * y
        h = xp.where(free, FREE_SLOPE * norm, paid) - EXTRACT * norm**2
        outside = peak > BOUND * (1 + 4 * xp.finfo(w.dtype).eps)
        return xp.where(outside, xp.full_like(h, math.inf), h)


    def gradient(w):
        """A (sub)gradient of the sum of h, shaped like w; 0 at w = 0."""
        xp = _library(w)
        norm, peak = _measure(w)
        free, decides = _regimes(norm, peak)
        one, zero = xp.ones_like(norm), xp.zeros_like(norm)
        r = xp.where(norm > 0, norm, one) / xp.where(free, one, keep(w))
        along = xp.where(free, FREE_SLOPE * one, _slope(xp, r, **PARAMETERS) + zero)
        across = xp.where(decides, (PRICE - _legendre(xp, r, **PARAMETERS)) / BOUND + zero, zero)
        if BALL:
            along, across = along + across, zero
        scale = xp.where(norm > 0, norm, one) ** (ORDER - 1)
        radial = xp.where(norm > 0, along / scale - 2 * EXTRACT, zero)[:, None]
        at_peak = (xp.abs(w) == peak[:, None]) * xp.ones_like(w)
        shared = (across / xp.clip(at_peak.sum(-1), 1, None))[:, None] * at_peak
        return (radial * xp.abs(w) ** (ORDER - 1) + shared) * xp.sign(w)
    '''
)

_PROX = textwrap.dedent(
    '''

    def _halve(function, low, high):
        """Root of an increasing function between two arrays."""
        xp = _library(low)
        for _ in range(200):
            middle = (low + high) / 2
            below = function(middle) < 0
            low, high = xp.where(below, middle, low), xp.where(below, high, middle)
        return (low + high) / 2


    def _shrunk(size, limit, step):
        """argmin ½‖x − w‖² + step·φ(x) for |x| ≤ limit, by its norm n; magnitudes."""
        xp = _library(size)

        def point(n):
            level = step * _or(xp, _slope(xp, n, **PARAMETERS) + 0 * n, SLOPE_LIMIT) / n
            return xp.minimum(size / (1 + level)[:, None], limit)

        def gap(n):
            return n - (point(n) ** 2).sum(-1) ** 0.5

        high = (xp.minimum(size, limit) ** 2).sum(-1) ** 0.5
        high = xp.where(high > 0, high, xp.ones_like(high))
        low = xp.finfo(size.dtype).eps ** 2 * high
        n = _halve(gap, low, high)
        return xp.where((gap(low) < 0)[:, None], point(n), xp.zeros_like(size))


    def prox(w, step):
        """argmin ½‖x − w‖² + step·h(x) of every group, shaped like w, for step < 1/(2δ).

        For a fixed y it is y·prox of (step/y)·φ at w/y. The minimum's derivative in y increases:
        its root, cut to [0, 1], is found by halving.
        """
        with np.errstate(all="ignore"):  # a trial point may overflow
            return _prox(w, step)


    def _prox(w, step):
        xp = _library(w)
        convex = 1 / (1 - 2 * step * EXTRACT)
        size, step = convex * xp.abs(w), convex * step
        zero = 0 * size[:, 0]
        length = (size**2).sum(-1) ** 0.5

        def inner(y):
            """w/y at the minimum for y."""
            limit = xp.full_like(size, math.inf if BALL else BOUND)
            u = _shrunk(size / y[:, None], limit, step / y)
            if BALL:
                r = (u**2).sum(-1) ** 0.5
                u = u * xp.clip(BOUND / xp.where(r > 0, r, zero + 1), 0, 1)[:, None]
            return u

        def derivative(y):
            # c − φ*: F, and what the bound's multipliers add
            u = inner(y)
            r = xp.clip((u**2).sum(-1) ** 0.5, 0, BOUND) if BALL else (u**2).sum(-1) ** 0.5
            slope = _or(xp, _slope(xp, r, **PARAMETERS) + zero, SLOPE_LIMIT)
            legendre = _or(xp, _legendre(xp, r, **PARAMETERS) + zero, LEGENDRE_LIMIT)
            if math.isinf(BOUND):
                return PRICE - legendre
            if BALL:
                over = xp.where(r >= BOUND * (1 - 1e-12), length - y * r - step * slope, zero)
            else:
                along = u * (slope / xp.where(r > 0, r, zero + 1))[:, None]
                at_bound = (u >= BOUND) * xp.ones_like(u)
                over = (at_bound * (size - y[:, None] * u - step * along)).sum(-1)
            return PRICE - legendre - BOUND * over / step

        low = zero + xp.finfo(w.dtype).eps
        y = _halve(derivative, low, zero + 1)
        dead = derivative(low) >= 0
        if math.isinf(BOUND) and math.isinf(RADIUS):
            dead = zero > 1  # only the recession function is paid: y → 0, w does not
        return xp.where(dead[:, None], 0 * w, y[:, None] * inner(y) * xp.sign(w))
    '''
)
