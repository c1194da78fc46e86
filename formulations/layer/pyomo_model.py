"""The pruning MIP of a layer as a Pyomo model, for any solver that Pyomo or a file reaches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import big_m
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_blocks import BLOCKS
from formulations.terms.term import Term


def pyomo_model(
    problem: LayerProblem,
    form: str = "perspective",
    cardinality: int | None = None,
    pause: Callable[[], None] = lambda: None,
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
    pause : callable
        Called now and then; what it raises ends the work.

    Raises
    ------
    InputError
        Unknown form, or one that needs bounds which do not follow.
    """
    if form not in BLOCKS:
        raise InputError(f"unknown form {form!r}: one of {', '.join(BLOCKS)}")
    box = bounds = big_m(problem, cardinality, pause)
    if form != "big-m":
        bounds = np.broadcast_to(problem.per_row(problem.term.bound)[:, None], problem.cross.shape)
    model = state(problem, BLOCKS[form], bounds, box, partial(_loss, pause=pause), cardinality)
    model.doc = f"{form} form"
    return model


def state(
    problem: LayerProblem,
    block: Callable[[pyo.Block, list[pyo.Var], Term, list[float]], None],
    bounds: FloatArray,
    box: FloatArray,
    loss: Callable[[pyo.ConcreteModel, LayerProblem], pyo.Expression],
    cardinality: int | None,
) -> pyo.ConcreteModel:
    """A model of given blocks of groups and a given loss.

    Parameters
    ----------
    problem : LayerProblem
    block : callable
        Fills a group's block over its weights, its term and M of each, as those of
        :mod:`formulations.layer.pyomo_blocks`.
    bounds : (D, O) array
        M.
    box : (D, O) array
        Bounds on |W| that every optimum satisfies: without them some solvers never get a bound.
    loss : callable
        The expression of the loss, over ``w`` of the model.
    cardinality : int, optional
        The largest number of groups kept.
    """
    model = pyo.ConcreteModel()
    model.J = pyo.RangeSet(0, problem.groups - 1)
    model.K = pyo.RangeSet(0, len(problem.cross) - 1)
    model.N = pyo.RangeSet(0, problem.outputs - 1)
    model.w = pyo.Var(
        model.K,
        model.N,
        bounds=lambda _, k, n: _interval(float(box[k, n])),
        doc="weight of row k, column n",
    )
    model.group = pyo.Block(model.J)
    for j in model.J:  # not by a rule: Pyomo prints what a rule raises
        rows = range(j * problem.block, (j + 1) * problem.block)
        entries = [(k, n) for k in rows for n in model.N]
        weights, limits = [model.w[e] for e in entries], [float(bounds[e]) for e in entries]
        block(model.group[j], weights, problem.term.single(j, problem.groups), limits)
    if cardinality is not None:
        kept = sum(model.group[j].y for j in model.J)
        model.cardinality = pyo.Constraint(expr=kept <= cardinality, doc="groups kept")
    costs = sum(model.group[j].cost for j in model.J)
    prices = _state_nested(model, problem)
    model.objective = pyo.Objective(expr=loss(model, problem) + costs + prices)
    return model


def _state_nested(model: pyo.ConcreteModel, problem: LayerProblem) -> pyo.Expression | float:
    """The indicators of nested groups, in place; their prices."""
    term = problem.term
    if term.blocks is None:
        return 0.0
    model.Z = pyo.RangeSet(0, len(term.block_price) - 1)
    model.z = pyo.Var(model.Z, domain=pyo.Binary, doc="1 if the block of groups is kept")
    model.nested = pyo.Constraint(
        model.J,
        rule=lambda m, j: m.group[j].y <= m.z[int(term.blocks[j])],
        doc="a group is kept only in a block that is",
    )
    return sum(float(term.block_price[b]) * model.z[b] for b in model.Z)


def _loss(
    model: pyo.ConcreteModel, problem: LayerProblem, *, pause: Callable[[], None]
) -> pyo.Expression:
    """½ Σ_n w_nᵀ G w_n − Σ_kn B_kn w_kn + c₀."""
    terms, gram = [], problem.gram
    for k in model.K:
        pause()
        row = [(i, (0.5 if k == i else 1.0) * float(gram[k, i])) for i in range(k, len(gram))]
        terms += [g * model.w[k, n] * model.w[i, n] for n in model.N for i, g in row if g != 0]
        terms += [-float(problem.cross[k, n]) * model.w[k, n] for n in model.N]
    return sum(terms) + problem.constant


def _interval(bound: float) -> tuple[float | None, float | None]:
    """Ends of |w| ≤ bound, as Pyomo wants them."""
    return (-bound, bound) if np.isfinite(bound) else (None, None)
