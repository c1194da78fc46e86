"""What a derivation asks of sympy: symbols, limits, and roots that are believed only if they hold.

All symbols are positive. Every question has a time limit: sympy may search for minutes for a root
that is then no use, and a derivation does without it. What takes longest, to simplify and to solve,
is asked once in a process: one φ at another price, in other norms or bounds asks the same again.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from formulations.errors import InputError
from formulations.symbolic.printing import array_function
from formulations.symbolic.scaling import without_powers
from formulations.terms.generated import compiled

# r: norm of w/y; s: norm of w; m: the norm of w that the bound limits; y, c, M as in the term; C:
# price of a block; v: dual norm; t: length of a proximal step; k: factor of ψ in one
r, s, m, y, c, M, C, v, t, k = sp.symbols("r s m y c M C v t k", positive=True)
RESERVED = {"r", "s", "m", "y", "c", "M", "C", "v", "t", "k", "S", "xp", "float"}

_SIMPLIFY_SECONDS = 1.0
_SOLVE_SECONDS = 1.0
# Without its limits there is no derivation, and nothing takes their place.
_LIMIT_SECONDS = 10.0
# A symbolic root is believed where it solves its equation to this, relative, on all samples.
_ROOT_TOLERANCE = 1e-11
_LONGEST_ROOT = 60  # operations; a longer one tells nobody anything
_REMEMBERED = 1024  # answers; a derivation has some ten to thirty

T = TypeVar("T")


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

    def check(self, name: str, value: ArrayLike) -> None:
        """Raise InputError unless every number is above the limit."""
        values = np.asarray(value, np.float64)
        wrong = ~((values > self.above) & np.isfinite(values))
        if wrong.any():
            raise InputError(f"{name} must be above {self.above:g}: it is {values[wrong][0]:g}")


Parameters = Mapping[str, Parameter]


@dataclass(frozen=True)
class Equation:
    """left(unknown) = right, with left increasing, for ``least`` < right < ``limit``.

    Parameters
    ----------
    left : sympy expression
    unknown, right : sympy symbols
    limit, least : sympy expressions
    also : tuple of symbols
        Others than the parameters of φ that occur.
    """

    left: sp.Expr
    unknown: sp.Symbol
    right: sp.Symbol
    limit: sp.Expr = sp.oo
    least: sp.Expr = sp.S.Zero
    also: tuple[sp.Symbol, ...] = ()

    def root(self, parameters: Parameters) -> sp.Expr | None:
        """The unknown, or None where sympy finds no root that holds."""
        monomial = power(self.left, self.unknown)
        if monomial is not None:
            factor, exponent = monomial
            return simplified((self.right / factor) ** (1 / exponent))
        if self.left.has(sp.Piecewise):
            return None
        free = sp.Symbol("x")  # without assumptions: sympy then loses no roots
        for root in _solved(self.left.subs(self.unknown, free) - self.right, free):
            root = simplified_below(root, self.right, self.limit)
            if root.count_ops() > _LONGEST_ROOT or root.has(free, sp.I, sp.Piecewise, sp.LambertW):
                continue
            if self.error(root, parameters) <= _ROOT_TOLERANCE:
                return root
        return None

    def error(self, root: sp.Expr, parameters: Parameters, kind: type = np.float64) -> float:
        """Largest relative residual over samples of parameters and right-hand sides."""
        names = [*parameters, *(symbol.name for symbol in self.also)]
        source = array_function("root", [self.right.name, *names], root, "root")
        source += array_function("left", [self.unknown.name, *names], self.left, "left")
        code = compiled(source)
        worst = 0.0
        for factor in (1.0, 0.6, 1.7):
            values = {n: p.above + (p.value - p.above) * factor for n, p in parameters.items()}
            values |= {symbol.name: 0.7 * factor for symbol in self.also}
            top, bottom = (float(e.subs(substitution(values))) for e in (self.limit, self.least))
            if math.isinf(top):
                right = bottom + np.logspace(-3, 3, 25)
            else:
                right = bottom + (top - bottom) / 1.001 * np.logspace(-3, 0, 25)
            right = right.astype(kind)
            numbers = {name: kind(value) for name, value in values.items()}
            with np.errstate(all="ignore"):
                x = np.asarray(code["root"](np, right, **numbers)) + 0 * right
                residual = np.abs(code["left"](np, x, **numbers) - right) / np.abs(right)
            sound = x.dtype == kind and np.isfinite(x).all() and (x >= 0).all()
            if not sound or not np.isfinite(residual).all():
                return math.inf
            worst = max(worst, float(residual.max()))
        return worst


def limit(expression: sp.Expr, at: sp.Expr, parameters: Parameters) -> sp.Expr:
    """The limit as r → ``at`` from inside.

    Raises
    ------
    InputError
        If sympy knows none.
    """
    # p > 1 is said by p = 1 + something positive, which sympy understands
    lifted, back = {}, {}
    for name, parameter in parameters.items():
        if parameter.above:
            symbol, rest = sp.Symbol(name, positive=True), sp.Symbol(f"{name}_", positive=True)
            above = sp.nsimplify(parameter.above, rational=True)
            lifted[symbol], back[rest] = above + rest, symbol - above
    if expression.has(sp.Piecewise):
        expression = _piece(expression, at, parameters)
    inner = simplified(expression.subs(lifted))
    found = within(_LIMIT_SECONDS, lambda: sp.limit(inner, r, at, "+"), sp.nan)
    if found in (sp.nan, sp.zoo) or found.has(sp.Limit, sp.AccumBounds, sp.sign, r):
        raise InputError(f"no limit of {expression} as r → {at} is known: write φ otherwise")
    return found.subs(back)


def _piece(expression: sp.Expr, at: sp.Expr, parameters: Parameters) -> sp.Expr:
    """The expression with every Piecewise replaced by the piece that holds near ``at``."""
    values = {name: parameter.value for name, parameter in parameters.items()}
    near = substitution(values) | {r: sp.Integer(10) ** (30 if at is sp.oo else -30)}

    def choose(piecewise: sp.Piecewise) -> sp.Expr:
        for value, when in piecewise.args:
            if bool(when.subs(near)):
                return value
        raise InputError(f"{piecewise} is not said for r = {near[r]}")

    return expression.replace(lambda e: isinstance(e, sp.Piecewise), choose)


def substitution(values: Mapping[str, float]) -> dict[sp.Symbol, float]:
    """Values by symbol instead of by name."""
    return {sp.Symbol(name, positive=True): value for name, value in values.items()}


@lru_cache(_REMEMBERED)
def _solved(expression: sp.Expr, unknown: sp.Symbol) -> list[sp.Expr]:
    """Where the expression is 0, or nothing where that takes too long."""
    return within(_SOLVE_SECONDS, lambda: sp.solve(expression, unknown), [])


@lru_cache(_REMEMBERED)
def simplified(expression: sp.Expr) -> sp.Expr:
    """Sympy's simplification, or the expression as it is where that takes too long."""
    return without_powers(within(_SIMPLIFY_SECONDS, lambda: sp.simplify(expression), expression))


