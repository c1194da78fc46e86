"""Expressions with exponentials so that floats hold them wherever they hold their value.

cosh(800) is beyond float64, log(cosh(800)) is not. Every part of an expression is carried here as a
mantissa times e to a scale, both symbolic:

    exp(u) = 1·e^u,     m·e^k · n·e^l = mn·e^(k+l),     (m·e^l)^p = m^p·e^(pl),
    m·e^k + n·e^l = (m·e^(k−h) + n·e^(l−h))·e^h,  h = max(k, l),     log(m·e^l) = l + log m,

and only what is left of the scale at the end is an exponential that may overflow: then so does the
value.
"""

from __future__ import annotations

import sympy as sp

# Below, the expression itself is as good, and its cube within float64.
_PLAIN = 30

_GROWING = (sp.exp, sp.cosh, sp.sinh)
_Scaled = tuple[sp.Expr, sp.Expr]  # mantissa, scale


def without_powers(expression: sp.Expr) -> sp.Expr:
    """The expression with log(b^u) as u·log b where u grows like an exponential.

    Sympy's simplification likes the former, whose b^u is 0 or infinite in floats.
    """
    return expression.replace(
        lambda e: isinstance(e, sp.log) and e.args[0].is_Pow and e.args[0].exp.has(*_GROWING),
        lambda e: e.args[0].exp * sp.log(e.args[0].base),
    )


def tamed(expression: sp.Expr) -> sp.Expr:
    """The same expression, in another form where an exponential in it is large.

    Parameters
    ----------
    expression : sympy expression
        In positive symbols. Without exponentials it stays as it is.
    """
    if expression.has(sp.Piecewise):
        return expression.replace(
            lambda part: isinstance(part, sp.Piecewise),
            lambda part: sp.Piecewise(
                *((tamed(value), when) for value, when in part.args), evaluate=False
            ),
        )
    growing = [part.args[0] for part in expression.atoms(*_GROWING)]
    small = [sp.Abs(u) < _PLAIN for u in growing if u.free_symbols]
    if not small:
        return expression
    beyond = _whole(expression.rewrite([sp.cosh, sp.sinh], sp.exp)).rewrite(sp.Piecewise)
    return sp.Piecewise((expression, sp.And(*small)), (beyond, True), evaluate=False)


def _scaled(e: sp.Expr) -> _Scaled:
    """(m, l) with e = m·exp(l)."""
    one, zero = sp.S.One, sp.S.Zero
    match e:
        case sp.exp():
            return one, _whole(e.args[0])
        case sp.log():
            mantissa, scale = _scaled(e.args[0])
            return scale + sp.log(mantissa), zero
        case sp.Mul():
            parts = [_scaled(part) for part in e.args]
            return sp.Mul(*(m for m, _ in parts)), sp.Add(*(scale for _, scale in parts))
        case sp.Pow() if not e.exp.has(*_GROWING):
            mantissa, scale = _scaled(e.base)
            return mantissa**e.exp, scale * e.exp
        case sp.Add():
            parts = [_scaled(part) for part in e.args]
            largest = sp.Max(*(scale for _, scale in parts))
            return sp.Add(*(m * sp.exp(scale - largest) for m, scale in parts)), largest
    if not e.args:
        return e, zero
    return e.func(*(_whole(part) for part in e.args)), zero


def _whole(e: sp.Expr) -> sp.Expr:
    mantissa, scale = _scaled(e)
    return mantissa * sp.exp(scale)
