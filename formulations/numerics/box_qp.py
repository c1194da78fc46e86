"""Quadratic programs in a box: one positive definite Hessian, many right-hand sides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import lsq_linear

from formulations.arrays import FloatArray


def minimise_in_box(
    hessian: FloatArray, linear: FloatArray, bound: FloatArray, pause: Callable[[], None]
) -> FloatArray:
    """Minimise ½⟨W, H W⟩ − ⟨B, W⟩ over |W| ≤ bound, column by column.

    A column whose free minimiser lies in the box has it; the others are least squares in the
    Cholesky factor of H, solved by the bounded-variable method of Stark & Parker (1995).

    Parameters
    ----------
    hessian : (D, D) array
        H, positive definite.
    linear, bound : (D, O) arrays
        B, and the bounds (may be infinite).
    pause : callable
        Called before every column that needs the box.

    Returns
    -------
    (D, O) array
    """
    weights = np.asarray(np.linalg.solve(hessian, linear), float)
    outside = np.flatnonzero((np.abs(weights) > bound).any(axis=0))
    if outside.size:
        factor = np.linalg.cholesky(hessian).T
        target = np.linalg.solve(factor.T, linear)
        for n in outside:
            pause()
            box = np.maximum(bound[:, n], 1e-300)  # the solver wants room between its bounds
            fit = lsq_linear(factor, target[:, n], (-box, box), method="bvls").x
            weights[:, n] = np.clip(fit, -bound[:, n], bound[:, n])
    return weights
