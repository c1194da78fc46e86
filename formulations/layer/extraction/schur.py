"""Δ from Schur complements: cheap, and good.

Δ_j = θ·((H⁻¹)_jj)⁻¹, what is left of block j when all others are minimised over, θ the largest with
H − Δ ⪰ 0.
"""

from __future__ import annotations

import numpy as np

from formulations.arrays import FloatArray
from formulations.layer.problem import LayerProblem
from formulations.numerics.block_diagonal import apply, congruent, diagonal_blocks, less_blocks
from formulations.solving.safe_bound import definite

# λ_min(H − Δ) is kept this far above 0, relative: rounding must not make the loss concave.
MARGIN = 1e-7
_LANCZOS = 25


def schur_blocks(matrix: FloatArray, block: int) -> FloatArray:
    """((matrix⁻¹)_jj)⁻¹, (J, b, b): what is left of block j when all others are minimised over."""
    result = np.linalg.inv(diagonal_blocks(np.linalg.inv(matrix), block))
    return (result + result.transpose(0, 2, 1)) / 2


def schur(problem: LayerProblem) -> FloatArray:
    """θ·((H⁻¹)_jj)⁻¹, (J, b, b), θ the largest with H − Δ ⪰ 0.

    Where the trace of that is less than φ's own, 2a·I, which it need not contain, only G gives:
    2a·I + θ·((G⁻¹)_jj)⁻¹.
    """
    blocks = schur_blocks(problem.hessian, problem.block)
    block = blocks.shape[1]
    whitened = congruent(problem.hessian, whitening(blocks))
    delta = (1 - MARGIN) * np.linalg.eigvalsh(whitened)[0] * blocks
    own = 2 * problem.ridge
    if np.trace(delta, axis1=1, axis2=2).sum() >= block * own.sum():
        return delta
    return tighten(problem.hessian, own[:, None, None] * np.eye(block))


def tighten(hessian: FloatArray, delta: FloatArray) -> FloatArray:
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
        factor = np.linalg.cholesky((blocks + blocks.transpose(0, 2, 1)) / 2).astype(float)
    except np.linalg.LinAlgError:
        return delta
    largest = _largest_eigenvalue(inverted, factor)
    for share in (0.999, 0.9, 0.5):
        more = (share / largest) * (factor @ factor.transpose(0, 2, 1))
        if definite(less_blocks(slack, more)):
            return delta + more
    return delta


def _largest_eigenvalue(matrix: FloatArray, factor: FloatArray) -> float:
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


def whitening(blocks: FloatArray) -> FloatArray:
    """T with T_jᵀ·blocks_j·T_j = I, (J, b, b)."""
    if blocks.shape[1] == 1:
        return blocks**-0.5
    return np.linalg.inv(np.linalg.cholesky(blocks)).transpose(0, 2, 1)
