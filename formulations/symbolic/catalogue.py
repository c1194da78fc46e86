"""The terms that ship, by name, and terms of a user's own, by file, entry point or expression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from formulations import plugins
from formulations.errors import InputError
from formulations.symbolic.definition import derive
from formulations.symbolic.derivation import Derivation
from formulations.terms.term import Term
from formulations.user_files import load, reference

# Other packages add terms under this name: derivations, as made by derive.
ENTRY_POINTS = "formulations.terms"

# name: (φ, what derive is told beside it, what it is)
CATALOGUE: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "square": ("a*r**2", {}, "Structured Perspective Regularization (reverse Huber of the norm)"),
    "power": ("a*r**p", {}, "any power above 1"),
    "elastic-net": ("a*r**2 + b*r", {}, "a square and a group lasso"),
    "pseudo-huber": ("a*(sqrt(1 + r**2) - 1)", {"price": 0.5}, "grows linearly: r* only for c < a"),
    "big-m": ("0", {"bound": 1.0}, "the bound alone: the ℓ∞ norm of the group"),
    "mcp": ("a*r**2", {"extract": "a"}, "the square extracted again: minimax concave penalty"),
    "nested": ("a*r**2", {"block_price": 2.0}, "squares whose groups live in blocks"),
}


@cache
def entry(name: str) -> Derivation:
    """A derivation of the catalogue, at its own parameters.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    if name not in CATALOGUE:
        raise InputError(f"unknown term {name!r}: one of {', '.join(CATALOGUE)}")
    phi, options, _ = CATALOGUE[name]
    return derive(phi, **options)


def find(source: str, **options: Any) -> Derivation:
    """The derivation that a command line names.

    Parameters
    ----------
    source : str
        A name of the catalogue or of another package's entry point, ``FILE.py`` or
        ``FILE.py:NAME`` (NAME is ``term`` by default; the file is run, as any Python file of the
        user's), or an expression in r, which is parsed only.
    **options
        What :func:`derive` is told for an expression, and instead of the catalogue's own.

    Raises
    ------
    InputError
        In one line.
    """
    if file := reference(source, "term"):
        if options:
            raise InputError(
                f"{file[0]} says all of its term: {', '.join(options)} cannot be given"
            )
        return _from_file(*file)
    if source in CATALOGUE:
        phi, own, _ = CATALOGUE[source]
        return derive(phi, **{**own, **options}) if options else entry(source)
    if source in plugins.names(ENTRY_POINTS):
        return _from_package(source, options)
    return derive(source, **options)


def _from_package(name: str, options: Mapping[str, Any]) -> Derivation:
    if options:
        raise InputError(f"{name} says all of its term: {', '.join(options)} cannot be given")
    found = plugins.load(ENTRY_POINTS, name)
    if not isinstance(found, Derivation):
        raise InputError(f"{name} of {ENTRY_POINTS} is no derivation, as made by derive")
    return found


def _from_file(path: Path, name: str) -> Derivation:
    found = load(path).names
    if not isinstance(found.get(name), Derivation):
        names = [key for key, value in found.items() if isinstance(value, Derivation)]
        hint = f"it has {', '.join(names)}" if names else "it has none"
        raise InputError(f"{path} has no derivation {name!r} (made by derive): {hint}")
    return found[name]


def square(shrinkage: Any, price: Any, bound: Any = np.inf) -> Term:
    """φ(w) = a‖w‖², price c, bound M: the term of Structured Perspective Regularization.

    Parameters
    ----------
    shrinkage : float or (G,) array
        a > 0.
    price, bound : float or (G,) array
        c > 0, and M > 0 (``inf`` for none).
    """
    return entry("square").term(price, bound, weight=shrinkage)


def spr(lam: float, alpha: float, size: Any = 1.0, bound: Any = np.inf) -> Term:
    """The square in the paper's parametrisation, a = λα, c = λ(1−α)u (Cacciola et al. 2022).

    Parameters
    ----------
    lam : float
        λ > 0, weight of the whole regularizer.
    alpha : float
        α in (0, 1), share of the shrinkage.
    size : float or (G,) array
        u > 0, what a group costs (parameters or MACs, normalised).
    bound : float or (G,) array
        M.
    """
    if not lam > 0:
        raise InputError(f"lam must be positive: it is {lam:g}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie strictly between 0 and 1: it is {alpha:g}")
    return square(lam * alpha, lam * (1 - alpha) * np.asarray(size, np.float64), bound)
