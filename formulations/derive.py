"""From the shrinkage φ and the price c of a pruning MIP to its regularizer, symbolically.

For φ(w) = ψ(‖w‖_p) and the bound M the perspective reformulation, its indicator projected away, is

    h(w) = min { y·ψ(s/y) + c·y  :  m/M ≤ y ≤ 1 },     s = ‖w‖_p,  m = ‖w‖∞ or ‖w‖₂,

whose free minimiser y = s/r* has r*·ψ'(r*) − ψ(r*) = c: r* does not depend on w (math: section 2;
Frangioni & Gentile 2006, Cacciola et al. 2022 for ψ = a·r²). Everything else follows from ψ and r*.
:func:`derive` states it in sympy, generates array code from the same expressions, and hands out
numeric :class:`formulations.terms.Term` objects for solvers and trainers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from formulations.errors import InputError
from formulations.expressions import array_function, compiled, parse, within
from formulations.profile import Profile
from formulations.terms import Term

if TYPE_CHECKING:
    from formulations.nested import NestedTerm

# The symbols of every derivation, all positive.
r, s, m, y, c, M, v, t, sigma = sp.symbols("r s m y c M v t sigma", positive=True)
C = sp.Symbol("C", positive=True)  # the price of a block
_UNKNOWN = sp.Symbol("r_*", positive=True)  # r* where no symbolic root is known
_RESERVED = {"r", "s", "m", "y", "c", "M", "v", "t", "k", "C", "xp", "sigma"}

_SIMPLIFY_SECONDS = 1.0
_SOLVE_SECONDS = 1.0
# A symbolic root is believed where it solves its equation to this, relative, on the samples.
_ROOT_TOLERANCE = 1e-11
# Float32 loses digits in some roots that are right on paper; the trainer then uses Newton.
_SINGLE_TOLERANCE = 1e-5
_GRID = np.geomspace(1e-4, 1e4, 2001)


@dataclass(frozen=True)
class Parameter:
    """A parameter of φ: its value, and the number that it must be above.

    Parameters
    ----------
    value : float
    above : float
        0 for a positive parameter, 1 for an exponent.
    """

    value: float
    above: float = 0.0

    def check(self, name: str, value: Any) -> None:
        """Raise InputError unless every number is above the limit."""
        values = np.asarray(value, np.float64)
        wrong = ~((values > self.above) & np.isfinite(values))
        if wrong.any():
            raise InputError(f"{name} must be above {self.above:g}: it is {values[wrong][0]:g}")


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
        if name in _RESERVED or not name.isidentifier():
            raise InputError(f"{name!r} cannot name a parameter: it has a meaning of its own")
        if not isinstance(value, Parameter):
            above = PARAMETERS[name].above if name in PARAMETERS else 0.0
            value = Parameter(float(value), above)
        known[name] = value
    symbols = {"r": r, **{name: sp.Symbol(name, positive=True) for name in known}}
    psi = _expression(phi, symbols)
    delta = _expression(extract, {k: v for k, v in symbols.items() if k != "r"})
    used = {symbol.name for e in (psi, delta) for symbol in e.free_symbols} - {"r"}
    spare = [name for name in parameters if name not in used]
    if spare:
        raise InputError(f"the parameter {spare[0]!r} does not occur in {psi}")
    chosen = {name: value for name, value in known.items() if name in used}
    if not norm >= 1 or not math.isfinite(norm):
        raise InputError(f"norm must be a number from 1: it is {norm:g}")
    if ball and norm != 2:
        raise InputError("the bound ‖w‖₂ ≤ M goes with the norm ‖·‖₂; others take ‖w‖∞ ≤ M")
    for name, value in {"price": price, "bound": bound, "block_price": block_price}.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive: it is {value:g}")
    if block_price is not None and (norm != 2 or math.isfinite(bound) or delta != 0):
        raise InputError("nested indicators go with the norm ‖·‖₂, without bound or extraction")
    derivation = Derivation(
        psi, chosen, float(price), float(bound), ball, float(norm), delta, block_price
    )
    derivation.validate()
    return derivation


def _expression(given: str | float | sp.Expr, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    if isinstance(given, str):
        return parse(given, symbols)
    if not isinstance(given, int | float | sp.Expr):
        raise InputError(f"{given!r} is not an expression")
    expression = sp.nsimplify(given, rational=True) if isinstance(given, float) else sp.S(given)
    for symbol in expression.free_symbols:
        if symbol.name not in symbols:
            known = ", ".join(symbols)
            raise InputError(f"{given}: unknown symbol {symbol.name!r}; known are {known}")
    return expression.subs({symbol: symbols[symbol.name] for symbol in expression.free_symbols})


@dataclass(frozen=True, eq=False)
class Derivation:
    """A regularizer and all that follows from its φ. Made by :func:`derive`.

    The symbols are r (norm of w/y), s = ‖w‖_p, m (the norm that the bound limits), y, c, M, v (a
    dual norm), t (length of a proximal step) and C; see :mod:`formulations.derive`.

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
    def _psi(self) -> sp.Expr:
        return self.phi.rewrite(sp.Piecewise) if self.phi.has(sp.Max, sp.Min) else self.phi

    @cached_property
    def slope(self) -> sp.Expr:
        """ψ'(r)."""
        return _simplified(sp.diff(self._psi, r))

    @cached_property
    def curvature(self) -> sp.Expr:
        """ψ''(r)."""
        return _simplified(sp.diff(self.slope, r))

    @cached_property
    def excess(self) -> sp.Expr:
        """F(r) = r·ψ'(r) − ψ(r)."""
        return _simplified(r * self.slope - self._psi)

    @cached_property
    def slope_start(self) -> sp.Expr:
        """ψ'(0+)."""
        return self._limit(self.slope, 0)

    @cached_property
    def slope_limit(self) -> sp.Expr:
        """ψ'(∞), the slope of the recession function of φ along the norm; may be infinite."""
        return self._limit(self.slope, sp.oo)

    @cached_property
    def excess_limit(self) -> sp.Expr:
        """F(∞): r* is finite if and only if c is below it."""
        return self._limit(self.excess, sp.oo)

    # ---- the projection -------------------------------------------------------------------------

    @property
    def perspective(self) -> sp.Expr:
        """y·ψ(s/y) + c·y (− δ·s²)."""
        return y * self._psi.subs(r, s / y) + c * y - self.extract * s**2

    @property
    def stationarity(self) -> sp.Eq:
        """F(r) = c, the equation of r*."""
        return sp.Eq(self.excess, c)

    @cached_property
    def radius(self) -> sp.Expr | None:
        """r*, or None where sympy finds no root that solves the equation."""
        if self._psi == 0:
            return None
        return self._solve(self.excess, r, c, self.excess_limit)

    @property
    def root(self) -> sp.Expr:
        """r* for formulas: the expression, or a symbol of its own."""
        return _UNKNOWN if self.radius is None else self.radius

    @cached_property
    def incline(self) -> sp.Expr:
        """h/s in the free regime: ψ'(r*), or ψ'(∞) where r* is never finite."""
        if self.excess_limit == 0:
            return self.slope_limit
        return _below(self.slope.subs(r, self.root), c, self.excess_limit)

    @property
    def bounded(self) -> bool:
        """Whether the derivation has a bound M."""
        return math.isfinite(self.bound)

    @cached_property
    def keep_score(self) -> sp.Expr:
        """y*(w)."""
        return sp.Min(1, self._uncapped(self.root))

    def _uncapped(self, root: sp.Expr) -> sp.Expr:
        if self.excess_limit == 0:
            return m / M
        return sp.Max(m / M, s / root) if self.bounded else s / root

    @cached_property
    def regimes(self) -> sp.Piecewise:
        """h(w) − δ‖w‖² where r* is finite, with the condition of each regime."""
        if self.excess_limit == 0:
            return self.recession
        free, kept = self.incline * s, self._psi.subs(r, s) + c
        pieces = [(free, self._free), (self._bound_piece, True), (kept, True)]
        if self.bounded:
            pieces[1] = (self._bound_piece, s <= self.root)
        else:
            del pieces[1]
        return self._piecewise(pieces)

    @property
    def _free(self) -> sp.Basic:
        inside = s <= self.root
        return sp.And(m / M <= s / self.root, inside) if self.bounded else inside

    @property
    def _bound_piece(self) -> sp.Expr:
        share = m / M
        return sp.simplify(share * self._psi.subs(r, s / share)) + c * share

    @cached_property
    def recession(self) -> sp.Piecewise | None:
        """h(w) − δ‖w‖² where c ≥ F(∞), so that no r* is finite; None where that cannot be."""
        if self.excess_limit == sp.oo:
            return None
        if self.bounded:
            return self._piecewise([(self._bound_piece, True)])
        return self._piecewise([(self.slope_limit * s, True)])

    def _piecewise(self, pieces) -> sp.Piecewise:
        return sp.Piecewise(
            *((_simplified(value) - self.extract * s**2, when) for value, when in pieces),
            evaluate=False,
        )

    @cached_property
    def gradient(self) -> tuple[sp.Piecewise, sp.Piecewise]:
        """Derivatives of the regularizer by s and by m, by regime; at w = 0 both are taken as 0."""
        along, across = [], []
        for value, condition in self.regimes.args:
            along.append((_simplified(sp.diff(value, s)), condition))
            across.append((_simplified(sp.diff(value, m)), condition))
        return sp.Piecewise(*along, evaluate=False), sp.Piecewise(*across, evaluate=False)

    @cached_property
    def prox(self) -> sp.Piecewise | None:
        """‖prox(w)‖ of a step t for w with ‖w‖₂ = s, p = 2 and no bound, before the extraction.

        None for other norms and with a bound, where it is found by a search.
        """
        if self.norm != 2 or self.bounded or self.extract != 0:
            return None
        slack = s - t * self.incline
        if self.excess_limit == 0:
            return sp.Piecewise((0, s <= t * self.incline), (slack, True), evaluate=False)
        beyond = self._shrunk
        if beyond is None:
            equation = sp.Eq(sigma + t * self.slope.subs(r, sigma), s)
            beyond = sp.Function("root")(equation)
        else:
            beyond = beyond.subs(sp.Symbol("k", positive=True), t)
        return sp.Piecewise(
            (0, s <= t * self.incline), (slack, slack <= self.root), (beyond, True), evaluate=False
        )

    @cached_property
    def shrinkage_conjugate(self) -> sp.Expr | None:
        """ψ*(v) = sup_r v·r − ψ(r), without the bound, for v above ψ'(0+) and below ψ'(∞)."""
        inverse = self._inverse_slope
        if inverse is None:
            return None
        return _below(v * inverse - self._psi.subs(r, inverse), v, self.slope_limit)

    @property
    def conjugate(self) -> sp.Expr | None:
        """h*(v) = max(0, ψ*(v) − c) of the dual norm v, without the bound."""
        star = self.shrinkage_conjugate
        return None if star is None else sp.Max(0, star - c)

    @cached_property
    def block_indicator(self) -> sp.Expr | None:
        """z of a block whose k groups with s_i ≥ r*·z have the sum S of s_i^e, F(r) = K·r^e.

        None where indicators are not nested or F is no power.
        """
        power = _power(self.excess, r)
        if self.block_price is None or power is None:
            return None
        factor, exponent = power
        total, count = sp.symbols("S k", positive=True)
        return sp.Min(1, (factor * total / (c * count + C)) ** (1 / exponent))

    # ---- roots ----------------------------------------------------------------------------------

    @cached_property
    def _shrunk(self) -> sp.Expr | None:
        k = sp.Symbol("k", positive=True)
        if self._psi == 0:
            return s
        return self._solve(r + k * self.slope, r, s, sp.oo, k * self.slope_start, (k,))

    @cached_property
    def _inverse_slope(self) -> sp.Expr | None:
        if self.curvature == 0:
            return None
        return self._solve(self.slope, r, v, self.slope_limit, least=self.slope_start)

    def _solve(self, left, unknown, right, limit, least=sp.S.Zero, also=()) -> sp.Expr | None:
        """The root of left(unknown) = right for ``least`` < right < ``limit``, or None."""
        power = _power(left, unknown)
        if power is not None:
            return _simplified((right / power[0]) ** (1 / power[1]))
        if left.has(sp.Piecewise):
            return None
        free = sp.Symbol("x")  # without assumptions: sympy then loses no roots
        equation = left.subs(unknown, free) - right
        roots = within(_SOLVE_SECONDS, lambda: sp.solve(equation, free), [])
        for root in roots:
            root = _below(root, right, limit)
            if root.count_ops() > 60 or root.has(free, sp.I, sp.Piecewise, sp.LambertW):
                continue
            error = self._root_error(root, left, unknown, right, limit, least, also)
            if error <= _ROOT_TOLERANCE:
                return root
        return None

    def _root_error(
        self, root, left, unknown, right, limit, least, also=(), kind=np.float64
    ) -> float:
        """Largest relative residual of a root over samples of parameters and right-hand sides."""
        names = [*self.parameters, *(symbol.name for symbol in also)]
        arguments = [right.name, *names]
        found = compiled(array_function("root", arguments, root, "root"))["root"]
        held = compiled(array_function("left", [unknown.name, *names], left, "left"))["left"]
        worst = 0.0
        for factor in (1.0, 0.6, 1.7):
            values = {n: p.above + (p.value - p.above) * factor for n, p in self.parameters.items()}
            values |= {symbol.name: 0.7 * factor for symbol in also}
            top = float(limit.subs(self._symbolic(values)))
            bottom = float(least.subs(self._symbolic(values)))
            span = 1.0 if math.isinf(top) else (top - bottom) / 1.001
            reach = (-3, 3) if math.isinf(top) else (-3, 0)
            right_side = (bottom + span * np.logspace(*reach, 25)).astype(kind)
            with np.errstate(all="ignore"):
                numbers = {k: kind(x) for k, x in values.items()}
                x = np.asarray(found(np, right_side, **numbers)) + 0 * right_side
                residual = np.abs(held(np, x, **numbers) - right_side) / np.abs(right_side)
            if x.dtype != kind or not (np.isfinite(x).all() and (x >= 0).all()):
                return math.inf
            worst = max(worst, float(np.where(np.isfinite(residual), residual, np.inf).max()))
        return worst

    def _limit(self, expression: sp.Expr, at) -> sp.Expr:
        """Limit in r; p > 1 and the like are said by a shift, which sympy understands."""
        shifted = {
            sp.Symbol(name, positive=True): p.above + sp.Symbol(f"{name}_", positive=True)
            for name, p in self.parameters.items()
            if p.above
        }
        exact = {k: sp.nsimplify(e, rational=True) for k, e in shifted.items()}
        if expression.has(sp.Piecewise):  # the piece that holds there
            there = {**self._symbolic(self.defaults), r: 10**30 if at is sp.oo else 10**-30}
            expression = expression.replace(
                lambda e: isinstance(e, sp.Piecewise),
                lambda e: next(value for value, when in e.args if when.subs(there) == True),  # noqa: E712
            )
        lifted = _simplified(expression.subs(exact))
        found = within(_SOLVE_SECONDS, lambda: sp.limit(lifted, r, at, "+"), sp.nan)
        if found in (sp.nan, sp.zoo) or found.has(sp.Limit, sp.AccumBounds, sp.sign, r):
            raise InputError(f"no limit of {expression} as r → {at} is known: write φ otherwise")
        back = {
            sp.Symbol(f"{k.name}_", positive=True): k - self.parameters[k.name].above for k in exact
        }
        return sp.nsimplify(found.subs(back), rational=True) if back else found

    @staticmethod
    def _symbolic(values: Mapping[str, float]) -> dict[sp.Symbol, float]:
        return {sp.Symbol(name, positive=True): value for name, value in values.items()}

    # ---- numbers --------------------------------------------------------------------------------

    @property
    def defaults(self) -> dict[str, float]:
        """Values of the parameters."""
        return {name: p.value for name, p in self.parameters.items()}

    @cached_property
    def source(self) -> str:
        """Generated code of the profile: functions of arrays of any library."""
        names = list(self.parameters)
        k = sp.Symbol("k", positive=True)
        formulas = [
            ("value", ["r"], self._psi, "ψ(r)"),
            ("slope", ["r"], self.slope, "ψ'(r)"),
            ("curvature", ["r"], self.curvature, "ψ''(r)"),
            ("excess", ["r"], self.excess, "F(r) = r·ψ'(r) − ψ(r)"),
            ("slope_start", [], self.slope_start, "ψ'(0+)"),
            ("slope_limit", [], self.slope_limit, "ψ'(∞)"),
            ("excess_limit", [], self.excess_limit, "F(∞)"),
            ("extract", [], self.extract, "δ"),
            ("radius", ["c"], self.radius, "r* with F(r*) = c"),
            ("inverse_slope", ["v"], self._inverse_slope, "ρ with ψ'(ρ) = v"),
        ]
        shrunk = self._shrunk
        if shrunk is not None:
            single = self._root_error(
                *(shrunk, r + k * self.slope, r, s, sp.oo, k * self.slope_start, (k,)), np.float32
            )
            if single <= _SINGLE_TOLERANCE:
                formulas.append(("shrunk", ["s", "k"], shrunk, "σ with σ + k·ψ'(σ) = s"))
        ratio = _simplified(self._psi / r**2)
        if self.norm == 2 and self._psi != 0 and not ratio.has(r):
            formulas.append(("ridge", [], ratio, "a, where ψ = a·r²"))
        return "\n\n".join(
            array_function(name, [*arguments, *names], expression, summary)
            for name, arguments, expression, summary in formulas
            if expression is not None
        )

    @cached_property
    def _code(self) -> dict[str, Callable]:
        return compiled(self.source)

    @property
    def _extract(self) -> Callable:
        return self._code["extract"]

    @cached_property
    def profile(self) -> Profile:
        """ψ and what follows from it, compiled."""
        code = self._code
        names = (
            *("value", "slope", "curvature", "excess", "slope_start", "slope_limit"),
            *("excess_limit", "radius", "shrunk", "inverse_slope", "ridge"),
        )
        definition = {
            "phi": str(self.phi),
            "norm": self.norm,
            "ball": self.ball,
            "extract": str(self.extract),
        }
        formulas = {name: code.get(name) for name in names}
        return Profile(self.norm, self.ball, **formulas, definition=definition, source=self.source)

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
        """The term in numbers where groups are nested in blocks.

        Parameters
        ----------
        blocks : (G,) integers from 0
            The block of every group.
        block_price : float or (B,) array, optional
            C.
        Others as in :meth:`term`.

        Raises
        ------
        InputError
            If the derivation has no block price, a norm other than ‖·‖₂, a bound or an extraction.
        """
        from formulations.nested import NestedTerm

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
        numbers = {name: np.asarray(value, np.float64) for name, value in values.items()}
        return {
            "profile": self.profile,
            "price": self.price if price is None else price,
            "bound": self.bound if bound is None else bound,
            "weight": weight,
            "extract": self._extract(np, **numbers) * np.asarray(weight),
            "parameters": numbers,
        }

    def validate(self) -> None:
        """Raise InputError unless the numbers make sense: see :func:`derive`."""
        for name, parameter in self.parameters.items():
            parameter.check(name, parameter.value)
        values = self._symbolic(self.defaults)
        shown = self.phi
        start = within(_SOLVE_SECONDS, lambda: sp.limit(self._psi.subs(values), r, 0, "+"), sp.nan)
        if start.is_number and start.is_finite and abs(start) < 1e-12:
            start = sp.S.Zero
        if start != 0:
            raise InputError(f"φ(0) must be 0: {shown} is {_plain(start)} at r = 0")
        code = compiled(
            "\n".join(
                array_function(name, ["r", *self.parameters], e, name)
                for name, e in (("value", self._psi), ("slope", self.slope))
            )
        )
        with np.errstate(all="ignore"):
            value = code["value"](np, _GRID, **self.defaults) + 0 * _GRID
            slope = code["slope"](np, _GRID, **self.defaults) + 0 * _GRID
        # an exponential may overflow far out: judge it where it is a number
        known = np.isfinite(value) & np.isfinite(slope)
        first = int(np.argmin(known)) if not known.all() else len(_GRID)
        if first < 1000 or np.iscomplexobj(value):
            raise InputError(f"{shown} is no real number at r = {_GRID[min(first, 2000)]:.3g}")
        slope = slope[:first]
        if slope[0] < -1e-12:
            at = _GRID[0]
            raise InputError(f"φ decreases: the slope of {shown} is {slope[0]:.3g} at r = {at:.3g}")
        drop = np.diff(slope)
        worst = drop + 1e-9 * np.abs(slope[:-1])
        if (worst < 0).any():
            # the clearest point, not the first one that rounding might doubt
            at = int((drop / np.diff(_GRID[:first])).argmin())
            left, right = _GRID[at], _GRID[at + 1]
            raise InputError(
                f"φ is not convex: the slope of {shown} falls from {slope[at]:.6g} at "
                f"r = {left:.4g} to {slope[at + 1]:.6g} at r = {right:.4g}"
            )
        delta = self.extract.subs(values)
        if not (delta.is_number and delta >= 0):
            raise InputError(f"the extraction must not be negative: {self.extract} is {delta}")
        self.term()


