"""From what a user writes to a derivation."""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from typing import SupportsFloat

import sympy as sp

from formulations.errors import InputError
from formulations.symbolic.derivation import Derivation
from formulations.symbolic.equations import RESERVED, Parameter, r
from formulations.symbolic.parsing import parse
from formulations.symbolic.validation import validate

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
    known = {**PARAMETERS, **_parameters(parameters)}
    symbols = {"r": r, **{name: sp.Symbol(name, positive=True) for name in known}}
    psi = _expression(phi, symbols)
    delta = _expression(extract, {name: x for name, x in symbols.items() if name != "r"})
    used = {symbol.name for e in (psi, delta) for symbol in e.free_symbols} - {"r"}
    spare = [name for name in parameters if name not in used]
    if spare:
        raise InputError(f"the parameter {spare[0]!r} does not occur in {psi}")
    order, price = _norm(norm, ball), _positive("price", price)
    bound = _positive("bound", bound, infinite=True)
    if block_price is not None:
        block_price = _positive("block_price", block_price)
        if order != 2 or math.isfinite(bound) or delta != 0:
            raise InputError("nested indicators go with the norm ‖·‖₂, without bound or extraction")
    chosen = {name: value for name, value in known.items() if name in used}
    derivation = Derivation(psi, chosen, price, bound, ball, order, delta, block_price)
    try:
        validate(derivation)
        derivation.term()
    except (ArithmeticError, TypeError) as error:
        raise InputError(f"{psi} cannot be evaluated: {error}") from None
    return derivation


def _parameters(given: Mapping[str, float | Parameter]) -> dict[str, Parameter]:
    """The parameters that a user named; an exponent keeps the limit that its name has."""
    found = {}
    for name, value in given.items():
        if name in RESERVED or not name.isidentifier() or keyword.iskeyword(name):
            raise InputError(f"{name!r} cannot name a parameter: it has a meaning of its own")
        if not isinstance(value, Parameter):
            above = PARAMETERS[name].above if name in PARAMETERS else 0.0
            value = Parameter(_number(name, value), above)
        found[name] = value
    return found


def _norm(given: SupportsFloat, ball: bool) -> float:
    """The p of the norm, which a ball must be of too."""
    norm = _number("norm", given)
    if not norm >= 1 or not math.isfinite(norm):
        raise InputError(f"norm must be a number from 1: it is {norm:g}")
    if ball and norm != 2:
        raise InputError("the bound ‖w‖₂ ≤ M goes with the norm ‖·‖₂; others take ‖w‖∞ ≤ M")
    return norm


def _positive(name: str, given: SupportsFloat, infinite: bool = False) -> float:
    value = _number(name, given)
    if not value > 0:
        raise InputError(f"{name} must be positive: it is {value:g}")
    if math.isinf(value) and not infinite:
        raise InputError(f"{name} must be a finite number: it is {value:g}")
    return value


def _number(name: str, given: SupportsFloat) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number: it is {given!r}") from None


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
