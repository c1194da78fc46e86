"""Block-diagonal algebra: J blocks of size b × b on the diagonal of a (J·b, J·b) matrix."""

from __future__ import annotations

import numpy as np


def diagonal_blocks(matrix: np.ndarray, block: int) -> np.ndarray:
    """The diagonal blocks, (J, b, b)."""
    groups = len(matrix) // block
    j = np.arange(groups)
    return matrix.reshape(groups, block, groups, block)[j, :, j, :]


def less_blocks(matrix: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Matrix − blockdiag(blocks)."""
    groups, block = blocks.shape[:2]
    result, j = matrix.copy(), np.arange(groups)
    result.reshape(groups, block, groups, block)[j, :, j, :] -= blocks
    return result


def apply(blocks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """blockdiag(blocks) · matrix, for a (J·b, n) matrix."""
    groups, block = blocks.shape[:2]
    if block == 1:
        return blocks[:, 0] * matrix
    return np.matmul(blocks, matrix.reshape(groups, block, -1)).reshape(matrix.shape)


def congruent(matrix: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """blockdiag(basis)ᵀ · matrix · blockdiag(basis), for a symmetric matrix."""
    turned = basis.transpose(0, 2, 1)
    result = apply(turned, apply(turned, matrix).T)
    return (result + result.T) / 2
