"""Sympy expressions as array code, in the names of the array API standard."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from formulations.errors import InputError
from formulations.symbolic.scaling import tamed
from formulations.terms.generated import ARRAY_FUNCTIONS


class _ArrayPrinter(PythonCodePrinter):
    """Python code whose namespace ``xp`` is an argument."""

    def __init__(self) -> None:
        super().__init__({"fully_qualified_modules": True, "standard": "python3"})
        self.known_functions = {
            name: f"xp.{name}" for name in ARRAY_FUNCTIONS - {"sqrt", "abs", "where"}
        } | {"Abs": "xp.abs"}

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        return self._hprint_Pow(expr, rational=rational, sqrt="xp.sqrt")

    def _print_Infinity(self, expr: sp.Expr) -> str:
        return 'float("inf")'

    def _print_Exp1(self, expr: sp.Expr) -> str:
        return repr(float(expr))

    def _print_Pi(self, expr: sp.Expr) -> str:
        return repr(float(expr))

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        *pieces, (last, _) = expr.args
        code = self._print(last)
        for value, condition in reversed(pieces):
            code = f"xp.where({self._print(condition)}, {self._print(value)}, {code})"
        return code

    def _print_And(self, expr: sp.And) -> str:
        return " & ".join(f"({self._print(part)})" for part in expr.args)

    def _print_Or(self, expr: sp.Or) -> str:
        return " | ".join(f"({self._print(part)})" for part in expr.args)


def array_function(name: str, arguments: Sequence[str], expression: sp.Expr, summary: str) -> str:
    """Source of ``def name(xp, arguments…)`` that computes an expression on arrays.

    Where an exponential in it is large it is written otherwise, so that it overflows only with its
    value (:mod:`formulations.symbolic.scaling`).

    Parameters
    ----------
    name : str
    arguments : sequence of str
        Names of the expression's symbols, in the order of the function's arguments.
    expression : sympy expression
    summary : str
        The function's docstring.

    Raises
    ------
    InputError
        If something in the expression has no counterpart in the array API standard.
    """
    expression = expression.rewrite(sp.Piecewise) if expression.has(sp.Max, sp.Min) else expression
    if expression.has(sp.Heaviside):
        expression = expression.rewrite(sp.Piecewise)
    expression = tamed(expression)
    try:
        code = _ArrayPrinter().doprint(expression)
    except (NotImplementedError, KeyError):
        code = "math."
    if "math." in code:  # a function that the printer above does not rename
        raise InputError(f"the array API has no function for {expression}")
    signature = ", ".join(["xp", *arguments])
    return f'def {name}({signature}):\n    """{summary}"""\n    return {code}\n'
