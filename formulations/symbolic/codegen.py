"""Array code from the algebra of a term: the formulas of its profile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import sympy as sp

from formulations.symbolic.algebra import Algebra
from formulations.symbolic.equations import r, simplified
from formulations.symbolic.printing import array_function
from formulations.terms.profile import Profile

# Float32 loses digits in some roots that are right on paper; Newton's method is then used.
_SINGLE_TOLERANCE = 1e-5

# name, arguments beside the parameters of φ, expression or None where there is none, docstring
Formula: TypeAlias = tuple[str, Sequence[str], sp.Expr | None, str]


def profile_source(derivation: Algebra) -> str:
    """Functions of arrays of any library: what :class:`Profile` is made of, and the extraction."""
    d = derivation
    formulas: list[Formula] = [
        ("value", ["r"], d.psi, "ψ(r)"),
        ("slope", ["r"], d.slope, "ψ'(r)"),
        ("curvature", ["r"], d.curvature, "ψ''(r)"),
        ("legendre", ["r"], d.legendre, "F(r) = r·ψ'(r) − ψ(r)"),
        ("slope_start", [], d.slope_start, "ψ'(0+)"),
        ("slope_limit", [], d.slope_limit, "ψ'(∞)"),
        ("legendre_limit", [], d.legendre_limit, "F(∞)"),
        ("extract", [], d.extract, "δ"),
        ("radius", ["c"], d.radius, "r* with F(r*) = c"),
        ("inverse_slope", ["v"], d.inverse_slope, "ρ with ψ'(ρ) = v"),
    ]
    equation, prox = d.shrinkage_prox_equation, d.shrinkage_prox
    if prox is not None:
        error = equation.error(prox, d.parameters, np.float32)
        if error <= _SINGLE_TOLERANCE:
            formulas.append(("prox", ["s", "k"], prox, "σ with σ + k·ψ'(σ) = s"))
    ratio = simplified(d.psi / r**2)
    if d.norm == 2 and d.psi != 0 and not ratio.has(r):
        formulas.append(("ridge", [], ratio, "a, where ψ = a·r²"))
    return functions(derivation, formulas)


def make_profile(derivation: Algebra) -> Profile:
    """ψ and what follows from it, compiled."""
    definition = {
        "phi": str(derivation.phi),
        "norm": derivation.norm,
        "ball": derivation.ball,
        "extract": str(derivation.extract),
    }
    return Profile.from_source(
        derivation.norm, derivation.ball, definition, profile_source(derivation)
    )


def functions(derivation: Algebra, formulas: Iterable[Formula]) -> str:
    """Source of some formulas as functions of their arguments and the parameters of φ."""
    names = list(derivation.parameters)
    return "\n\n".join(
        array_function(name, [*arguments, *names], expression, summary)
        for name, arguments, expression, summary in formulas
        if expression is not None
    )
