"""Expressions in and out of sympy: read without evaluating Python, written as array code."""

from __future__ import annotations

import ast
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from formulations.errors import InputError

# by name in an expression, and in the array API standard
_FUNCTIONS = {
    "sqrt": sp.sqrt,
    "exp": sp.exp,
    "log": sp.log,
    "sinh": sp.sinh,
    "cosh": sp.cosh,
    "tanh": sp.tanh,
    "asinh": sp.asinh,
    "acosh": sp.acosh,
    "sin": sp.sin,
    "cos": sp.cos,
    "atan": sp.atan,
    "abs": sp.Abs,
    "max": sp.Max,
    "min": sp.Min,
}
_OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_LONGEST = 500  # characters
_BITS = 332  # of a number that is computed: below 1e100
_LARGEST = 64  # an exponent that is a number, and digits of a number

T = TypeVar("T")


def parse(text: str, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    """Read an expression such as ``a*(sqrt(1 + r**2) - 1)``; nothing of it is run.

    Parameters
    ----------
    text : str
        Numbers, the names in ``symbols``, ``+ - * / **`` and the functions sqrt, exp, log, sinh, cosh,
        tanh, asinh, acosh, sin, cos, atan, abs, max, min.
    symbols : mapping
        Symbol of every name that may occur.

    Raises
    ------
    InputError
        In one line: no expression, an unknown symbol or function, a number that is too large.
    """
    shown = " ".join(text.split())
    if not shown or len(shown) > _LONGEST:
        raise InputError(f"an expression has 1 to {_LONGEST} characters: this has {len(shown)}")
    try:
        tree = ast.parse(shown, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{shown!r} is not an expression") from None

    def moderate(part: sp.Expr) -> sp.Expr:
        """Powers of powers multiply their exponents, and numbers grow."""
        for power in part.atoms(sp.Pow):
            if power.exp.is_number and not abs(power.exp) <= _LARGEST:
                raise InputError(f"{shown!r}: the exponent {power.exp} is too large")
        if any(max(abs(n.p), n.q).bit_length() > _BITS for n in part.atoms(sp.Rational)):
            raise InputError(f"{shown!r}: a number is too large")
        return part

    def build(node: ast.AST) -> sp.Expr:
        match node:
            case ast.Constant(value=bool() | str() | bytes() | complex() | None):
                raise InputError(f"{shown!r}: {node.value!r} is not a number")
            case ast.Constant(value=int() | float()):
                digits = ast.get_source_segment(shown, node) or ""
                if len(digits) > _LARGEST or not abs(node.value) < 1e100:
                    raise InputError(f"{shown!r}: a number is too large")
                return sp.Rational(digits.replace("_", ""))
            case ast.Name(id=name):
                if name not in symbols:
                    known = ", ".join(symbols)
                    raise InputError(f"{shown!r}: unknown symbol {name!r}; known are {known}")
                return symbols[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -build(inner)
            case ast.UnaryOp(op=ast.UAdd(), operand=inner):
                return build(inner)
            case ast.BinOp(op=ast.BitXor()):
                raise InputError(f"{shown!r}: write a power as **")
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                a, b = build(left), build(right)
                if isinstance(op, ast.Pow) and b.is_number and not abs(b) <= _LARGEST:
                    raise InputError(f"{shown!r}: the exponent {b} is too large")
                return moderate(_OPERATORS[type(op)](a, b))
            case ast.Call(func=ast.Name(id=written), args=args, keywords=[]):
                name = written.lower()  # sympy itself writes Max, Abs
                if name not in _FUNCTIONS:
                    known = ", ".join(_FUNCTIONS)
                    raise InputError(f"{shown!r}: unknown function {written!r}; known are {known}")
                many = name in ("max", "min")
                if (len(args) < 2) if many else (len(args) != 1):
                    raise InputError(f"{shown!r}: {name} takes {'two' if many else 'one'}")
                return _FUNCTIONS[name](*map(build, args))
        part = ast.get_source_segment(shown, node) or shown
        raise InputError(f"{shown!r} is not an expression: {part!r} cannot stand in one")

    try:
        return build(tree.body)
    except (RecursionError, TypeError):
        raise InputError(f"{shown!r} is not an expression") from None


class _ArrayPrinter(PythonCodePrinter):
    """Python code in the names of the array API standard, its namespace ``xp`` an argument."""

    def __init__(self):
        super().__init__({"fully_qualified_modules": True, "standard": "python3"})
        self.known_functions = {
            name: f"xp.{name}" for name in _FUNCTIONS.keys() - {"sqrt", "abs", "max", "min"}
        } | {"Abs": "xp.abs"}

    def _print_Pow(self, expr, rational=False):
        return self._hprint_Pow(expr, rational=rational, sqrt="xp.sqrt")

    def _print_Infinity(self, expr):
        return 'float("inf")'

    def _print_Exp1(self, expr):
        return repr(float(expr))

    def _print_Pi(self, expr):
        return repr(float(expr))

    def _print_Piecewise(self, expr):
        *pieces, (last, _) = expr.args
        code = self._print(last)
        for value, condition in reversed(pieces):
            code = f"xp.where({self._print(condition)}, {self._print(value)}, {code})"
        return code

    def _print_And(self, expr):
        return " & ".join(f"({self._print(part)})" for part in expr.args)

    def _print_Or(self, expr):
        return " | ".join(f"({self._print(part)})" for part in expr.args)


def array_function(name: str, arguments: Sequence[str], expression: sp.Expr, summary: str) -> str:
    """Source of ``def name(xp, arguments…)`` that computes an expression on arrays.

    Raises
    ------
    InputError
        If something in the expression has no counterpart in the array API standard.
    """
    expression = expression.rewrite(sp.Piecewise) if expression.has(sp.Max, sp.Min) else expression
    if expression.has(sp.Heaviside):
        expression = expression.rewrite(sp.Piecewise)
    try:
        code = _ArrayPrinter().doprint(expression)
    except (NotImplementedError, KeyError):
        code = "math."
    if "math." in code:  # a function that the printer above does not rename
        raise InputError(f"the array API has no function for {expression}")
    signature = ", ".join(["xp", *arguments])
    return f'def {name}({signature}):\n    """{summary}"""\n    return {code}\n'


class _Late(BaseException):
    """The time is over. No Exception, because sympy catches those and goes on."""


def within(seconds: float, work: Callable[[], T], otherwise: T) -> T:
    """The result of symbolic work, or ``otherwise`` if it fails or takes longer.

    Processor time counts, so that the answer does not depend on what else the machine does.

    The limit holds in the main thread of systems with interval timers; elsewhere there is none.
    """

    def stop(*_):
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