def _plain(number: sp.Expr) -> str:
    return f"{float(number):g}" if number.is_number and number.is_finite else "not finite"


def _simplified(expression: sp.Expr) -> sp.Expr:
    return within(_SIMPLIFY_SECONDS, lambda: sp.simplify(expression), expression)


def _below(expression: sp.Expr, lesser: sp.Symbol, limit: sp.Expr) -> sp.Expr:
    """Simplified for ``lesser`` below ``limit``, which is said by limit = lesser + something."""
    if not limit.is_Symbol:
        return _simplified(expression)
    rest = sp.Symbol("rest", positive=True)
    lifted = _simplified(expression.subs(limit, lesser + rest))
    return _simplified(lifted.subs(rest, limit - lesser))


def _power(expression: sp.Expr, unknown: sp.Symbol) -> tuple[sp.Expr, sp.Expr] | None:
    """(K, e) with expression = K·unknown^e, or None."""
    if not expression.has(unknown) or expression.has(sp.Piecewise):
        return None
    exponent = _simplified(unknown * sp.diff(expression, unknown) / expression)
    if exponent.has(unknown) or exponent == 0:
        return None
    factor = _simplified(expression / unknown**exponent)
    return None if factor.has(unknown) else (factor, exponent)


class _Verb(ModuleType):
    """Importing this module binds ``formulations.derive`` to it, hiding the function of the same
    name that the package offers: so the module itself can be called."""

    def __call__(self, *args: Any, **options: Any) -> Derivation:
        return derive(*args, **options)


sys.modules[__name__].__class__ = _Verb
