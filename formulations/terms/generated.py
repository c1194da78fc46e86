"""Generated formulas: from source text to functions.

:mod:`formulations.symbolic.printing` writes every formula of a profile as a function of one line in
the names of the array API standard. A profile keeps that text, and a copy of it in another process
is compiled from the text again. Nothing but such functions is compiled, so that text from a file
runs no code of another kind.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache

from formulations.arrays import AnyArray
from formulations.errors import InputError

Formula = Callable[..., AnyArray]  # (xp, argument, **parameters) to an array

# What a formula may call of an array library.
ARRAY_FUNCTIONS = frozenset(
    (
        *("sqrt", "exp", "log", "sinh", "cosh", "tanh", "asinh", "acosh", "sin", "cos", "atan"),
        *("abs", "where"),
    )
)

_NODES = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Expr, ast.Return),
    *(ast.Constant, ast.Name, ast.Load, ast.Attribute, ast.Call),
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop),
)


@lru_cache(maxsize=256)
def compiled(source: str) -> Mapping[str, Formula]:
    """The functions of generated source, by name.

    Parameters
    ----------
    source : str
        Functions ``def name(xp, …): return …`` of arithmetic, comparisons and the functions in
        :data:`ARRAY_FUNCTIONS`.

    Raises
    ------
    InputError
        If the source holds anything else.
    """
    tree = ast.parse(source, "<generated>")
    for node in ast.walk(tree):
        _check(node)
    if not all(isinstance(statement, ast.FunctionDef) for statement in tree.body):
        raise InputError("generated source has functions alone")
    namespace: dict[str, Formula] = {}
    # libraries that load parts of themselves when they are called do it by this frame's __import__
    builtins = {"float": float, "__import__": __import__}
    exec(compile(tree, "<generated>", "exec"), {"__builtins__": builtins}, namespace)
    return namespace


def _check(node: ast.AST) -> None:
    sound = isinstance(node, _NODES)
    if isinstance(node, ast.FunctionDef):
        sound = not node.decorator_list and node.args.kwarg is None
    if isinstance(node, ast.Attribute):
        library = isinstance(node.value, ast.Name) and node.value.id == "xp"
        sound = library and node.attr in ARRAY_FUNCTIONS
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        sound = node.func.id == "float"
    if not sound:
        raise InputError(f"generated source has no {type(node).__name__}: {ast.unparse(node)}")
