"""Bounds on the weights of a layer problem that follow from its loss and its term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.numerics.roots import chandrupatla
from formulations.solving.deadline import Stopped
from formulations.solving.safe_bound import norm, unit

# norms beyond this are none that φ bounds
_FAR = 1e12
# eigenvalues below this share of the largest count as none; by how much, relative to c₀, the
# minimum of the loss then may be off
_SINGULAR, _ROUNDING = 1e-10, 1e-9


def valid_bounds(problem: LayerProblem, upper: float) -> FloatArray:
    """|W| of every solution at most this, entry by entry, (D, O), given an upper bound U.

    The loss, with the ridge if φ is one, is a quadratic of Hessian H with minimum q at W°, so
    a solution has ½‖W − W°‖²_H ≤ U − q, hence |W_ko − W°_ko| ≤ √(2(U − q)·(H⁻¹)_kk); and any
    other φ has φ(W_j) ≤ U − q. Infinite where neither says anything. It holds for every choice of
    groups with an objective of at most U, whatever limits the choice.

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
    values, vectors = np.linalg.eigh(hessian)
    if values[0] > _SINGULAR * values[-1]:
        # W° and q are off by what the residual of the solve says
        dense = np.asarray(np.linalg.solve(hessian, problem.cross), float)
        image = hessian @ dense
        residual = np.linalg.norm(problem.cross - image, axis=0)
        gain = float(np.vdot(problem.cross, dense) - 0.5 * np.vdot(dense, image))
        summed = norm(dense) * (norm(problem.cross) + norm(image))
        lowest = problem.constant - gain - unit(*dense.shape) * (problem.constant + summed)
        lowest -= 0.5 * float((residual**2).sum()) / float(values[0])
        inflate = 1 + 8 * unit(len(hessian)) * float(values[-1] / values[0])  # of the inverse
        spread = inflate * np.sqrt(np.diag(np.linalg.inv(hessian)))[:, None]
        reach = np.sqrt(2 * max(0.0, upper - lowest)) + residual / np.sqrt(values[0])
        limit = np.minimum(limit, np.abs(dense) + spread * reach)
    elif not term.extract.any():
        # B is in the range of G: what the small eigenvalues add is within the rounding
        large = values > _SINGULAR * values[-1]
        parts = vectors[:, large].T @ problem.cross
        gain = 0.5 * float((parts**2 / values[large, None]).sum())
        lowest = min(0.0, problem.constant - gain) - _ROUNDING * (problem.constant + gain)
    else:
        lowest = -np.inf
    if (term.ridge is None or values[0] <= _SINGULAR * values[-1]) and np.isfinite(lowest):
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


def big_m(
    problem: LayerProblem, most: int | None = None, pause: Callable[[], None] = lambda: None
) -> FloatArray:
    """Bounds for the big-M form, (D, O): M, or the valid ones of a choice that is allowed.

    Infinite where none follow.

    Parameters
    ----------
    problem : LayerProblem
    most : int, optional
        Largest number of groups kept, where the problem has such a limit.
    pause : callable
        Called now and then; where it raises Stopped, the choice is none.
    """
    try:
        support, weights = first_choice(problem, most, pause)
        attained = min(problem.objective(weights, support), problem.constant)
    except Stopped:
        attained = problem.constant
    return valid_bounds(problem, attained)


def first_choice(
    problem: LayerProblem, most: int | None, pause: Callable[[], None] = lambda: None
) -> tuple[BoolArray, FloatArray]:
    """A choice that is allowed, (G,), and its weights, (D, O): all groups, or the largest of them.

    Parameters
    ----------
    problem, most, pause
        As of :func:`big_m`.
    """
    support = np.ones(problem.groups, bool)
    weights = refit(problem, support, pause)
    if most is not None and most < problem.groups:
        size, _ = problem.term.measure(problem.by_group(weights))
        support = np.zeros(problem.groups, bool)
        support[np.argsort(-size, kind="stable")[:most]] = True
        weights = refit(problem, support, pause)
    return support, weights


def bounded(
    problem: LayerProblem, most: int | None = None, pause: Callable[[], None] = lambda: None
) -> LayerProblem:
    """The same problem, with a bound M wherever its perspective needs one.

    Where φ grows only linearly, y·φ(w/y) is finite at y = 0: without a bound a removed group
    need not be zero in the closed perspective. :func:`valid_bounds` then gives M.

    Parameters
    ----------
    problem, most, pause
        As of :func:`big_m`.

    Raises
    ------
    InputError
        If no bound follows from the loss and φ.
    """
    term = problem.term
    if term.superlinear or np.isfinite(term.bound).all() or term.blocks is not None:
        return problem
    limit = problem.by_group(big_m(problem, most, pause)).max(axis=1)
    if not np.isfinite(limit).all():
        raise InputError("no bound on the weights follows from the loss and φ: give a bound M")
    return replace(problem, term=term.bounded_by(limit))
