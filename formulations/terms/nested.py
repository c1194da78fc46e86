"""Nested indicators: a group lives only if its block lives.

With groups j in blocks and the price C of a block, y_j ≤ z,

    h(W) = min_{0 ≤ z ≤ 1}  Σ_j [ y_j·ψ(s_j/y_j) + c·y_j ] + C·z,      y_j = min(z, s_j/r*),

for each block: filters and whole layers pruned by one MIP. The derivative in z,
C + Σ_{s_j > r*·z} (c − F(s_j/z)), increases, and z is its root, cut at 1. For ψ = a·r² it is
√(a·Σ s_j² / (k·c + C)) over the k groups with s_j ≥ r*·z.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike

from formulations.arrays import AnyArray, ArrayT, FloatArray, IntArray
from formulations.errors import InputError
from formulations.numerics.roots import chandrupatla
from formulations.terms.partition import Partition
from formulations.terms.term import Term


@dataclass(frozen=True, eq=False)
class NestedTerm(Term):
    """A term whose groups share the indicators of their blocks: norm ‖·‖₂, no bound.

    Parameters
    ----------
    blocks : (G,) integers from 0, by keyword
        The block of every group.
    block_price : () or (B,) array, by keyword
        C > 0 of every block.
    profile, price, bound, weight, extract, parameters
        As in :class:`formulations.terms.term.Term`.

    Attributes
    ----------
    membership : (B, G) array
        1 where the group is in the block.
    """

    blocks: IntArray = field(kw_only=True)
    block_price: AnyArray = field(kw_only=True)
    membership: AnyArray = field(init=False)

    _NUMBERS: ClassVar[tuple[str, ...]] = (*Term._NUMBERS, "block_price", "membership")
    _EXTENSIVE: ClassVar[tuple[str, ...]] = (*Term._EXTENSIVE, "block_price")

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = np.asarray(self.blocks)
        if blocks.ndim != 1 or not np.issubdtype(blocks.dtype, np.integer) or not blocks.size:
            raise InputError("blocks must be one whole number for every group")
        if set(blocks) != set(range(blocks.max() + 1)):
            raise InputError("blocks must be numbered from 0 without gaps")
        price = np.broadcast_to(np.asarray(self.block_price, np.float64), (blocks.max() + 1,))
        if not (price > 0).all():
            raise InputError(f"block_price must be positive: it is {price.min():g}")
        membership = (blocks == np.arange(len(price))[:, None]).astype(float)
        self._set(blocks=blocks, block_price=price.copy(), membership=membership)

    # ---- of a group's norm; any array library ---------------------------------------------------

    def block_indicator(self, norm: ArrayT, highest: float = float("inf")) -> ArrayT:
        """The z of every block, (B,), cut at ``highest``; 0 where no z > 0 pays."""
        xp = array_namespace(norm)

        def derivative(z: ArrayT) -> ArrayT:
            wide = self._expand(z)
            legendre = self.legendre(norm / wide)
            paid = xp.where(norm > self.radius * wide, self.price - legendre, 0 * norm)
            return self.block_price + self.membership @ paid

        zero = self.membership @ (0 * norm)
        # beyond the largest s/r* nothing is above the groups' own minimum
        ratio = norm / self.radius
        largest = xp.max(self.membership * ratio, axis=1)
        high = xp.minimum(largest, zero + highest)
        alive = high > 0
        high = xp.where(alive, high, zero + 1)
        least = high * xp.finfo(norm.dtype).eps
        z = chandrupatla(derivative, least, high)
        return xp.where(alive & (z > least), z, zero)

    def _expand(self, z: ArrayT) -> ArrayT:
        """(B,) numbers of the blocks to their groups, (G,)."""
        return z @ self.membership

    def uncapped_indicator(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """min(z, s/r*), z not cut at 1: ranks the kept groups too."""
        xp = array_namespace(norm)
        return xp.minimum(self._expand(self.block_indicator(norm)), norm / self.radius)

    def indicator(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """y*, in [0, 1]."""
        xp = array_namespace(norm)
        return xp.minimum(self._expand(self.block_indicator(norm, 1.0)), norm / self.radius)

    def regimes(self, norm: ArrayT, peak: ArrayT) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Masks (free, bound, kept): on the group's own minimum, held below it by z, y = 1."""
        y, ratio = self.indicator(norm, peak), norm / self.radius
        kept = (y >= 1) & (ratio > 1)
        held = ~kept & (y < ratio)
        return ~kept & ~held, held, kept

    def projected(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """Shares of h that add up to it: the groups' own, and C·z in equal parts."""
        xp = array_namespace(norm)
        z = self.block_indicator(norm, 1.0)
        y = xp.minimum(self._expand(z), norm / self.radius)
        own = self.perspective_of(norm, y) + self.price * y
        return own + self._expand(self.block_price * z / self.membership.sum(1))

    def gradient_factors(self, norm: ArrayT, peak: ArrayT) -> tuple[ArrayT, ArrayT]:
        """(radial, 0) as in :class:`Term`: ψ'(s/y*)/s; at w = 0 both are 0."""
        xp = array_namespace(norm)
        kind = xp.finfo(norm.dtype)
        positive = norm > kind.smallest_normal / kind.eps
        y, one = self.indicator(norm, peak), xp.ones_like(norm)
        safe = xp.where(positive & (y > 0), y, one)
        recession = self.weight * self.profile.slope_limit(xp, **self.parameters)
        along = xp.where(y > 0, self.slope(norm / safe), recession + 0 * norm)
        radial = xp.where(positive, along / xp.where(positive, norm, one), 0 * norm)
        return radial, 0 * norm

    def prox_factor(self, norm: ArrayT, peak: ArrayT, step: ArrayT | float) -> ArrayT:
        """Factor of a group's weights in the proximal step: z of its block by one search."""
        xp = array_namespace(norm)

        def shrunk(z: ArrayT) -> tuple[ArrayT, ArrayT]:
            """Norms at z, and the norm up to which a group is in its free regime."""
            wide = self._expand(z)
            least = self.radius * wide
            slack = xp.maximum(norm - step * self.free_slope, 0 * norm)
            # σ + t·ψ'(σ/z) = s, in the unit z
            beyond = wide * self.profile.find_prox(
                norm / wide, step * self.weight / wide, self.radius + 0 * norm, self.parameters
            )
            return xp.where(slack > least, xp.maximum(beyond, least), slack), least

        def derivative(z: ArrayT) -> ArrayT:
            new, least = shrunk(z)
            paid = self.price - self.legendre(new / self._expand(z))
            return self.block_price + self.membership @ xp.where(new > least, paid, 0 * norm)

        zero = self.membership @ (0 * norm)
        least = zero + xp.finfo(norm.dtype).eps
        z = chandrupatla(derivative, least, zero + 1)
        new, _ = shrunk(z)
        dead = self._expand(xp.where(z > least, zero, zero + 1)) > 0
        limit = self.weight * self.profile.slope_limit(xp, **self.parameters) + 0 * norm
        finite = limit < float("inf")
        recession = xp.maximum(norm - step * xp.where(finite, limit, 0 * norm), 0 * norm)
        new = xp.where(dead, xp.where(finite, recession, 0 * norm), new)
        return new / xp.where(norm > 0, norm, xp.ones_like(norm))

    # ---- of the weights and indicators; NumPy ---------------------------------------------------

    def prices(self, y: FloatArray) -> float:
        """Σ_j c_j·y_j + Σ_b C_b·max of y over the block."""
        return super().prices(y) + float(self.block_price @ (self.membership * y).max(axis=1))

    def conjugate(self, v: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """Conjugate h* in equal parts a group: a block's is max(0, Σ_j max(0, ψ*(v_j) − c) − C)."""
        own = super().conjugate(v, groups)
        block = np.maximum(0.0, self.membership @ own - self.block_price)
        return self._expand(block / self.membership.sum(axis=1))
