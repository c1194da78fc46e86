"""Bounds on the weights of a layer problem that follow from its loss and its term."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.numerics.roots import chandrupatla

# norms beyond this are none that φ bounds
_FAR = 1e12


def valid_bounds(problem: LayerProblem, upper: float) -> FloatArray:
    """|W| of every solution at most this, entry by entry, (D, O), given an upper bound U.

    The loss, with the ridge if φ is one, is a quadratic of Hessian H with minimum q at W°, so
    a solution has ½‖W − W°‖²_H ≤ U − q, hence |W_ko − W°_ko| ≤ √(2(U − q)·(H⁻¹)_kk); and any
    other φ has φ(W_j) ≤ U − q. Infinite where neither says anything.

    Parameters
    ----------
    problem : LayerProblem
    upper : float
        U: the objective of any feasible point.
    """
    term = problem.term
    limit = problem.per_row(term.bound)[:, None] * np.ones_like(problem.cross)
    ridge = 0.0 if term.ridge is None else term.ridge
    hessian = problem.curvature + 2 * np.diag(problem.per_row(ridge))
    values = np.linalg.eigvalsh(hessian)
    lowest = 0.0 if not term.extract.any() else -np.inf
    if values[0] > 1e-10 * values[-1]:
        dense = np.linalg.solve(hessian, problem.cross)
        lowest = problem.constant - 0.5 * float(np.vdot(problem.cross, dense))
        slack = 2 * max(0.0, upper - lowest)
        radius = np.sqrt(slack * np.diag(np.linalg.inv(hessian)))[:, None]
        limit = np.minimum(limit, np.abs(dense) + radius)
    if term.ridge is None and np.isfinite(lowest):
        limit = np.minimum(limit, problem.per_row(_reach(problem, upper - lowest))[:, None])
    return limit


def _reach(problem: LayerProblem, value: float) -> FloatArray:
    """Largest norm with φ at most ``value``, (G,); infinite where φ never exceeds it."""
    term = problem.term.take(np.ones(problem.groups, bool))
    high = np.ones(problem.groups)
    while ((short := term.phi(high) < value) & (high < _FAR)).any():
        high = np.where(short & (high < _FAR), 4 * high, high)
    root = chandrupatla(lambda r: term.phi(r) - value, 0 * high, high)
    return np.where(short, np.inf, root)


def big_m(problem: LayerProblem) -> FloatArray:
    """Bounds for the big-M form, (D, O): M, or the valid ones from keeping all or none.

    Infinite where none follow.
    """
    everything = np.ones(problem.groups, bool)
    kept = problem.objective(refit(problem, everything), everything)
    return valid_bounds(problem, min(kept, problem.constant))


def bounded(problem: LayerProblem) -> LayerProblem:
    """The same problem, with a bound M wherever its perspective needs one.

    Where φ grows only linearly, y·φ(w/y) is finite at y = 0: without a bound a removed group
    need not be zero in the closed perspective. :func:`valid_bounds` then gives M.

    Raises
    ------
    InputError
        If no bound follows from the loss and φ.
    """
    term = problem.term
    if term.superlinear or np.isfinite(term.bound).all() or term.blocks is not None:
        return problem
    limit = problem.by_group(big_m(problem)).max(axis=1)
    if not np.isfinite(limit).all():
        raise InputError("no bound on the weights follows from the loss and φ: give a bound M")
    return replace(problem, term=term.bounded_by(limit))