def simplified_below(expression: sp.Expr, lesser: sp.Symbol, limit: sp.Expr) -> sp.Expr:
    """Simplified for ``lesser`` below ``limit``, which is said by limit = lesser + something."""
    if not limit.is_Symbol:
        return simplified(expression)
    rest = sp.Symbol("rest", positive=True)
    lifted = simplified(expression.subs(limit, lesser + rest))
    return simplified(lifted.subs(rest, limit - lesser))


def power(expression: sp.Expr, unknown: sp.Symbol) -> tuple[sp.Expr, sp.Expr] | None:
    """(K, e) with expression = K·unknown^e, or None."""
    if not expression.has(unknown) or expression.has(sp.Piecewise):
        return None
    exponent = simplified(unknown * sp.diff(expression, unknown) / expression)
    if exponent.has(unknown) or exponent == 0:
        return None
    factor = simplified(expression / unknown**exponent)
    return None if factor.has(unknown) else (factor, exponent)


class _Late(BaseException):
    """The time is over. No Exception, because sympy catches those and goes on."""


def within(seconds: float, work: Callable[[], T], otherwise: T) -> T:
    """The result of symbolic work, or ``otherwise`` if it fails or takes longer.

    Processor time counts, so that the answer does not depend on what else the machine does. The
    limit holds in the main thread of systems with interval timers; elsewhere there is none.
    """

    def stop(*_: object) -> None:
        raise _Late

    main = threading.current_thread() is threading.main_thread()
    timed = main and hasattr(signal, "setitimer")
    if timed:
        before = signal.signal(signal.SIGPROF, stop)
        # again and again: a first one may be lost in a callback, where nothing can be raised
        signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        try:
            return work()
        finally:
            if timed:
                signal.setitimer(signal.ITIMER_PROF, 0)
    # sympy raises almost anything where it has no answer
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return otherwise
    except _Late:
        return otherwise
    finally:
        if timed:  # the timer once more, in case it went off while it was stopped
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
