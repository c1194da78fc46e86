"""Extraction: curvature moved from the loss into the terms, where the perspective can use it.

Real activations make G nearly singular and φ tiny, and the perspective of φ alone says little.
With Δ = blockdiag(Δ_1 … Δ_J) ⪰ 0 and H − Δ ⪰ 0, H = G + 2a the whole quadratic of the problem,

    ½⟨W, H W⟩ = ½⟨W, (H − Δ) W⟩ + Σ_j ½⟨W_j, Δ_j W_j⟩,

and the perspective takes all of Δ_j instead of 2a (Frangioni & Gentile 2007; Zheng, Sun & Li
2014). In the basis W_j = T_j V_j, T_j = chol(Δ_j)⁻ᵀ, this is a layer problem again, with G' =
Tᵀ(H − Δ)T and φ' = ½‖V_j‖²: same objective, same optimum, tighter relaxation. Every engine solves
it as it is.

With a bound M, whose box a basis would turn, and with any other φ, Δ_j is a multiple of the
identity, 2δ_j·I, the basis stays, and φ' = φ + δ_j‖·‖².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.root_bound import ascend, conic
from formulations.numerics.block_diagonal import apply, congruent, diagonal_blocks, less_blocks
from formulations.symbolic.catalogue import square

# λ_min(H − Δ) is kept this far above 0, relative: rounding must not make the loss concave.
_MARGIN = 1e-7
_LANCZOS = 25


@dataclass(frozen=True, eq=False)
class Extracted:
    """A layer problem with the same optimum and a tighter relaxation.

    Attributes
    ----------
    problem : LayerProblem
    basis : (groups, block, block) array or None
        T; None where it is the identity.
    """

    problem: LayerProblem
    basis: np.ndarray | None = None

    def weights(self, own: np.ndarray) -> np.ndarray:
        """Weights W = T·V of the original problem, (D, O), from those of this one."""
        if self.basis is None:
            return own
        return apply(self.basis, own)


def extract(problem: LayerProblem, rule: str = "schur") -> Extracted:
    """Move curvature of the loss into the terms.

    Parameters
    ----------
    problem : LayerProblem
    rule : {"schur", "ascent", "sdp", "none"}
        ``"schur"``: Δ_j = θ·((H⁻¹)_jj)⁻¹, the Schur complements of the blocks, θ the largest with
        H − Δ ⪰ 0. ``"ascent"``: from there, the bound of the root is increased over Δ
        (:func:`root_bound.ascend`); for layers of any size. ``"sdp"``: the Δ of the best root bound
        by a conic solver, for up to some 60 rows. ``"none"``: the problem itself.

    Raises
    ------
    InputError
        Unknown rule; ``"ascent"`` or ``"sdp"`` where Δ has no blocks, i.e. for φ other than a‖w‖²
        or with a bound.
    """
    if rule not in RULES:
        raise InputError(f"unknown extraction {rule!r}: one of {', '.join(RULES)}")
    blockwise = problem.plain
    if rule in ("ascent", "sdp") and not blockwise:
        raise InputError(f"extraction {rule!r} is for φ = a‖w‖² without a bound: use schur")
    impossible = problem.term.profile.norm_order != 2 or problem.term.blocks is not None
    if rule == "none" or impossible:
        return Extracted(problem)
    return _in_basis(problem, RULES[rule]) if blockwise else _scalar(problem)


def _in_basis(problem: LayerProblem, choose: Callable[[LayerProblem], np.ndarray]) -> Extracted:
    basis = _whitening(choose(problem))
    gram = congruent(problem.hessian, basis) - np.eye(len(problem.gram))
    cross = apply(basis.transpose(0, 2, 1), problem.cross)
    term = square(0.5, problem.term.price)
    return Extracted(problem.transformed(gram, cross, term), basis)


def _whitening(blocks: np.ndarray) -> np.ndarray:
    """T with T_jᵀ·blocks_j·T_j = I, (J, b, b)."""
    if blocks.shape[1] == 1:
        return blocks**-0.5
    return np.linalg.inv(np.linalg.cholesky(blocks)).transpose(0, 2, 1)


def _scalar(problem: LayerProblem) -> Extracted:
    term, ridge = problem.term, problem.term.ridge
    hessian = problem.curvature if ridge is None else problem.hessian
    scale = np.trace(hessian) / len(hessian)
    shifted = hessian + (1e-9 * scale) * np.eye(len(hessian))
    curvature = np.linalg.eigvalsh(_schur_blocks(shifted, problem.block))[:, 0]
    rows = np.repeat(curvature, problem.block) ** -0.5
    share = np.linalg.eigvalsh(rows[:, None] * hessian * rows)[0]
    delta = 0.5 * max(0.0, share - _MARGIN) * curvature
    gram = hessian - 2 * np.diag(np.repeat(delta, problem.block))
    if ridge is not None:
        if not (delta > 0).all():
            return Extracted(problem)
        return Extracted(
            problem.transformed(gram, problem.cross, square(delta, term.price, term.bound))
        )
    term = term.without_extraction().with_square(delta)
    return Extracted(problem.transformed(gram, problem.cross, term))


def _schur_blocks(matrix: np.ndarray, block: int) -> np.ndarray:
    """((matrix⁻¹)_jj)⁻¹, (J, b, b): what is left of block j when all others are minimised over."""
    result = np.linalg.inv(diagonal_blocks(np.linalg.inv(matrix), block))
    return (result + result.transpose(0, 2, 1)) / 2


def schur(problem: LayerProblem) -> np.ndarray:
    """θ·((H⁻¹)_jj)⁻¹, (J, b, b), θ the largest with H − Δ ⪰ 0.

    Where the trace of that is less than φ's own, 2a·I, which it need not contain, only G gives:
    2a·I + θ·((G⁻¹)_jj)⁻¹.
    """
    blocks = _schur_blocks(problem.hessian, problem.block)
    groups, block = blocks.shape[:2]
    whitened = congruent(problem.hessian, _whitening(blocks))
    delta = (1 - _MARGIN) * np.linalg.eigvalsh(whitened)[0] * blocks
    own = 2 * np.broadcast_to(problem.term.ridge, (groups,))
    if np.trace(delta, axis1=1, axis2=2).sum() >= block * own.sum():
        return delta
    return tighten(problem.hessian, own[:, None, None] * np.eye(block))


def tighten(hessian: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Δ + θ·((H − Δ)⁻¹_jj)⁻¹, (J, b, b), with θ about the largest that leaves H − Δ ⪰ 0.

    Parameters
    ----------
    hessian : (J·b, J·b) array
    delta : (J, b, b) array
        With H − Δ ⪰ 0.
    """
    slack = less_blocks(hessian, delta)
    scale = np.trace(hessian) / len(hessian)
    try:
        inverted = np.linalg.inv(slack + 1e-10 * scale * np.eye(len(slack)))
        blocks = np.linalg.inv(diagonal_blocks(inverted, delta.shape[1]))
        factor = np.linalg.cholesky((blocks + blocks.transpose(0, 2, 1)) / 2)
    except np.linalg.LinAlgError:
        return delta
    largest = _largest_eigenvalue(inverted, factor)
    for share in (0.999, 0.9, 0.5):
        more = (share / largest) * (factor @ factor.transpose(0, 2, 1))
        try:
            np.linalg.cholesky(less_blocks(slack, more))
        except np.linalg.LinAlgError:
            continue
        return delta + more
    return delta


def _largest_eigenvalue(matrix: np.ndarray, factor: np.ndarray) -> float:
    """Of Lᵀ·matrix·L, L = blockdiag(factor), by Lanczos: an estimate from below."""
    turned = factor.transpose(0, 2, 1)

    vector = np.random.default_rng(0).standard_normal(len(matrix))
    basis = np.empty((_LANCZOS, len(matrix)))
    diagonal, off = [], []
    vector /= np.linalg.norm(vector)
    for k in range(min(_LANCZOS, len(matrix))):
        basis[k] = vector
        new = apply(turned, matrix @ apply(factor, vector[:, None]))[:, 0]
        diagonal.append(float(vector @ new))
        for _ in range(2):  # orthogonal to all before
            new -= basis[: k + 1].T @ (basis[: k + 1] @ new)
        length = float(np.linalg.norm(new))
        if length <= 1e-10 * abs(diagonal[0]):
            break
        off.append(length)
        vector = new / length
    size = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(off[: size - 1], 1) + np.diag(off[: size - 1], -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


RULES: dict[str, Callable[[LayerProblem], np.ndarray] | None] = {
    "schur": schur,
    "ascent": lambda problem: ascend(problem, schur(problem)),
    "sdp": conic,
    "none": None,
}
