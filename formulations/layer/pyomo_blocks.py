"""Pyomo blocks of one term: the big-M form and the perspective form.

A block is built over the weights of one group and offers ``y`` (binary) and ``cost``, the
expression that the model's objective adds up. Its φ is the term's own generated formula, evaluated
on Pyomo expressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pyomo.environ as pyo
from pyomo.core.expr import Expr_if

from formulations.errors import InputError
from formulations.terms.term import Term

# y in a nonlinear perspective is held away from 0 by this (Furman, Sawaya & Grossmann 2020).
_EPSILON = 1e-6

# what the generated formulas may call, on Pyomo expressions
_PYOMO = SimpleNamespace(
    **{
        name: getattr(pyo, name)
        for name in ("sqrt", "exp", "log", "sinh", "cosh", "tanh", "asinh", "acosh", "sin", "cos")
    },
    atan=pyo.atan,
    abs=abs,
    where=lambda condition, yes, no: Expr_if(IF=condition, THEN=yes, ELSE=no),
)


def big_m_block(
    block: pyo.Block, weights: Sequence[pyo.Var], term: Term, bounds: Sequence[float]
) -> None:
    """State one group's term with big-M constraints (a convex MIQP where φ is a square).

    Sets
        k       weights of the group
    Variables
        w_k     given, continuous
        y       1 if the group is kept
        s ≥ 0   norm of the group, unless φ is a square
    Constraints
        -M_k y ≤ w_k ≤ M_k y
        s ≥ ‖w‖_p
        s ≤ M y                       with a ball
    Cost
        φ(s) − δ Σ_k w_k² + c y,      a Σ_k w_k² for φ(s) where φ is a square

    Parameters
    ----------
    block : pyomo Block
        Filled in place.
    weights : list of pyomo variables
    term : Term
        Of this group alone.
    bounds : list of float
        M_k of every weight, finite.

    Raises
    ------
    InputError
        If a bound is infinite: this form cannot be stated without.
    """
    if not all(math.isfinite(m) for m in bounds):
        raise InputError("the big-M form needs a finite bound for every weight")
    block.y = pyo.Var(domain=pyo.Binary, doc="1 if the group is kept")
    state_box(block, weights, bounds)
    square = sum(w**2 for w in weights)
    if term.ridge is not None and not _ball(term):
        shrinkage = float(term.ridge) * square
    else:
        shrinkage = _phi(term, _norm(block, weights, term))
    block.cost = pyo.Expression(
        expr=shrinkage - float(term.extract) * square + float(term.price) * block.y
    )


def perspective_block(
    block: pyo.Block, weights: Sequence[pyo.Var], term: Term, bounds: Sequence[float]
) -> None:
    """State one group's term with its perspective.

    Sets
        k       weights of the group
    Variables
        w_k     given, continuous
        y       1 if the group is kept
        t ≥ 0   epigraph of Σ_k w_k²/y, where φ is a square
        s ≥ 0   norm of the group, otherwise
    Constraints
        Σ_k w_k² ≤ t y                where φ is a square: a rotated cone (Günlük & Linderoth 2010)
        s ≥ ‖w‖_p                     otherwise
        -M_k y ≤ w_k ≤ M_k y          where M_k is finite
        s ≤ M y                       with a ball
    Cost
        a t − δ Σ_k w_k² + c y, or
        y' φ(s/y') − δ Σ_k w_k² + c y with y' = ε + (1 − ε) y, which is exact at y ∈ {0, 1}
        (Furman, Sawaya & Grossmann 2020) for ε = 1e-6

    Parameters as in :func:`big_m_block`; bounds may be infinite where φ grows faster than its
    argument, so that w = 0 follows from y = 0.
    """
    if not term.superlinear and not all(math.isfinite(m) for m in bounds):
        raise InputError("this φ grows linearly: its perspective needs a finite bound")
    block.y = pyo.Var(domain=pyo.Binary, doc="1 if the group is kept")
    state_box(block, weights, bounds)
    square = sum(w**2 for w in weights)
    if term.ridge is not None and not _ball(term):
        block.t = pyo.Var(domain=pyo.NonNegativeReals, doc="at least the sum of w^2 over y")
        block.cone = pyo.Constraint(
            expr=square - block.t * block.y <= 0, doc="sum of w^2 <= t*y: a rotated cone"
        )
        shrinkage = float(term.ridge) * block.t
    else:
        inside = _EPSILON + (1 - _EPSILON) * block.y
        shrinkage = inside * _phi(term, _norm(block, weights, term) / inside)
    block.cost = pyo.Expression(
        expr=shrinkage - float(term.extract) * square + float(term.price) * block.y
    )


BLOCKS = {"big-m": big_m_block, "perspective": perspective_block}


def _ball(term: Term) -> bool:
    return term.profile.ball and math.isfinite(float(term.bound))


def _phi(term: Term, norm: pyo.Expression) -> pyo.Expression:
    parameters = {name: float(value) for name, value in term.parameters.items()}
    return float(term.weight) * term.profile.value(_PYOMO, norm, **parameters)


def _norm(block: pyo.Block, weights: Sequence[pyo.Var], term: Term) -> pyo.Var:
    """The variable s ≥ ‖w‖_p; ψ does not decrease, so that it is tight at an optimum."""
    order = term.profile.norm_order
    block.s = pyo.Var(domain=pyo.NonNegativeReals, doc="at least the norm of the group")
    if order == 2:
        block.norm = pyo.Constraint(
            expr=sum(w**2 for w in weights) <= block.s**2, doc="sum of w^2 <= s^2"
        )
    else:
        block.size = pyo.Var(range(len(weights)), domain=pyo.NonNegativeReals, doc="at least |w|")
        block.sizes = pyo.ConstraintList(doc="size >= |w|")
        for k, w in enumerate(weights):
            block.sizes.add(w <= block.size[k])
            block.sizes.add(-w <= block.size[k])
        powers = sum(block.size[k] ** order for k in range(len(weights)))
        block.norm = pyo.Constraint(expr=powers <= block.s**order, doc="sum of size^p <= s^p")
    if _ball(term):
        block.ball = pyo.Constraint(expr=block.s <= float(term.bound) * block.y, doc="s <= M*y")
    return block.s


def state_box(block: pyo.Block, weights: Sequence[pyo.Var], bounds: Sequence[float]) -> None:
    """State |w_k| ≤ M_k y for the finite M_k, in place."""
    block.below = pyo.ConstraintList(doc="w <= M*y")
    block.above = pyo.ConstraintList(doc="w >= -M*y")
    for w, m in zip(weights, bounds, strict=True):
        if math.isfinite(m):
            block.below.add(w - m * block.y <= 0)
            block.above.add(w + m * block.y >= 0)
