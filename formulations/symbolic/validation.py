"""Whether a φ can stand in a pruning term: judged on numbers, with a point that shows why not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.symbolic.algebra import Algebra
from formulations.symbolic.equations import r, substitution, within
from formulations.symbolic.printing import array_function
from formulations.terms.generated import compiled

_GRID = np.geomspace(1e-8, 1e8, 3201)
_NEEDED = 1600  # points of the grid, up to r = 1, at which φ must be a real number
_LARGE = 99.0  # beyond, a φ that is no number has overflowed
_SECONDS = 10.0
_SETS = 16  # of parameters that are looked at, where every group has its own


def validate(derivation: Algebra) -> None:
    """Check φ(0) = 0, monotone, convex and smooth, the parameters and the extraction.

    Raises
    ------
    InputError
        In one line that names what is wrong and, for a slope that falls or jumps, where.
    """
    for name, parameter in derivation.parameters.items():
        parameter.check(name, parameter.value)
    values, shown = substitution(derivation.defaults), derivation.phi
    for part in (derivation.phi, derivation.extract):
        if part.has(sp.I, sp.zoo, sp.nan, sp.oo):
            raise InputError(f"{part} is not real and finite")
    _check_start(derivation.psi.subs(values), shown)
    _check_shape(derivation, derivation.defaults)
    delta = derivation.extract.subs(values)
    if not (delta.is_number and delta >= 0):
        raise InputError(f"the extraction must not be negative: {derivation.extract} is {delta}")


def check_parameters(derivation: Algebra, values: Mapping[str, ArrayLike]) -> None:
    """The same of the shape of φ for other values of the parameters, numbers or one a group.

    Raises
    ------
    InputError
        As :func:`validate`.
    """
    columns = np.broadcast_arrays(*(np.ravel(value) for value in values.values()))
    sets = np.unique(np.stack(columns, axis=1), axis=0)
    for numbers in sets[np.linspace(0, len(sets) - 1, min(len(sets), _SETS)).astype(int)]:
        own = dict(zip(values, map(float, numbers), strict=True))
        _check_shape(derivation, own)
        _check_limit(derivation, own)


def _check_start(psi: sp.Expr, shown: sp.Expr) -> None:
    start = within(_SECONDS, lambda: sp.limit(psi, r, 0, "+"), sp.nan)
    if start.is_number and start.is_finite:
        if abs(start) > 1e-12:
            raise InputError(f"φ(0) must be 0: {shown} is {float(sp.re(start)):g} at r = 0")
        return
    raise InputError(f"φ(0) must be 0: {shown} is not finite at r = 0")


def _check_shape(derivation: Algebra, values: Mapping[str, float]) -> None:
    shown = str(derivation.phi)
    if values != derivation.defaults:
        shown += " at " + ", ".join(f"{name} = {value:g}" for name, value in values.items())
    value, slope = _at(derivation, _GRID, values)
    # an exponential may overflow far out: it is judged where it is a number
    known = np.isfinite(value) & np.isfinite(slope)
    count = len(_GRID) if known.all() else int(np.argmin(known))
    gone = np.isnan(value[count:]).any() and value[max(count - 1, 0)] < _LARGE
    if count < _NEEDED or gone:
        raise InputError(f"{shown} is no real number at r = {_GRID[count]:.3g}")
    grid, slope = _GRID[:count], slope[:count]
    if slope[0] < -1e-12:
        raise InputError(
            f"φ decreases: the slope of {shown} is {slope[0]:.3g} at r = {grid[0]:.3g}"
        )
    drop = np.diff(slope)
    # r·ψ'(r) − ψ(r) says it without dividing by small slopes; rounding is that of ψ itself
    if (drop < -1e-9 * np.abs(slope[:-1]) - 1e-12 * slope.max(where=grid <= 1, initial=0.0)).any():
        # the clearest point, not the first one that rounding might doubt
        at = int((drop / (np.abs(slope[:-1]) + np.abs(slope[1:]) + 1e-300)).argmin())
        raise InputError(
            f"φ is not convex: the slope of {shown} falls from {slope[at]:.6g} at "
            f"r = {grid[at]:.4g} to {slope[at + 1]:.6g} at r = {grid[at + 1]:.4g}"
        )
    if derivation.psi.has(sp.Piecewise, sp.Abs):
        _check_kink(derivation, values, grid, slope, shown)


def _check_limit(derivation: Algebra, values: Mapping[str, float]) -> None:
    """Sympy's limit of the slope may hold for some parameters alone."""
    slope = _at(derivation, _GRID, values)[1]
    most = float(slope[np.isfinite(slope)].max())
    limit = float(derivation.slope_limit.subs(substitution(values)))
    if most > limit + 1e-9 * abs(limit):
        shown = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise InputError(
            f"the slope of {derivation.phi} is {most:g} at {shown}, above the limit {limit:g} that "
            "was found: write the numbers into φ"
        )


def _check_kink(
    derivation: Algebra,
    values: Mapping[str, float],
    grid: FloatArray,
    slope: FloatArray,
    shown: str,
) -> None:
    """A slope that jumps would make r*, and with it every formula, a matter of which side."""
    jumps = np.diff(slope) / np.maximum(slope[1:], 1e-12)
    for at in np.argsort(-jumps)[:8]:
        low, high = grid[at], grid[at + 1]
        for _ in range(60):
            middle = (low * high) ** 0.5
            left, half, right = _at(derivation, np.array([low, middle, high]), values)[1]
            low, high = (low, middle) if half - left >= right - half else (middle, high)
        left, right = _at(derivation, np.array([low, high]), values)[1]
        if right - left > 1e-6 * max(right, 1e-12):
            raise InputError(
                f"φ has a kink: the slope of {shown} jumps from {left:.6g} to {right:.6g} at "
                f"r = {high:.6g}; write it smooth"
            )


def _at(
    derivation: Algebra, points: FloatArray, values: Mapping[str, float]
) -> tuple[FloatArray, FloatArray]:
    """ψ and ψ' at some points."""
    names = ["r", *derivation.parameters]
    source = array_function("value", names, derivation.psi, "ψ")
    code = compiled(source + array_function("slope", names, derivation.slope, "ψ'"))
    with np.errstate(all="ignore"):
        value, slope = (
            code[name](np, points, **values) + 0 * points for name in ("value", "slope")
        )
    if np.iscomplexobj(value) or np.iscomplexobj(slope):
        raise InputError(f"{derivation.phi} is not real")
    return value, slope
