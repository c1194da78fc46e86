"""Pyomo blocks of one term: the big-M form and the perspective (rotated cone) form.

A block is built over the weights of one group and offers ``y`` (binary) and ``cost``, the
expression that the model's objective adds up.
"""

from __future__ import annotations

import math

import pyomo.environ as pyo

from formulations.errors import InputError


def big_m_block(block, weights, shrinkage: float, price: float, bounds) -> None:
    """State one group's term with big-M constraints (a convex MIQP).

    Sets
        k       weights of the group
    Variables
        w_k     given, continuous
        y       1 if the group is kept
    Constraints
        -M_k y ≤ w_k ≤ M_k y
    Cost
        a Σ_k w_k² + c y

    Parameters
    ----------
    block : pyomo Block
        Filled in place.
    weights : list of pyomo variables
    shrinkage, price : float
        a and c.
    bounds : list of float
        M_k of every weight, finite.

    Raises
    ------
    InputError
        If a bound is infinite: this form cannot be stated without.
    """
    if not all(math.isfinite(m) for m in bounds):
        raise InputError("the big-M form needs a finite bound for every weight")
    block.y = pyo.Var(domain=pyo.Binary)
    _box(block, weights, bounds)
    block.cost = pyo.Expression(expr=shrinkage * sum(w**2 for w in weights) + price * block.y)


def perspective_block(block, weights, shrinkage: float, price: float, bounds) -> None:
    """State one group's term with its perspective, as a rotated second-order cone.

    Sets
        k       weights of the group
    Variables
        w_k     given, continuous
        t ≥ 0   epigraph of the perspective Σ_k w_k²/y
        y       1 if the group is kept
    Constraints
        Σ_k w_k² ≤ t y
        -M_k y ≤ w_k ≤ M_k y          where M_k is finite
    Cost
        a t + c y

    Parameters as in :func:`big_m_block`; bounds may be infinite. Source: Günlük & Linderoth 2010.
    """
    block.y = pyo.Var(domain=pyo.Binary)
    block.t = pyo.Var(domain=pyo.NonNegativeReals)
    block.cone = pyo.Constraint(expr=sum(w**2 for w in weights) - block.t * block.y <= 0)
    _box(block, weights, bounds)
    block.cost = pyo.Expression(expr=shrinkage * block.t + price * block.y)


BLOCKS = {"big-m": big_m_block, "perspective": perspective_block}


def _box(block, weights, bounds) -> None:
    block.below = pyo.ConstraintList()
    block.above = pyo.ConstraintList()
    for w, m in zip(weights, bounds, strict=True):
        if math.isfinite(m):
            block.below.add(w - m * block.y <= 0)
            block.above.add(w + m * block.y >= 0)
