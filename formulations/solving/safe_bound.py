"""The arithmetic of a proof: lower bounds that rounding cannot have lifted above the truth.

Every engine of this package proves by Fenchel duality: at whatever weights it has reached it states
a number that is below the minimum. In floating point that number is off, and here, and nowhere
else, it is decided by how much it may be.

**The constant.** With the unit roundoff u = 2⁻⁵³, a sum or inner product of n terms, in whatever
order it is added up, is off by at most γ_n·Σ|terms|, γ_n = n·u/(1 − n·u), and a matrix product with
inner dimension n by at most γ_n·|A||B|, entry by entry (Higham, "Accuracy and Stability of
Numerical Algorithms", 2nd edition, 2002, equations 3.5 and 3.13). :func:`unit` is (n + 8)·2u: the 8
for the few operations before and after the sum, the factor 2 for γ_n instead of n·u and for the
rounding of the margins themselves, which are sums of positive numbers. It holds for n < 2⁵⁰.

**The bound.** A node keeps the groups K for good and leaves the groups F free; the others are gone.
With the Hessian H of loss and shrinkage and Δ = blockdiag(Δ_j), 0 ⪯ Δ, M = H − Δ ⪰ 0, Δ_j = 0 for
the kept groups,

    min over W  of  ½⟨W, M W⟩ − ⟨B, W⟩ + c₀ + Σ_F h_j(W_j) + Σ_K c_j,
    h_j(w) = min over y in [0, 1] of ½⟨w, Δ_j w⟩/y + c_j y.

For any V, with v = B − M·V, convexity of the first term gives

    ≥ c₀ − ½⟨V, M V⟩ − ⟨v_K, V_K⟩ + Σ_K c_j − ½‖v_K‖²/μ − ⟨s, V_F⟩
      − Σ_F max(0, ½⟨v_j − s_j, Δ_j⁻¹(v_j − s_j)⟩ − c_j),        s = H_FK H_KK⁻¹ v_K,

where μ ≤ λ_min(H_KK). The residual v_K would vanish in exact arithmetic; s is what a residual can
still do through the free groups. Nothing but its norm is used: H_FK H_KK⁻¹ H_KF ⪯ H_FF − Δ_F gives
‖s‖² ≤ ‖H_FF‖·‖v_K‖²/μ. (Minimise the quadratic around V over W_K first: what is left of it is
½⟨·, (H_FF − Δ_F − H_FK H_KK⁻¹ H_KF)·⟩ ⪰ 0, and a linear term in s.) A node without free groups is
the refit of a support, and the bound is q(V) − ½‖v_K‖²/μ with the quadratic q of the refit.

Other terms keep their own φ for the kept groups too: then v_K meets φ* like all others, and
:func:`dual_point` and :func:`shrinkage_conjugate` are all that is needed.

**What it covers.** The data H, B, c₀ and Δ as the floating-point numbers that they are, with
H − Δ ⪰ 0. That M is so for certain is decided by :func:`definite`: if the Cholesky factorisation of
a symmetric M − s·I ends in floating point, then λ_min(M) ≥ s − γ_{n+1}/(1 − γ_{n+1})·tr(M − s·I)
(Rump, "Verification of positive definiteness", BIT 46, 2006, corollary 2.4). How a problem's data
came about, and by how much a loss may be concave within rounding, is taken off c₀ before an engine
sees the problem (:mod:`formulations.layer.extraction.rounding`). What HiGHS says of a linear
program is no bound, what follows from its multipliers is
(:mod:`formulations.layer.solvers.master`).

φ is taken as its formulas compute it. One that cancels near 0, such as √(1 + r²) − 1 below
r = 10⁻⁴, is off by 10⁻¹⁶ of its parts, and that is not covered.

The numbers are relative to c₀: a bound is off by some 10⁻¹⁶·n·c₀ whatever the optimum is. An
optimum far below c₀ cannot be proved to a relative gap beyond that, and solvers then say
``numerical``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from formulations.arrays import Array, FloatArray
from formulations.terms.partition import Partition
from formulations.terms.term import Term

EPS = float(np.finfo(np.float64).eps)  # 2u


def unit(*terms: int) -> float:
    """Relative rounding of a sum of so many terms in all: (n + 8)·2u."""
    return (sum(terms) + 8) * EPS


def inner(a: FloatArray, b: FloatArray) -> float:
    """⟨a, b⟩ of (D, O) arrays, column by column: off by ``unit(D, O)``·‖a‖·‖b‖ at most."""
    return float((a * b).sum(axis=0).sum())


def norm(a: FloatArray) -> float:
    """‖a‖_F."""
    return float(np.linalg.norm(a))


def definite(matrix: FloatArray) -> bool:
    """Whether a symmetric matrix is positive definite for certain, λ_min ≥ ``unit(n)``·trace."""
    trace = float(np.trace(matrix))
    if not 0 < trace < np.inf:
        return False
    shift = 2 * unit(len(matrix)) * trace
    try:
        np.linalg.cholesky(matrix - shift * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def indefiniteness(matrix: FloatArray) -> float:
    """The ε ≥ 0 of those tried for which M + ε·I passes :func:`definite`; 0 if M does.

    They are multiples of rounding, ten times as large each. Infinite where a matrix is far from
    definite.
    """
    if definite(matrix):
        return 0.0
    step = unit(len(matrix)) * max(float(np.abs(np.diag(matrix)).sum()), np.finfo(float).tiny)
    for power in range(13):
        shift = 4 * step * 10.0**power
        if definite(matrix + shift * np.eye(len(matrix))):
            return shift
    return np.inf


@dataclass(frozen=True, eq=False)
class DualPoint:
    """v = B − M·V in floating point, and what its rounding can be.

    Attributes
    ----------
    v : (D, O) array
    spread : float
        At least ‖computed − exact v‖_F.
    value : float
        c₀ − ½⟨V, M V⟩, computed.
    margin : float
        At least |computed − exact value|.
    """

    v: FloatArray
    spread: float
    value: float
    margin: float


def dual_point(
    matrix: FloatArray, cross: FloatArray, constant: float, weights: FloatArray
) -> DualPoint:
    """The dual point of weights V.

    Parameters
    ----------
    matrix : (D, D) array
        M.
    cross, weights : (D, O) arrays
        B and V.
    constant : float
        c₀.
    """
    image, rounding = matrix @ weights, unit(*weights.shape)
    length = norm(weights)
    spread = rounding * (norm(cross) + norm(matrix) * length)
    summed = abs(constant) + length * norm(image)
    return DualPoint(
        v=cross - image,
        spread=spread,
        value=constant - 0.5 * inner(weights, image),
        margin=rounding * summed + 0.5 * spread * length,
    )


def raised(point: DualPoint) -> FloatArray:
    """Magnitudes (D·O,) at which a conjugate is at least what it is at the exact v.

    A conjugate of a function of magnitudes increases in every |v_k|, whatever the norm and bound.
    """
    return np.abs(point.v).ravel() + point.spread


def shrinkage_conjugate(term: Term, point: DualPoint, groups: Partition) -> FloatArray:
    """φ_B* of every group at a dual point, from above, (G,).

    Parameters
    ----------
    term : Term
    point : DualPoint
    groups : Partition
        Of v's entries, row by row.
    """
    conjugate = term.shrinkage_conjugate(raised(point), groups)
    return conjugate + unit(int(groups.sizes.max())) * np.abs(conjugate)


@dataclass(frozen=True, eq=False)
class Fenchel:
    """Lower bounds of N nodes in their parts, so that those of several layers can be added up.

    Attributes
    ----------
    value : (N,) array
        All but prices and free groups: c₀ − ½⟨V, M V⟩ − ⟨v_K, V_K⟩.
    conjugate : (N, J) array
        ½⟨v_j, Δ_j⁻¹ v_j⟩ of every free group, from above; 0 of the others.
    margin : (N,) array
        By as much at most ``value``, less the sum of any of the conjugates, can be too high.
    """

    value: Any
    conjugate: Any
    margin: Any


def fenchel(
    hessian: Array,
    cross: Array,
    constant: float,
    weights: Array,
    delta: Array,
    free: Array,
    least: float,
) -> Fenchel:
    """The bound of this module's head at any weights, for N nodes at once, of any array library.

    Parameters
    ----------
    hessian : (N, D, D) array
        H of the groups that are there; rows and columns of removed groups are zero, if they are not
        left out.
    cross, weights : (N, D, O) arrays
        B and V, likewise.
    constant : float
        c₀.
    delta : (N, J, b, b) array
        Δ_j of the free groups, positive definite, with H − Δ ⪰ 0; of others anything finite.
    free : (N, J) bool array
        Free groups. The others are kept or, with rows of zeros, removed.
    least : float
        μ > 0, not above the smallest eigenvalue of H on the kept groups: 2a.

    Returns
    -------
    Fenchel
        Its conjugates are infinite where a Δ_j is not positive definite beyond rounding.
    """
    xp = array_namespace(weights)
    nodes, groups, block = delta.shape[:3]
    shape = (nodes, groups, block, weights.shape[2])
    rounding = unit(*weights.shape[1:])
    own = xp.where(free[:, :, None, None], delta, 0 * delta)
    parts, size = xp.reshape(weights, shape), xp.abs(weights)
    image = hessian @ weights - xp.reshape(own @ parts, weights.shape)
    summed = xp.abs(hessian) @ size + xp.reshape(xp.abs(own) @ xp.abs(parts), weights.shape)
    spread = rounding * (xp.abs(cross) + summed)  # of v, entry by entry
    v, spread = xp.reshape(cross - image, shape), xp.reshape(spread, shape)
    value = constant - 0.5 * _inner(xp, weights, image)
    margin = rounding * (abs(constant) + _inner(xp, size, xp.abs(image)))
    margin = margin + 0.5 * _inner(xp, xp.abs(parts), spread)
    kept = xp.where(free, 0 * v[:, :, 0, 0], 0 * v[:, :, 0, 0] + 1)[:, :, None, None]
    value = value - _inner(xp, v * kept, parts)
    margin = margin + _inner(xp, (spread + rounding * xp.abs(v)) * kept, xp.abs(parts))
    # what a residual in the kept rows can do, by itself and through the free groups
    residual = _norm(xp, (xp.abs(v) + spread) * kept)
    margin = margin + residual**2 / (2 * least)
    shift = (_norm(xp, hessian) / least) ** 0.5 * residual
    margin = margin + shift * _norm(xp, parts * (1 - kept))
    conjugate = square_conjugate(v, own, free, spread, shift)
    margin = margin + unit(groups) * xp.sum(conjugate, axis=1)
    return Fenchel(value, conjugate, margin)


def square_conjugate(v: Array, delta: Array, free: Array, spread: Array, shift: Array) -> Any:
    """½⟨v_j, Δ_j⁻¹ v_j⟩ of every free group, from above, (N, J); 0 of the others.

    With x near Δ⁻¹v and r = v − Δx the exact value is ⟨v, x⟩ − ½⟨x, Δx⟩ + ½⟨r, Δ⁻¹r⟩, whatever x:
    the precision of the solve enters squared. A v that is off by d changes it by ⟨d, Δ⁻¹v⟩ and
    ½⟨d, Δ⁻¹d⟩.

    Parameters
    ----------
    v : (N, J, b, O) array
    delta : (N, J, b, b) array
    free : (N, J) bool array
    spread : (N, J, b, O) array
        By how much the entries of v may be off.
    shift : (N,) array
        By how much more v may be off, ‖·‖_F of all groups together.
    """
    xp = array_namespace(v)
    rounding = unit(*v.shape[2:])
    spectrum = xp.linalg.eigvalsh(delta)
    largest = xp.abs(spectrum[:, :, -1])
    least = spectrum[:, :, 0] - rounding * largest
    sound = free & (least > 0)
    one = 0 * least + 1
    least = xp.where(sound, least, one)
    eye = xp.eye(v.shape[2], dtype=v.dtype, device=v.device)
    delta = xp.where(sound[:, :, None, None], delta, eye + 0 * delta)
    x = xp.linalg.solve(delta, v)
    image = delta @ x
    axes = (2, 3)
    value = xp.sum(v * x - 0.5 * x * image, axis=axes)
    magnitude = xp.sum(xp.abs(v * x) + xp.abs(x * image), axis=axes)
    length = xp.sum(x * x, axis=axes) ** 0.5
    off = xp.sum((xp.abs(v - image) + spread) ** 2, axis=axes) ** 0.5
    off = off + rounding * largest * length + shift[:, None]
    first = xp.sum(spread * xp.abs(x), axis=axes) + shift[:, None] * length
    conjugate = value + rounding * magnitude + first + off**2 / (2 * least)
    conjugate = xp.where(sound, conjugate, 0 * conjugate + float("inf"))
    return xp.where(free, conjugate, 0 * one)


def _norm(xp: Any, a: Array) -> Any:
    """‖·‖_F of every node, (N,)."""
    return xp.sum(a * a, axis=tuple(range(1, a.ndim))) ** 0.5


def _inner(xp: Any, a: Array, b: Array) -> Any:
    """⟨a, b⟩ of every node, (N,), the rows first: off by unit(D, O)·‖a‖·‖b‖ at most."""
    products = a * b
    return xp.sum(xp.sum(xp.reshape(products, (a.shape[0], -1, a.shape[-1])), axis=1), axis=1)
