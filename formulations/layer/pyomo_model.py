"""The pruning MIP of a layer as a Pyomo model, for any solver that Pyomo or a file reaches."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import big_m
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_blocks import BLOCKS


def pyomo_model(
    problem: LayerProblem, form: str = "perspective", cardinality: int | None = None
) -> pyo.ConcreteModel:
    """State the pruning MIP.

    Sets
        J groups, K rows of W, N columns of W
    Variables
        w[k,n], and per group the block of ``form`` (y, and t for the perspective); with nested
        indicators z[b] of every block of groups
    Constraints
        y_j ≤ z_b(j), with nested indicators
        Σ_j y_j ≤ K, with a cardinality K
    Objective
        ½ Σ_n w_nᵀ G w_n − Σ_kn B_kn w_kn + c₀ + Σ_j group[j].cost (+ Σ_b C_b z_b)

    Parameters
    ----------
    problem : LayerProblem
    form : {"big-m", "perspective"}
        See :mod:`formulations.layer.pyomo_blocks`. The big-M form takes
        :func:`formulations.layer.big_m.big_m` for M.
    cardinality : int, optional
        K, the largest number of groups kept.

    Raises
    ------
    InputError
        Unknown form, or one that needs bounds which do not follow.
    """
    if form not in BLOCKS:
        raise InputError(f"unknown form {form!r}: one of {', '.join(BLOCKS)}")
    count, columns = problem.cross.shape
    model = pyo.ConcreteModel()
    model.J, model.K = pyo.RangeSet(0, problem.groups - 1), pyo.RangeSet(0, count - 1)
    model.N = pyo.RangeSet(0, columns - 1)
    _state_groups(model, problem, form)
    if cardinality is not None:
        kept = sum(model.group[j].y for j in model.J)
        model.cardinality = pyo.Constraint(expr=kept <= cardinality)
    costs = sum(model.group[j].cost for j in model.J)
    prices = _state_nested(model, problem)
    model.objective = pyo.Objective(expr=_loss(model, problem) + costs + prices)
    return model


def _state_groups(model: pyo.ConcreteModel, problem: LayerProblem, form: str) -> None:
    """The weights and one block of constraints a group, in place."""
    # bounds that every optimal solution satisfies: without them some solvers never get a bound
    box = big_m(problem)
    model.w = pyo.Var(
        model.K,
        model.N,
        bounds=lambda _, k, n: _interval(float(box[k, n])),
    )
    bounds: FloatArray = box
    if form != "big-m":
        bounds = np.broadcast_to(problem.per_row(problem.term.bound)[:, None], problem.cross.shape)

    def state(group: pyo.Block, j: int) -> None:
        rows = range(j * problem.block, (j + 1) * problem.block)
        entries = [(k, n) for k in rows for n in model.N]
        BLOCKS[form](
            group,
            [model.w[e] for e in entries],
            problem.term.single(j, problem.groups),
            [float(bounds[e]) for e in entries],
        )

    model.group = pyo.Block(model.J, rule=state)


def _state_nested(model: pyo.ConcreteModel, problem: LayerProblem) -> pyo.Expression | float:
    """The indicators of nested groups, in place; their prices."""
    term = problem.term
    if term.blocks is None:
        return 0.0
    model.Z = pyo.RangeSet(0, len(term.block_price) - 1)
    model.z = pyo.Var(model.Z, domain=pyo.Binary)
    model.nested = pyo.Constraint(
        model.J, rule=lambda m, j: m.group[j].y <= m.z[int(term.blocks[j])]
    )
    return sum(float(term.block_price[b]) * model.z[b] for b in model.Z)


def _loss(model: pyo.ConcreteModel, problem: LayerProblem) -> pyo.Expression:
    """½ Σ_n w_nᵀ G w_n − Σ_kn B_kn w_kn + c₀."""
    count = len(problem.cross)
    quadratic = sum(
        (0.5 if k == i else 1.0) * float(problem.gram[k, i]) * model.w[k, n] * model.w[i, n]
        for n in model.N
        for k in model.K
        for i in range(k, count)
        if problem.gram[k, i] != 0
    )
    linear = sum(float(problem.cross[k, n]) * model.w[k, n] for k in model.K for n in model.N)
    return quadratic - linear + problem.constant


def _interval(bound: float) -> tuple[float | None, float | None]:
    """Ends of |w| ≤ bound, as Pyomo wants them."""
    return (-bound, bound) if np.isfinite(bound) else (None, None)
