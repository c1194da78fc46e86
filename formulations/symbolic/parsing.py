"""Expressions of users as sympy expressions, read without evaluating Python.

The text passes through Python's :mod:`ast` into sympy's constructors, node by node. Numbers stay
exact and moderate, so that no short text can keep sympy busy for ever.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import sympy as sp

from formulations.errors import InputError

# by name in an expression
FUNCTIONS: Mapping[str, Callable[..., sp.Expr]] = {
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
_OPERATORS: Mapping[type[ast.operator], Callable[[sp.Expr, sp.Expr], sp.Expr]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_LONGEST = 500  # characters
_BITS = 332  # of a number that is computed: below 1e100
_LARGEST = 64  # an exponent that is a number, and digits of a number


def parse(text: str, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    """Read an expression such as ``a*(sqrt(1 + r**2) - 1)``; nothing of it is run.

    Parameters
    ----------
    text : str
        Numbers, the names in ``symbols``, ``+ - * / **`` and the functions sqrt, exp, log, sinh,
        cosh, tanh, asinh, acosh, sin, cos, atan, abs, max, min.
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
    try:
        return _Reader(shown, symbols).read(tree.body)
    except (RecursionError, TypeError):
        raise InputError(f"{shown!r} is not an expression") from None


class _Reader:
    """From nodes of a text to sympy; what cannot stand in an expression is refused by its text."""

    def __init__(self, shown: str, symbols: Mapping[str, sp.Symbol]) -> None:
        self.shown, self.symbols = shown, symbols

    def read(self, node: ast.expr) -> sp.Expr:
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.Name(id=name):
                return self._symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -self.read(inner)
            case ast.UnaryOp(op=ast.UAdd(), operand=inner):
                return self.read(inner)
            case ast.BinOp():
                self._check_operator(node)
                return self._combined(node.op, self.read(node.left), self.read(node.right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._function(name, len(arguments))(*map(self.read, arguments))
        raise self._misplaced(node)

    def _number(self, node: ast.Constant) -> sp.Expr:
        if node.value is Ellipsis:
            raise self._misplaced(node)
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise InputError(f"{self.shown!r}: {node.value!r} is not a number")
        digits = ast.get_source_segment(self.shown, node) or ""
        if len(digits) > _LARGEST or not abs(node.value) < 1e100:
            raise InputError(f"{self.shown!r}: a number is too large")
        return sp.Rational(digits.replace("_", ""))

    def _symbol(self, name: str) -> sp.Symbol:
        if name not in self.symbols:
            known = ", ".join(self.symbols)
            raise InputError(f"{self.shown!r}: unknown symbol {name!r}; known are {known}")
        return self.symbols[name]

    def _check_operator(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitXor):
            raise InputError(f"{self.shown!r}: write a power as **")
        if type(node.op) not in _OPERATORS:
            raise self._misplaced(node)

    def _combined(self, operator: ast.operator, left: sp.Expr, right: sp.Expr) -> sp.Expr:
        """The result, if its numbers are moderate."""
        if isinstance(operator, ast.Pow) and right.is_number:
            self._check_exponent(right)
        result = _OPERATORS[type(operator)](left, right)
        # powers of powers multiply their exponents, and numbers grow
        for power in result.atoms(sp.Pow):
            if power.exp.is_number:
                self._check_exponent(power.exp)
        if any(max(abs(n.p), n.q).bit_length() > _BITS for n in result.atoms(sp.Rational)):
            raise InputError(f"{self.shown!r}: a number is too large")
        return result

    def _check_exponent(self, exponent: sp.Expr) -> None:
        if not abs(exponent) <= _LARGEST:
            raise InputError(f"{self.shown!r}: the exponent {exponent} is too large")

    def _function(self, written: str, arguments: int) -> Callable[..., sp.Expr]:
        name = written.lower()  # sympy itself writes Max, Abs
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise InputError(f"{self.shown!r}: unknown function {written!r}; known are {known}")
        many = name in ("max", "min")
        if (arguments < 2) if many else (arguments != 1):
            raise InputError(f"{self.shown!r}: {name} takes {'two' if many else 'one'}")
        return FUNCTIONS[name]

    def _misplaced(self, node: ast.AST) -> InputError:
        part = ast.get_source_segment(self.shown, node) or self.shown
        return InputError(f"{self.shown!r} is not an expression: {part!r} cannot stand in one")
