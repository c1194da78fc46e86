"""What rounding may have done to a problem, taken off its constant before anything is proved of it.

The engines' bounds hold for the data that they are given, if the loss is convex
(:mod:`formulations.solving.safe_bound`). Two things stand between these data and the problem that
was stated. A loss may be concave by some rounding: a G that was computed, or one less an
extraction, has eigenvalues down to −ε. And a change of variables is computed: H' = TᵀHT is off by a
matrix of norm e, B' = TᵀB by a matrix of norm b. Weights W of a solution, in the variables of the
problem that is handed on, have ‖W‖ ≤ R, so that

    ½⟨W, (H' + ε) W⟩ − ⟨B', W⟩ + c₀ − ½(ε + e)·R² − b·R

is nowhere above the stated objective at a solution, and convex for certain.

**R.** On every support S the best weights of the quadratic H are no longer, in its own norm, than
without the restriction: ⟨W, H W⟩ ≤ ⟨B, H⁻¹B⟩, and within a box at most four times that, for 0 is in
the box. With H ⪰ λ this bounds ‖W‖². Otherwise the bounds on each weight do that follow from loss
and φ (:func:`formulations.layer.big_m.valid_bounds`).
"""

from __future__ import annotations

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import valid_bounds
from formulations.layer.problem import LayerProblem
from formulations.solving.safe_bound import definite, indefiniteness, norm, unit

# of the margins themselves, which are sums of positive numbers
_INFLATE = 1 + 1e-6


def convex_below(
    problem: LayerProblem, hessian_error: float = 0.0, cross_error: float = 0.0
) -> LayerProblem:
    """A problem that is convex for certain and nowhere above this one at a solution.

    The problem itself, where its loss is definite beyond rounding and its data are exact.

    Parameters
    ----------
    problem : LayerProblem
    hessian_error : float
        e, by how much the Hessian may be off, in the spectral norm.
    cross_error : float
        b, by how much B may be off, in the Frobenius norm; positive after a change of variables.

    Raises
    ------
    InputError
        Where no R follows: φ and M leave the weights unbounded within rounding.
    """
    if problem.term.extract.any():  # one subtraction on the diagonal
        hessian_error += unit(0) * float(np.abs(np.diag(problem.gram)).max())
    concave = indefiniteness(problem.curvature)
    if concave == 0 and hessian_error == 0 and cross_error == 0:
        return problem
    reach = _reach(problem, concave, hessian_error, cross_error)
    margin = 0.5 * (concave + hessian_error) * reach**2 + cross_error * reach
    if not np.isfinite(margin):
        raise InputError(
            "within rounding the loss is not convex, and neither it nor φ bounds the weights: "
            "give a larger φ, or a bound M"
        )
    gram = problem.gram + concave * np.eye(len(problem.gram)) if concave else problem.gram
    constant = problem.constant - _INFLATE * margin
    return LayerProblem.unchecked(gram, problem.cross, constant, problem.term, problem.block)


def _reach(
    problem: LayerProblem, concave: float, hessian_error: float, cross_error: float
) -> float:
    """R; infinite where none follows."""
    ridge = problem.term.ridge
    found = np.inf
    if ridge is not None and np.isfinite(concave):
        hessian = problem.curvature + np.diag(concave + 2 * problem.per_row(ridge))
        least = _least(hessian, 2 * float(np.min(ridge)))
        if hessian_error + concave <= 0.5 * least:
            length = _dual_length(hessian, problem.cross, least) + cross_error / least**0.5
            boxed = not np.isinf(problem.term.bound).all()
            found = (4 if boxed else 2) * length / least**0.5
    if cross_error:  # other bounds hold for the stated variables
        return found
    limit = valid_bounds(problem, problem.constant)
    return min(found, norm(limit) if np.isfinite(limit).all() else np.inf)


def _least(hessian: FloatArray, known: float) -> float:
    """A lower bound on λ_min, at least the one known."""
    half = 0.5 * float(np.linalg.eigvalsh(hessian)[0])
    if half > known and definite(hessian - half * np.eye(len(hessian))):
        return half
    return known


def _dual_length(hessian: FloatArray, cross: FloatArray, least: float) -> float:
    """√⟨B, H⁻¹B⟩ from above: at any X it is 2⟨B, X⟩ − ⟨X, H X⟩ + ⟨R, H⁻¹R⟩, R = B − H X."""
    try:
        x = np.asarray(np.linalg.solve(hessian, cross), float)
    except np.linalg.LinAlgError:
        x = np.zeros_like(cross)
    image = hessian @ x
    rounding = unit(*cross.shape) * (norm(cross) + norm(hessian) * norm(x))
    value = 2 * float(np.vdot(cross, x)) - float(np.vdot(x, image)) + 2 * rounding * norm(x)
    return float(max(0.0, value) ** 0.5 + (norm(cross - image) + rounding) / least**0.5)
