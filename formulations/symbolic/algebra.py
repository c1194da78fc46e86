"""From the shrinkage φ and the price c of a pruning MIP to its regularizer, in sympy.

For φ(w) = ψ(‖w‖_p) and the bound M the perspective reformulation, its indicator projected away, is

    h(w) = min { y·ψ(s/y) + c·y  :  m/M ≤ y ≤ 1 },     s = ‖w‖_p,  m = ‖w‖∞ or ‖w‖₂,

whose free minimiser y = s/r* has r*·ψ'(r*) − ψ(r*) = c: r* does not depend on w (docs/theory.md;
Frangioni & Gentile 2006, Cacciola et al. 2022 for ψ = a·r²). Everything else follows from ψ and r*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from formulations.symbolic.equations import (
    C,
    Equation,
    M,
    Parameter,
    c,
    k,
    limit,
    m,
    power,
    r,
    s,
    simplified,
    simplified_below,
    t,
    v,
    y,
)

# r*, and σ with σ + t·ψ'(σ) = s, in formulas where no symbolic root is known
UNKNOWN_RADIUS, UNKNOWN_PROX = sp.Symbol("r_*", positive=True), sp.Symbol("sigma", positive=True)


@dataclass(frozen=True, eq=False)
class Algebra:
    """All that follows from the φ, c and M of a term, as sympy expressions.

    The symbols are those of :mod:`formulations.symbolic.equations`: r (norm of w/y), s = ‖w‖_p, m
    (the norm that the bound limits), y, c, M, v (a dual norm), t (length of a proximal step) and C.

    Parameters
    ----------
    phi : sympy expression in r
        ψ.
    parameters : mapping of str to Parameter
    price, bound : float
        Default values of c and M.
    ball : bool
    norm : float
        p.
    extract : sympy expression
        δ.
    block_price : float or None
        Default value of C; None where indicators are not nested.
    """

    phi: sp.Expr
    parameters: Mapping[str, Parameter]
    price: float
    bound: float
    ball: bool
    norm: float
    extract: sp.Expr
    block_price: float | None = None

    @property
    def defaults(self) -> dict[str, float]:
        """Values of the parameters."""
        return {name: p.value for name, p in self.parameters.items()}

    # ---- ψ and its derivatives ------------------------------------------------------------------

    @cached_property
    def psi(self) -> sp.Expr:
        """ψ(r), maxima and minima by pieces."""
        return self.phi.rewrite(sp.Piecewise) if self.phi.has(sp.Max, sp.Min) else self.phi

    @cached_property
    def slope(self) -> sp.Expr:
        """ψ'(r)."""
        return simplified(sp.diff(self.psi, r))

    @cached_property
    def curvature(self) -> sp.Expr:
        """ψ''(r)."""
        return simplified(sp.diff(self.slope, r))

    @cached_property
    def legendre(self) -> sp.Expr:
        """F(r) = r·ψ'(r) − ψ(r), the Legendre transform of ψ at its slope there."""
        return simplified(r * self.slope - self.psi)

    @cached_property
    def slope_start(self) -> sp.Expr:
        """ψ'(0+)."""
        return limit(self.slope, sp.S.Zero, self.parameters)

    @cached_property
    def slope_limit(self) -> sp.Expr:
        """ψ'(∞), the slope of the recession function of φ along the norm; may be infinite."""
        return limit(self.slope, sp.oo, self.parameters)

    @cached_property
    def legendre_limit(self) -> sp.Expr:
        """F(∞): r* is finite if and only if c is below it."""
        return limit(self.legendre, sp.oo, self.parameters)

    # ---- the projection -------------------------------------------------------------------------

    @property
    def perspective(self) -> sp.Expr:
        """y·ψ(s/y) + c·y (− δ·s²)."""
        return y * self.psi.subs(r, s / y) + c * y - self.extract * s**2

    @property
    def stationarity(self) -> sp.Eq:
        """F(r) = c, the equation of r*."""
        return sp.Eq(self.legendre, c)

    @cached_property
    def radius(self) -> sp.Expr | None:
        """r*, or None where sympy finds no root that solves the equation."""
        if self.psi == 0:
            return None
        return Equation(self.legendre, r, c, self.legendre_limit).root(self.parameters)

    @property
    def root(self) -> sp.Expr:
        """r* for formulas: the expression, or a symbol of its own."""
        return UNKNOWN_RADIUS if self.radius is None else self.radius

    @cached_property
    def free_slope(self) -> sp.Expr:
        """h/s in the free regime: ψ'(r*), or ψ'(∞) where r* is never finite."""
        if self.legendre_limit == 0:
            return self.slope_limit
        return simplified_below(self.slope.subs(r, self.root), c, self.legendre_limit)

    @property
    def bounded(self) -> bool:
        """Whether the derivation has a bound M."""
        return math.isfinite(self.bound)

    @cached_property
    def keep_score(self) -> sp.Expr:
        """y*(w)."""
        return sp.Min(1, self._uncapped(self.root))

    def _uncapped(self, root: sp.Expr) -> sp.Expr:
        if self.legendre_limit == 0:
            return m / M if self.bounded else sp.S.Zero
        return sp.Max(m / M, s / root) if self.bounded else s / root

    @cached_property
    def regimes(self) -> sp.Piecewise:
        """h(w) − δ‖w‖² where r* is finite, with the condition of each regime."""
        return _piecewise(self._pieces)

    @cached_property
    def recession(self) -> sp.Expr | None:
        """h(w) − δ‖w‖² where c ≥ F(∞), so that no r* is finite; None where that cannot be."""
        if self.legendre_limit == sp.oo:
            return None
        h = self._bound_piece if self.bounded else self.slope_limit * s
        return simplified(h) - self.extract * s**2

    @cached_property
    def _pieces(self) -> list[tuple[sp.Expr, sp.Basic]]:
        if self.legendre_limit == 0:
            return [(self.recession, sp.true)]
        inside = s <= self.root
        pieces = [(self.free_slope * s, inside), (self.psi.subs(r, s) + c, sp.true)]
        if self.bounded:
            pieces[0] = (self.free_slope * s, sp.And(m / M <= s / self.root, inside))
            pieces.insert(1, (self._bound_piece, inside))
        return [(simplified(h) - self.extract * s**2, when) for h, when in pieces]

    @property
    def _bound_piece(self) -> sp.Expr:
        share = m / M
        return sp.simplify(share * self.psi.subs(r, s / share)) + c * share

    @cached_property
    def gradient(self) -> tuple[sp.Expr, sp.Expr]:
        """Derivatives of the regularizer by s and by m, by regime; at w = 0 both are taken as 0."""

        def by(symbol: sp.Symbol) -> sp.Expr:
            return _piecewise([(simplified(sp.diff(h, symbol)), when) for h, when in self._pieces])

        return by(s), by(m)

    @cached_property
    def prox(self) -> sp.Piecewise | None:
        """‖prox(w)‖ of a step t for w with ‖w‖₂ = s, p = 2 and no bound, before the extraction.

        None for other norms and with a bound, where it is found by a search.
        """
        if self.norm != 2 or self.bounded or self.extract != 0:
            return None
        slack = s - t * self.free_slope
        if self.legendre_limit == 0:
            return sp.Piecewise((0, s <= t * self.free_slope), (slack, True), evaluate=False)
        beyond = self.shrinkage_prox
        beyond = UNKNOWN_PROX if beyond is None else beyond.subs(k, t)
        return sp.Piecewise(
            (0, s <= t * self.free_slope),
            (slack, slack <= self.root),
            (beyond, True),
            evaluate=False,
        )

    @cached_property
    def shrinkage_conjugate(self) -> sp.Expr | None:
        """ψ*(v) = sup_r v·r − ψ(r), without the bound, for v above ψ'(0+) and below ψ'(∞)."""
        inverse = self.inverse_slope
        if inverse is None:
            return None
        return simplified_below(v * inverse - self.psi.subs(r, inverse), v, self.slope_limit)

    @property
    def conjugate(self) -> sp.Expr | None:
        """h*(v) = max(0, ψ*(v) − c) of the dual norm v, without the bound."""
        star = self.shrinkage_conjugate
        if star is None:
            return None
        paid = sp.Max(0, star - c)
        if self.slope_start == 0:
            return paid
        return sp.Piecewise((0, v <= self.slope_start), (paid, True), evaluate=False)

    @cached_property
    def block_indicator(self) -> sp.Expr | None:
        """The z of a block, of whose groups k have s_i ≥ r*·z; S is the sum of s_i^e over them.

        For F(r) = K·r^e. None where indicators are not nested or F is no power.
        """
        monomial = power(self.legendre, r)
        if self.block_price is None or monomial is None:
            return None
        factor, exponent = monomial
        total, count = sp.symbols("S k", positive=True)
        return sp.Min(1, (factor * total / (c * count + C)) ** (1 / exponent))

    @cached_property
    def shrinkage_prox_equation(self) -> Equation:
        """σ + k·ψ'(σ) = s, in σ = r: the norm of a proximal step of k·ψ."""
        return Equation(r + k * self.slope, r, s, least=k * self.slope_start, also=(k,))

    @cached_property
    def shrinkage_prox(self) -> sp.Expr | None:
        """Its root, or None where sympy finds none."""
        return s if self.psi == 0 else self.shrinkage_prox_equation.root(self.parameters)

    @cached_property
    def inverse_slope(self) -> sp.Expr | None:
        """ρ with ψ'(ρ) = v, or None where sympy finds none or the slope is constant."""
        if self.curvature == 0:
            return None
        equation = Equation(self.slope, r, v, self.slope_limit, self.slope_start)
        return equation.root(self.parameters)


def _piecewise(pieces: list[tuple[sp.Expr, sp.Basic]]) -> sp.Piecewise:
    return sp.Piecewise(*pieces, evaluate=False) if len(pieces) > 1 else pieces[0][0]
