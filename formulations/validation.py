"""Whether a φ can stand in a pruning term: judged on numbers, with a point that shows why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from formulations.errors import InputError
from formulations.expressions import array_function, compiled, within
from formulations.symbolic import r, substitution

if TYPE_CHECKING:
    from formulations.derive import Derivation

_GRID = np.geomspace(1e-4, 1e4, 2001)
_NEEDED = 1000  # points of the grid, up to r = 1, at which φ must be a real number
_SECONDS = 1.0


def validate(derivation: Derivation) -> None:
    """Check φ(0) = 0, monotone, convex, the parameters and the extraction.

    Raises
    ------
    InputError
        In one line that names what is wrong and, for a slope that falls, between which points.
    """
    for name, parameter in derivation.parameters.items():
        parameter.check(name, parameter.value)
    values, shown = substitution(derivation.defaults), derivation.phi
    _check_start(derivation.psi.subs(values), shown)
    value, slope = _on_grid(derivation)
    # an exponential may overflow far out: it is judged where it is a number
    known = np.isfinite(value) & np.isfinite(slope)
    count = len(_GRID) if known.all() else int(np.argmin(known))
    if count < _NEEDED:
        raise InputError(f"{shown} is no real number at r = {_GRID[count]:.3g}")
    grid, slope = _GRID[:count], slope[:count]
    if slope[0] < -1e-12:
        raise InputError(
            f"φ decreases: the slope of {shown} is {slope[0]:.3g} at r = {grid[0]:.3g}"
        )
    drop = np.diff(slope)
    if (drop < -1e-9 * np.abs(slope[:-1])).any():
        # the clearest point, not the first one that rounding might doubt
        at = int((drop / (np.abs(slope[:-1]) + np.abs(slope[1:]) + 1e-300)).argmin())
        raise InputError(
            f"φ is not convex: the slope of {shown} falls from {slope[at]:.6g} at "
            f"r = {grid[at]:.4g} to {slope[at + 1]:.6g} at r = {grid[at + 1]:.4g}"
        )
    delta = derivation.extract.subs(values)
    if not (delta.is_number and delta >= 0):
        raise InputError(f"the extraction must not be negative: {derivation.extract} is {delta}")


def _check_start(psi: sp.Expr, shown: sp.Expr) -> None:
    start = within(_SECONDS, lambda: sp.limit(psi, r, 0, "+"), sp.nan)
    if start.is_number and start.is_finite:
        if abs(start) > 1e-12:
            raise InputError(f"φ(0) must be 0: {shown} is {float(sp.re(start)):g} at r = 0")
        return
    raise InputError(f"φ(0) must be 0: {shown} is not finite at r = 0")


def _on_grid(derivation: Derivation) -> tuple[np.ndarray, np.ndarray]:
    names = ["r", *derivation.parameters]
    source = array_function("value", names, derivation.psi, "ψ")
    code = compiled(source + array_function("slope", names, derivation.slope, "ψ'"))
    with np.errstate(all="ignore"):
        return tuple(
            code[name](np, _GRID, **derivation.defaults) + 0 * _GRID for name in ("value", "slope")
        )
