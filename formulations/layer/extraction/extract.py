"""Extraction: curvature moved from the loss into the terms, where the perspective can use it.

Real activations make G nearly singular and φ tiny, and the perspective of φ alone says little.
With Δ = blockdiag(Δ_1 … Δ_J) ⪰ 0 and H − Δ ⪰ 0, H = G + 2a the whole quadratic of the problem,

    ½⟨W, H W⟩ = ½⟨W, (H − Δ) W⟩ + Σ_j ½⟨W_j, Δ_j W_j⟩,

and the perspective takes all of Δ_j instead of 2a (Frangioni & Gentile 2007; Zheng, Sun & Li
2014). In the basis W_j = T_j V_j, T_j = chol(Δ_j)⁻ᵀ, this is a layer problem again, with G' =
Tᵀ(H − Δ)T and φ' = ½‖V_j‖²: same objective, same optimum, tighter relaxation. Every engine solves
it as it is. What rounding may have lifted it by is taken off its constant
(:mod:`formulations.layer.extraction.rounding`), so that it bounds the stated problem for certain,
and is as convex as the engines take it to be.

With a bound M, whose box a basis would turn, and with any other φ, Δ_j is a multiple of the
identity, 2δ_j·I, the basis stays, and φ' = φ + δ_j‖·‖².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.extraction.ascent import ascend
from formulations.layer.extraction.conic import conic
from formulations.layer.extraction.rounding import convex_below
from formulations.layer.extraction.schur import MARGIN, schur, schur_blocks, whitening
from formulations.layer.problem import LayerProblem
from formulations.numerics.block_diagonal import apply, congruent
from formulations.solving.deadline import Deadline
from formulations.solving.safe_bound import norm, unit
from formulations.symbolic.catalogue import square


@dataclass(frozen=True, eq=False)
class Extracted:
    """A layer problem with the same optimum, less what rounding may be, and a tighter relaxation.

    Attributes
    ----------
    problem : LayerProblem
    basis : (groups, block, block) array or None
        T; None where it is the identity.
    """

    problem: LayerProblem
    basis: FloatArray | None = None

    def weights(self, own: FloatArray) -> FloatArray:
        """Weights W = T·V of the original problem, (D, O), from those of this one."""
        if self.basis is None:
            return own
        return apply(self.basis, own)


def extract(
    problem: LayerProblem, rule: str = "schur", deadline: Deadline | None = None
) -> Extracted:
    """Move curvature of the loss into the terms.

    Parameters
    ----------
    problem : LayerProblem
    rule : {"schur", "ascent", "sdp", "none"}
        ``"schur"``: Δ_j = θ·((H⁻¹)_jj)⁻¹, the Schur complements of the blocks, θ the largest with
        H − Δ ⪰ 0. ``"ascent"``: from there, the bound of the root is increased over Δ
        (:mod:`formulations.layer.extraction.ascent`); for layers of any size. ``"sdp"``: the Δ of
        the best root bound by a conic solver, for up to some 60 rows. ``"none"``: the problem
        itself.
    deadline : Deadline, optional
        By when ``"ascent"`` and ``"sdp"`` end, with what they have then.

    Raises
    ------
    InputError
        Unknown rule; ``"ascent"`` or ``"sdp"`` where Δ has no blocks, i.e. for φ other than a‖w‖²
        or with a bound. A loss that is concave, or weights that nothing bounds, within rounding.
    """
    if rule not in RULES:
        raise InputError(f"unknown extraction {rule!r}: one of {', '.join(RULES)}")
    blockwise = problem.plain
    if rule in ("ascent", "sdp") and not blockwise:
        raise InputError(f"extraction {rule!r} is for φ = a‖w‖² without a bound: use schur")
    impossible = problem.term.profile.norm_order != 2 or problem.term.blocks is not None
    if rule == "none" or impossible:
        return Extracted(convex_below(problem))
    choose = RULES[rule]
    if not (blockwise and choose):
        return Extracted(_scalar(problem))
    return _in_basis(problem, choose(problem, deadline or Deadline()))


def _in_basis(problem: LayerProblem, delta: FloatArray) -> Extracted:
    basis = whitening(delta)
    turned = basis.transpose(0, 2, 1)
    gram = congruent(problem.hessian, basis) - np.eye(len(problem.gram))
    cross = apply(turned, problem.cross)
    term = square(0.5, problem.term.price)
    # what these products are off by: the largest row sum bounds a symmetric matrix's norm
    rounding = unit(2 * problem.block)
    hessian_error = rounding * float(
        congruent(np.abs(problem.hessian), np.abs(basis)).sum(axis=1).max()
    )
    cross_error = rounding * norm(apply(np.abs(turned), np.abs(problem.cross)))
    inner = problem.transformed(gram, cross, term)
    try:
        return Extracted(convex_below(inner, hessian_error, cross_error), basis)
    except InputError:  # the blocks are too close to singular for a change of variables
        return Extracted(convex_below(problem))


def _scalar(problem: LayerProblem) -> LayerProblem:
    """With Δ_j = 2δ_j·I; the problem itself where the loss has nothing to give."""
    term, ridge = problem.term, problem.term.ridge
    hessian = problem.curvature if ridge is None else problem.hessian
    scale = np.trace(hessian) / len(hessian)
    shifted = hessian + (1e-9 * scale) * np.eye(len(hessian))
    curvature = np.linalg.eigvalsh(schur_blocks(shifted, problem.block))[:, 0]
    rows = np.repeat(curvature, problem.block) ** -0.5
    share = np.linalg.eigvalsh(rows[:, None] * hessian * rows)[0]
    delta = 0.5 * max(0.0, share - MARGIN) * curvature
    gram = hessian - 2 * np.diag(np.repeat(delta, problem.block))
    if ridge is not None:
        if not (delta > 0).all():
            return convex_below(problem)
        term = square(delta, term.price, term.bound)
    else:
        term = term.without_extraction().with_square(delta)
    error = unit(0) * float(np.diag(hessian).max())
    return convex_below(problem.transformed(gram, problem.cross, term), error)


# share of all seconds that an extraction may take
EXTRACTION = 0.3

RULES: dict[str, Callable[[LayerProblem, Deadline], FloatArray] | None] = {
    "schur": lambda problem, _: schur(problem),
    "ascent": lambda problem, deadline: ascend(problem, schur(problem), deadline),
    "sdp": conic,
    "none": None,
}
