"""From the shrinkage φ and the price c of a pruning MIP to its regularizer, symbolically.

For φ(w) = ψ(‖w‖_p) and the bound M the perspective reformulation, its indicator projected away, is

    h(w) = min { y·ψ(s/y) + c·y  :  m/M ≤ y ≤ 1 },     s = ‖w‖_p,  m = ‖w‖∞ or ‖w‖₂,

whose free minimiser y = s/r* has r*·ψ'(r*) − ψ(r*) = c: r* does not depend on w (docs/theory.md;
Frangioni & Gentile 2006, Cacciola et al. 2022 for ψ = a·r²). Everything else follows from ψ and r*.
:func:`derive` states it in sympy, generates array code from the same expressions, and hands out
numeric :class:`formulations.terms.term.Term` objects for solvers and trainers.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from formulations.errors import InputError
from formulations.symbolic.codegen import make_profile, standalone
from formulations.symbolic.equations import (
    RESERVED,
    C,
    Equation,
    M,
    Parameter,
    below,
    c,
    k,
    limit,
    m,
    power,
    r,
    s,
    simplified,
    t,
    v,
    y,
)
from formulations.symbolic.expressions import parse
from formulations.symbolic.validation import check_parameters, validate
from formulations.terms.profile import Profile
from formulations.terms.term import Term

if TYPE_CHECKING:
    from formulations.terms.nested import NestedTerm

# r*, and σ with σ + t·ψ'(σ) = s, in formulas where no symbolic root is known
UNKNOWN_RADIUS, UNKNOWN_PROX = sp.Symbol("r_*", positive=True), sp.Symbol("sigma", positive=True)

# What a name means in an expression when nothing else is said.
PARAMETERS = {"a": Parameter(1.0), "b": Parameter(0.5), "p": Parameter(3.0, above=1.0)}


def derive(
    phi: str | sp.Expr,
    price: float = 1.0,
    *,
    bound: float = math.inf,
    ball: bool = False,
    norm: float = 2.0,
    extract: str | float | sp.Expr = 0.0,
    block_price: float | None = None,
    **parameters: float | Parameter,
) -> Derivation:
    """Derive the regularizer of a pruning term φ(w) + c·y.

    Parameters
    ----------
    phi : str or sympy expression
        ψ(r), the shrinkage as a function of the group's norm r: convex, not decreasing, 0 at 0.
    price : float
        Value of c.
    bound : float
        Value of M; infinite for no bound.
    ball : bool
        The bound is ‖w‖₂ ≤ M·y instead of ‖w‖∞ ≤ M·y; for the norm ‖·‖₂ alone.
    norm : float
        p ≥ 1 of the norm ‖·‖_p that r is.
    extract : str, float or sympy expression
        δ ≥ 0 in the parameters: δ‖w‖² is subtracted from φ and from the regularizer.
    block_price : float, optional
        Value of C: groups then live only in blocks that live, y_j ≤ z, C·z (nested indicators).
    **parameters : float or Parameter
        Values of the parameters of φ. A plain number stands for a positive parameter, except that
        p stands for an exponent above 1.

    Raises
    ------
    InputError
        In one line: φ that is no expression, has unknown symbols, is not 0 at 0, decreases or is
        not convex (with a point that shows it); a price, bound or parameter that cannot be.
    """
    known = {**PARAMETERS}
    for name, value in parameters.items():
        if name in RESERVED or not name.isidentifier() or keyword.iskeyword(name):
            raise InputError(f"{name!r} cannot name a parameter: it has a meaning of its own")
        if not isinstance(value, Parameter):
            above = PARAMETERS[name].above if name in PARAMETERS else 0.0
            value = Parameter(_number(name, value), above)
        known[name] = value
    symbols = {"r": r, **{name: sp.Symbol(name, positive=True) for name in known}}
    psi = _expression(phi, symbols)
    delta = _expression(extract, {k: v for k, v in symbols.items() if k != "r"})
    used = {symbol.name for e in (psi, delta) for symbol in e.free_symbols} - {"r"}
    spare = [name for name in parameters if name not in used]
    if spare:
        raise InputError(f"the parameter {spare[0]!r} does not occur in {psi}")
    chosen = {name: value for name, value in known.items() if name in used}
    norm, price, bound = (
        _number(name, value)
        for name, value in {"norm": norm, "price": price, "bound": bound}.items()
    )
    if not norm >= 1 or not math.isfinite(norm):
        raise InputError(f"norm must be a number from 1: it is {norm:g}")
    if ball and norm != 2:
        raise InputError("the bound ‖w‖₂ ≤ M goes with the norm ‖·‖₂; others take ‖w‖∞ ≤ M")
    if block_price is not None:
        block_price = _number("block_price", block_price)
    for name, value in {"price": price, "bound": bound, "block_price": block_price}.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive: it is {value:g}")
        if value is not None and name != "bound" and math.isinf(value):
            raise InputError(f"{name} must be a finite number: it is {value:g}")
    if block_price is not None and (norm != 2 or math.isfinite(bound) or delta != 0):
        raise InputError("nested indicators go with the norm ‖·‖₂, without bound or extraction")
    derivation = Derivation(psi, chosen, price, bound, ball, norm, delta, block_price)
    try:
        validate(derivation)
        derivation.term()
    except (ArithmeticError, TypeError) as error:
        raise InputError(f"{psi} cannot be evaluated: {error}") from None
    return derivation


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number: it is {value!r}") from None


def _expression(given: str | float | sp.Expr, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    if isinstance(given, str):
        return parse(given, symbols)
    if not isinstance(given, int | float | sp.Expr):
        raise InputError(f"{given!r} is not an expression")
    if isinstance(given, float):
        if not math.isfinite(given):
            raise InputError(f"{given} is not a finite number")
        given = sp.nsimplify(given, rational=True)
    expression = sp.S(given)
    for symbol in expression.free_symbols:
        if symbol.name not in symbols:
            known = ", ".join(symbols)
            raise InputError(f"{given}: unknown symbol {symbol.name!r}; known are {known}")
    return expression.subs({symbol: symbols[symbol.name] for symbol in expression.free_symbols})


@dataclass(frozen=True, eq=False)
class Derivation:
    """A regularizer and all that follows from its φ. Made by :func:`derive`.

    The symbols are r (norm of w/y), s = ‖w‖_p, m (the norm that the bound limits), y, c, M, v (a
    dual norm), t (length of a proximal step) and C; see :mod:`formulations.symbolic.derivation`.

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
        """F(r) = r·ψ'(r) − ψ(r)."""
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
        return below(self.slope.subs(r, self.root), c, self.legendre_limit)

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
    def gradient(self) -> tuple[sp.Piecewise, sp.Piecewise]:
        """Derivatives of the regularizer by s and by m, by regime; at w = 0 both are taken as 0."""
        return tuple(
            _piecewise([(simplified(sp.diff(h, by)), when) for h, when in self._pieces])
            for by in (s, m)
        )

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
        return below(v * inverse - self.psi.subs(r, inverse), v, self.slope_limit)

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
        """Z of a block whose k groups with s_i ≥ r*·z have the sum S of s_i^e, F(r) = K·r^e.

        None where indicators are not nested or F is no power.
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

    # ---- numbers --------------------------------------------------------------------------------

    @property
    def defaults(self) -> dict[str, float]:
        """Values of the parameters."""
        return {name: p.value for name, p in self.parameters.items()}

    @cached_property
    def profile(self) -> Profile:
        """ψ and what follows from it, as compiled array code."""
        return make_profile(self)

    def module(self) -> str:
        """Source of a NumPy and torch module that stands alone: :func:`codegen.standalone`."""
        return standalone(self)

    def term(
        self,
        price: Any = None,
        bound: Any = None,
        weight: Any = 1.0,
        **parameters: Any,
    ) -> Term:
        """The term in numbers: weight·ψ and price·y. Nested indicators: see :meth:`nested`.

        Parameters
        ----------
        price, bound : float or (G,) array, optional
            c and M; the derivation's own values where not given.
        weight : float or (G,) array
            Factor of φ.
        **parameters : float or (G,) array
            Instead of the derivation's own values.

        Raises
        ------
        InputError
            For an unknown parameter, or a value that cannot be.
        """
        return Term(**self._numbers(price, bound, weight, parameters))

    def nested(
        self,
        blocks: np.ndarray,
        block_price: Any = None,
        price: Any = None,
        weight: Any = 1.0,
        **parameters: Any,
    ) -> NestedTerm:
        """The term in numbers where groups are nested in blocks; see also :meth:`term`.

        Parameters
        ----------
        blocks : (G,) integers from 0
            The block of every group.
        block_price : float or (B,) array, optional
            C.
        price, weight, **parameters
            As in :meth:`term`.

        Raises
        ------
        InputError
            If the derivation has no block price, a norm other than ‖·‖₂, a bound or an extraction.
        """
        from formulations.terms.nested import NestedTerm

        if self.block_price is None:
            raise InputError("this term has no nested indicators: derive it with block_price")
        block_price = self.block_price if block_price is None else block_price
        numbers = self._numbers(price, None, weight, parameters)
        return NestedTerm(**numbers, blocks=blocks, block_price=block_price)

    def _numbers(self, price, bound, weight, parameters: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {**self.defaults}
        for name, value in parameters.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise InputError(f"unknown parameter {name!r}: φ has {known}")
            self.parameters[name].check(name, value)
            values[name] = value
        if parameters:
            check_parameters(self, values)
        numbers = {name: np.asarray(value, np.float64) for name, value in values.items()}
        with np.errstate(invalid="ignore"):  # an infinite weight is refused by the term
            extract = self.profile.extract(np, **numbers) * np.asarray(weight)
        return {
            "profile": self.profile,
            "price": self.price if price is None else price,
            "bound": self.bound if bound is None else bound,
            "weight": weight,
            "extract": extract,
            "parameters": numbers,
        }


def _piecewise(pieces: list[tuple[sp.Expr, sp.Basic]]) -> sp.Piecewise:
    return sp.Piecewise(*pieces, evaluate=False) if len(pieces) > 1 else pieces[0][0]
