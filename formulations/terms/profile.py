"""The profile ψ of a term, φ(w) = ψ(‖w‖): its numbers, from generated formulas or by root finding.

A :class:`Profile` is made by :mod:`formulations.symbolic.codegen`, which writes its formulas from
sympy expressions. Where an equation has no symbolic solution the formula is missing, and the root
is found here. Everything follows the array API standard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from formulations.arrays import AnyArray, ArrayT, FloatArray
from formulations.numerics.roots import newton
from formulations.terms.generated import Formula, compiled

# A root beyond this is taken for infinite. Its square must not overflow in float64.
_FAR = 1e150


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """ψ with ψ(0) = 0, convex, and what follows from it.

    Parameters
    ----------
    norm_order : float
        p of the norm ‖·‖_p that r stands for, at least 1.
    ball : bool
        Whether the bound is ‖w‖₂ ≤ M; else it is ‖w‖∞ ≤ M.
    value, slope, curvature, legendre : formulas of r
        ψ, ψ', ψ'' and F(r) = r·ψ'(r) − ψ(r), which does not decrease.
    slope_start, slope_limit, legendre_limit : formulas of nothing
        ψ'(0+), and the limits of ψ' and of F as r → ∞.
    extract : formula of nothing
        δ.
    radius : formula of c, or None
        r* with F(r*) = c, right where c is below ``legendre_limit``.
    prox : formula of (s, k), or None
        σ with σ + k·ψ'(σ) = s.
    inverse_slope : formula of v, or None
        ρ with ψ'(ρ) = v, right for ``slope_start`` < v < ``slope_limit``.
    ridge : formula of nothing, or None
        a, where ψ = a·r² and p = 2; else None.
    definition : mapping
        What :func:`formulations.derive` was told: phi, norm, ball, extract, in plain words.
    source : str
        The generated code of the formulas.
    without_square : Profile, optional
        The profile that :meth:`with_square` was called on.
    """

    norm_order: float
    ball: bool
    value: Formula
    slope: Formula
    curvature: Formula
    legendre: Formula
    slope_start: Formula
    slope_limit: Formula
    legendre_limit: Formula
    extract: Formula
    radius: Formula | None
    prox: Formula | None
    inverse_slope: Formula | None
    ridge: Formula | None
    definition: Mapping[str, Any]
    source: str
    without_square: Profile | None = None

    @classmethod
    def from_source(
        cls, norm_order: float, ball: bool, definition: Mapping[str, Any], source: str
    ) -> Profile:
        """The profile of generated code, whose functions have the names of the formulas.

        Raises
        ------
        InputError
            If the source is not of the kind that is generated.
        """
        # what overflows is infinite, and a branch that is not taken may be anything
        quiet = np.errstate(all="ignore")
        code = {name: quiet(formula) for name, formula in compiled(source).items()}
        return cls(
            norm_order=norm_order,
            ball=ball,
            value=code["value"],
            slope=code["slope"],
            curvature=code["curvature"],
            legendre=code["legendre"],
            slope_start=code["slope_start"],
            slope_limit=code["slope_limit"],
            legendre_limit=code["legendre_limit"],
            extract=code["extract"],
            radius=code.get("radius"),
            prox=code.get("prox"),
            inverse_slope=code.get("inverse_slope"),
            ridge=code.get("ridge"),
            definition=definition,
            source=source,
        )

    def __reduce__(self) -> tuple[Callable[..., Profile], tuple[Any, ...]]:
        # functions that were compiled from text cannot be pickled: their text can
        if self.without_square is not None:
            return Profile.with_square, (self.without_square,)
        own = (self.norm_order, self.ball, dict(self.definition), self.source)
        return Profile.from_source, own

    @property
    def peak_order(self) -> float:
        """The p of the norm that the bound limits: 2 or infinite."""
        return 2.0 if self.ball else float("inf")

    def with_square(self) -> Profile:
        """The profile of ψ + q·r², q ≥ 0 a further parameter called ``square``.

        Its equations are solved numerically.
        """
        return replace(
            self,
            value=_plus(self.value, lambda q, r: q * r * r),
            slope=_plus(self.slope, lambda q, r: 2 * q * r),
            curvature=_plus(self.curvature, lambda q, r: 2 * q + 0 * r),
            legendre=_plus(self.legendre, lambda q, r: q * r * r),
            slope_start=_plus(self.slope_start, lambda q: 0 * q),
            slope_limit=_unlimited(self.slope_limit),
            legendre_limit=_unlimited(self.legendre_limit),
            extract=_plus(self.extract, lambda q: 0 * q),
            radius=None,
            prox=None,
            inverse_slope=None,
            ridge=None,
            without_square=self,
        )

    def find_radius(self, price: FloatArray, parameters: Mapping[str, AnyArray]) -> FloatArray:
        """r* for a price of φ's own unit: inf { r : F(r) ≥ c }, infinite where F stays below c.

        NumPy alone, float64. Newton in log r to a relative 1e-12 and better.

        Parameters
        ----------
        price : (G,) or () array
            c.
        parameters : mapping of str to (G,) or () array

        Returns
        -------
        (G,) or () array
        """
        shape = np.broadcast_shapes(np.shape(price), *(np.shape(v) for v in parameters.values()))
        price = np.broadcast_to(np.asarray(price, np.float64), shape)
        with np.errstate(all="ignore"):
            finite = price < np.broadcast_to(self.legendre_limit(np, **parameters), shape)
            if self.radius is not None:
                return np.where(finite, self.radius(np, price, **parameters), np.inf)

            def scaled(log_r: FloatArray) -> tuple[FloatArray, FloatArray]:
                r = np.exp(log_r)
                return (
                    self.legendre(np, r, **parameters) - price,
                    r * r * self.curvature(np, r, **parameters),
                )

            high = np.zeros(shape)
            while True:
                short = finite & (scaled(high)[0] < 0) & (high < np.log(_FAR))
                if not short.any():
                    break
                high = high + np.where(short, 2.0, 0.0)
            low = np.minimum(high - 2, 0.0)
            while True:
                above = finite & (scaled(low)[0] >= 0) & (low > -np.log(_FAR))
                if not above.any():
                    break
                low = low - np.where(above, 2.0, 0.0)
            # in log r the machine precision of the root is that of r itself, relative
            root = np.exp(newton(scaled, low, high))
        return np.where(finite & (high < np.log(_FAR)), root, np.inf)

    def find_prox(
        self, s: ArrayT, k: ArrayT, low: ArrayT, parameters: Mapping[str, AnyArray]
    ) -> ArrayT:
        """σ with σ + k·ψ'(σ) = s, the proximal step of k·ψ; 0 where there is none.

        Parameters
        ----------
        s, k : arrays
            Not negative.
        low : array
            What σ is known to be at least.
        parameters : mapping of str to array
        """
        xp = array_namespace(s)
        if self.prox is not None:
            return xp.maximum(self.prox(xp, s, k, **parameters), 0 * s)

        def residual(x: ArrayT) -> tuple[ArrayT, ArrayT]:
            slope = self.slope(xp, x, **parameters)
            return x + k * slope - s, 1 + k * self.curvature(xp, x, **parameters)

        root = newton(residual, xp.minimum(low + 0 * s, s), s + 0 * low)
        start = self.slope_start(xp, **parameters)
        return xp.where(s > k * start, root, 0 * root)

    def invert_slope(self, v: ArrayT, parameters: Mapping[str, AnyArray]) -> ArrayT:
        """ρ ≥ 0 with ψ'(ρ) = v: 0 where v ≤ ψ'(0+), infinite where v is beyond the limit."""
        xp = array_namespace(v)
        start, limit = self.slope_start(xp, **parameters), self.slope_limit(xp, **parameters)
        inside = (v > start) & (v < limit)
        with np.errstate(all="ignore"):
            if self.inverse_slope is not None:
                root = self.inverse_slope(xp, v, **parameters)
            else:
                high = xp.ones_like(v)
                while True:
                    short = inside & (self.slope(xp, high, **parameters) < v) & (high < _FAR)
                    if not bool(xp.any(short)):
                        break
                    high = xp.where(short, 8 * high, high)

                def residual(x: ArrayT) -> tuple[ArrayT, ArrayT]:
                    return (
                        self.slope(xp, x, **parameters) - v,
                        self.curvature(xp, x, **parameters) + 0 * x,
                    )

                root = newton(residual, xp.zeros_like(v), high)
                root = xp.where(high < _FAR, root, xp.full_like(v, float("inf")))
        beyond = xp.full_like(v, float("inf"))
        return xp.where(inside, root, xp.where(v > start, beyond, xp.zeros_like(v)))


def _plus(formula: Formula, more: Callable[..., AnyArray]) -> Formula:
    """The formula and ``more(square, argument)``."""

    def total(xp: Any, *argument: AnyArray, square: AnyArray, **parameters: AnyArray) -> AnyArray:
        return formula(xp, *argument, **parameters) + more(square, *argument)

    return total


def _unlimited(formula: Formula) -> Formula:
    """A limit as r → ∞: infinite wherever a square was added."""

    def total(xp: Any, *, square: AnyArray, **parameters: AnyArray) -> AnyArray:
        own = formula(xp, **parameters) + 0 * square
        return xp.where(square > 0, xp.full_like(own, float("inf")), own)

    return total
