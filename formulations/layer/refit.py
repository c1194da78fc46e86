"""Best weights of a layer problem on a support, or for indicators between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.problem import LayerProblem
from formulations.numerics.box_qp import minimise_in_box
from formulations.numerics.proximal_gradient import accelerated, scaled_steps

# an indicator below this is 0
_GONE = 1e-9


def refit(
    problem: LayerProblem, support: BoolArray, pause: Callable[[], None] = lambda: None
) -> FloatArray:
    """Best weights on a support: what a kept group pays, within its bound.

    Parameters
    ----------
    problem : LayerProblem
    support : (G,) bool array
    pause : callable
        Called now and then; what it raises ends the work.

    Returns
    -------
    (D, O) array
        Zero outside the support.
    """
    return best_weights(problem, np.asarray(support, float), pause=pause)


def best_weights(
    problem: LayerProblem,
    y: FloatArray,
    *,
    limit: FloatArray | None = None,
    pause: Callable[[], None] = lambda: None,
) -> FloatArray:
    """argmin_W loss + Σ_j y_j·φ(W_j/y_j) − δ‖W_j‖², (D, O), for indicators y (G,).

    Parameters
    ----------
    problem : LayerProblem
    y : (G,) array
        In [0, 1]; groups at 0 get no weights.
    limit : (D, O) array, optional
        Largest magnitudes; φ is then taken at W_j itself (the big-M form) and M left aside.
    pause : callable
        Called now and then; what it raises ends the work.

    Returns
    -------
    (D, O) array
    """
    term, weights = problem.term, np.zeros_like(problem.cross)
    alive = y > _GONE
    rows = problem.rows(alive)
    if not rows.any():
        return weights
    curvature, cross = problem.curvature[np.ix_(rows, rows)], problem.cross[rows]
    scale = np.ones_like(y) if limit is not None else y
    if limit is None:
        bound = np.broadcast_to(term.bound, y.shape)
        bound = np.multiply(bound, y, out=np.full(y.shape, np.inf), where=np.isfinite(bound))
        limit = problem.per_row(bound)[:, None] * np.ones_like(problem.cross)
    limit, term = limit[rows], term.take(alive)
    scale = scale[alive]
    if term.ridge is not None and not term.profile.ball:
        hessian = curvature + 2 * np.diag(np.repeat(term.ridge / scale, problem.block))
        weights[rows] = minimise_in_box(hessian, cross, limit, pause)
        return weights
    step = scaled_steps(curvature, problem.block)
    box = None if term.profile.ball else limit

    def prox(w: FloatArray) -> FloatArray:
        flat = w.reshape(len(scale), -1)
        near: FloatArray = term.shrinkage_prox(flat, step, scale, limit=box)
        return near.reshape(w.shape)

    weights[rows] = accelerated(
        lambda w: curvature @ w - cross,
        prox,
        np.zeros_like(cross),
        np.repeat(step, problem.block)[:, None],
        pause=pause,
    )
    return weights
