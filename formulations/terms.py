"""The term of the pruning MIP and the regularizer that its perspective reformulation projects to.

For every group of weights w the pruning MIP holds

    φ(w) + c·y,     |w_k| ≤ M·y,     y ∈ {0, 1},

with the shrinkage φ, the price c of keeping the group and the big-M bound M. Its perspective
reformulation, y projected away, is the convex regularizer

    h(w) = min { y·φ(w/y) + c·y  :  ‖w‖∞/M ≤ y ≤ 1 }.

(Frangioni & Gentile 2006 for the perspective; Cacciola, Frangioni, Li & Lodi 2022,
arXiv 2206.14056, for the projection as a regularizer, there called SPR.)

:class:`Square` is the term with φ(w) = a‖w‖². Everything that depends on a group only through its
norm s = ‖w‖₂ and its peak m = ‖w‖∞ is written once against the array API standard: the solvers
call it with NumPy arrays in float64, the trainer with torch tensors on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from formulations.errors import InputError

Array = Any  # an array of any library that follows the array API standard

# Newton on a concave increasing function from the left converges monotonically and quadratically;
# this many steps are never needed, they only keep a NaN from looping for ever.
_NEWTON_STEPS = 200


class Partition:
    """Ragged groups of a flat array: group j owns the contiguous entries starts[j] … starts[j+1].

    Parameters
    ----------
    sizes : (G,) integers, each at least 1
        Number of weights of each group.

    Raises
    ------
    InputError
        If a group is empty.
    """

    def __init__(self, sizes):
        self.sizes = np.asarray(sizes, dtype=np.intp)
        if self.sizes.ndim != 1 or self.sizes.size == 0 or self.sizes.min() < 1:
            raise InputError("a partition needs at least one group, and no group may be empty")
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def sum(self, x: np.ndarray) -> np.ndarray:
        """(D,) entries to (G,) sums."""
        return np.add.reduceat(x, self.starts)

    def max(self, x: np.ndarray) -> np.ndarray:
        """(D,) entries to (G,) maxima."""
        return np.maximum.reduceat(x, self.starts)

    def spread(self, x: np.ndarray) -> np.ndarray:
        """(G,) numbers, or one, to the (D,) entries of the groups."""
        return np.repeat(np.broadcast_to(x, self.sizes.shape), self.sizes)


@dataclass(frozen=True, eq=False)
class Square:
    """φ(w) = a‖w‖², price c, bound M: the term of Structured Perspective Regularization.

    Parameters
    ----------
    shrinkage : float or (G,) array
        a > 0.
    price : float or (G,) array
        c > 0, in the units of the objective, paid once for a group that is kept.
    bound : float or (G,) array
        M > 0, largest magnitude of a weight; ``inf`` for none.

    Raises
    ------
    InputError
        If one of them is not a positive number (M may be infinite).

    Notes
    -----
    With torch tensors as weights, the parameters must be tensors of their type and device.
    Arrays of weights come either as ``(G, d)`` (equal groups, one a row) or as ``(D,)`` with a
    :class:`Partition` (ragged groups). Results of the same shape, or ``(G,)`` for one number a
    group.
    """

    shrinkage: Array
    price: Array
    bound: Array = float("inf")

    def __post_init__(self):
        for name in ("shrinkage", "price", "bound"):
            value = getattr(self, name)
            if not is_array_api_obj(value):
                value = np.asarray(value, dtype=np.float64)
                object.__setattr__(self, name, value)
            xp = array_namespace(value)
            wrong = ~(value > 0)
            if name != "bound":
                wrong = wrong | xp.isinf(value)
            if bool(xp.any(wrong)):
                first = float(
                    xp.reshape(value, (-1,))[int(xp.argmax(xp.reshape(wrong * 1, (-1,))))]
                )
                raise InputError(f"{name} must be positive: it is {first:g}")

    @classmethod
    def spr(cls, lam: float, alpha: float, size: Array = 1.0, bound: Array = float("inf")):
        """The paper's parametrisation: a = λα, c = λ(1−α)u (Cacciola et al. 2022).

        Parameters
        ----------
        lam : float
            λ > 0, weight of the whole regularizer.
        alpha : float
            α in (0, 1), share of the shrinkage.
        size : float or (G,) array
            u > 0, what a group costs (parameters or MACs, normalised).
        bound : float or (G,) array
            M.
        """
        size = size if is_array_api_obj(size) else np.asarray(size, dtype=np.float64)
        if not lam > 0:
            raise InputError(f"lam must be positive: it is {lam:g}")
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie strictly between 0 and 1: it is {alpha:g}")
        return cls(lam * alpha + 0.0 * size, lam * (1 - alpha) * size, bound)

    def scaled(self, factor: float) -> Square:
        """The term of factor·(φ + c·y): same bound, same r*."""
        return Square(self.shrinkage * factor, self.price * factor, self.bound)

    # ---- of a group's norm and peak; any array library ------------------------------------------

    @property
    def radius(self) -> Array:
        """r* = √(c/a): the norm at which a group is fully paid for, root of r·ψ'(r) − ψ(r) = c."""
        return (self.price / self.shrinkage) ** 0.5

    def uncapped_indicator(self, norm: Array, peak: Array) -> Array:
        """max(‖w‖∞/M, s/r*): the keep-score before it is cut at 1; it still ranks kept groups."""
        xp = array_namespace(norm)
        return xp.maximum(peak / self.bound, norm / self.radius)

    def indicator(self, norm: Array, peak: Array) -> Array:
        """y*(w) = min(1, max(‖w‖∞/M, s/r*)), in [0, 1]: the relaxed indicator."""
        xp = array_namespace(norm)
        return xp.clip(self.uncapped_indicator(norm, peak), 0, 1)

    def projected(self, norm: Array, peak: Array) -> Array:
        """h(w) = a·s²/y* + c·y*; infinite where ‖w‖∞ > M (beyond rounding)."""
        xp = array_namespace(norm)
        y = self.indicator(norm, peak)
        safe = xp.where(y > 0, y, xp.ones_like(y))
        h = self.shrinkage * norm**2 / safe + self.price * y
        return xp.where(self.outside(peak), xp.full_like(h, float("inf")), h)

    def outside(self, peak: Array) -> Array:
        """Whether ‖w‖∞ > M, beyond the rounding of the array's precision."""
        xp = array_namespace(peak)
        return peak > self.bound * (1 + 4 * xp.finfo(peak.dtype).eps)

    def slopes(self, norm: Array, peak: Array) -> tuple[Array, Array]:
        """(radial, axial) of the gradient radial·w + axial·sign(w_k)·e_k, k the argmax.

        By the envelope theorem radial = 2a/y*; the axial part, (c − a·s²/y*²)/M, appears only
        where the bound decides y*. At w = 0 both are 0, the smallest subgradient.
        """
        xp = array_namespace(norm)
        y = self.indicator(norm, peak)
        # 2a/y would overflow for the smallest numbers, which count as zero
        kind = xp.finfo(y.dtype)
        positive = y > kind.smallest_normal / kind.eps
        safe = xp.where(positive, y, xp.ones_like(y))
        zero = xp.zeros_like(norm)
        radial = xp.where(positive, 2 * self.shrinkage / safe, zero)
        share = peak / self.bound
        decides = positive & (share * self.radius > norm) & (share < 1)
        axial = xp.where(
            decides, (self.price - self.shrinkage * (norm / safe) ** 2) / self.bound, zero
        )
        return radial, axial

    def regimes(self, norm: Array, peak: Array) -> tuple[Array, Array, Array]:
        """Boolean masks (free, bound, kept): which piece of h a group is on (math: section 2)."""
        share, ratio = peak / self.bound, norm / self.radius
        kept = ratio > 1
        decides = ~kept & (share > ratio)
        return ~kept & ~decides, decides, kept

    def prox_indicator(self, norm: Array, peak: Array, step: float) -> Array:
        """Indicator y of prox_{t·h}(v) where the bound is slack at the solution, from ‖v‖ alone.

        With M = ∞ it is exact: the prox is v·y/(y + 2ta), which vanishes for s ≤ 2t√(ac) and is
        v/(1+2ta) for s − 2t√(ac) ≥ r*. It is NaN where a finite bound is active, and
        :func:`bounded_prox_indicator` has to find y.
        """
        xp = array_namespace(norm)
        total = norm / self.radius
        shift = 2 * step * self.shrinkage
        y = xp.clip(total - shift, 0, 1)
        active = (peak > self.bound * (y + shift)) & (peak > 0)
        return xp.where(active, xp.full_like(y, float("nan")), y)

    def box(self, y: Array) -> Array:
        """M·y, the largest magnitude at indicator y; infinite where M is, at y = 0 too."""
        xp = array_namespace(y)
        bound = xp.broadcast_to(xp.asarray(self.bound, dtype=y.dtype), y.shape)
        infinite = xp.isinf(bound)
        return xp.where(infinite, bound, xp.where(infinite, xp.ones_like(y), bound) * y)

    # ---- of the weights themselves; NumPy -------------------------------------------------------

    def value(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """h of every group, (G,). Infinite for a group with a weight beyond its bound."""
        return self.projected(*norm_and_peak(w, groups))

    def keep(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """Keep-score y*(w) of every group, (G,), in [0, 1]."""
        return self.indicator(*norm_and_peak(w, groups))

    def gradient(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """A (sub)gradient of Σ_j h_j, shaped like w.

        Where several weights share the peak, the axial part is shared among them, which is a
        subgradient too.
        """
        flat, groups = _flatten(w, groups)
        norm, peak = norm_and_peak(flat, groups)
        radial, axial = self.slopes(norm, peak)
        at_peak = np.abs(flat) == groups.spread(peak)
        axial = axial / groups.sum(at_peak.astype(np.float64))
        result = groups.spread(radial) * flat + groups.spread(axial) * at_peak * np.sign(flat)
        return result.reshape(np.shape(w))

    def prox(self, w: np.ndarray, step: float, groups: Partition | None = None) -> np.ndarray:
        """argmin_x ½‖x − w‖² + t·Σ_j h_j(x), shaped like w.

        Parameters
        ----------
        w : (G, d) or (D,) array
        step : float
            t > 0.

        Raises
        ------
        InputError
            If the step is not positive.
        """
        if not step > 0:
            raise InputError(f"the proximal step must be positive: it is {step:g}")
        flat, groups = _flatten(w, groups)
        norm, peak = norm_and_peak(flat, groups)
        y = self.prox_indicator(norm, peak, step)
        active = np.isnan(y)
        if active.any():
            inside = Partition(groups.sizes[active])
            chosen = self._of(active)
            magnitude = np.abs(flat[groups.spread(active).astype(bool)])
            y[active] = bounded_prox_indicator(chosen, magnitude, step, inside.sum, inside.spread)
        shift = np.broadcast_to(2 * step * self.shrinkage, y.shape)
        bound = groups.spread(self.box(y))
        return np.clip(flat * groups.spread(y / (y + shift)), -bound, bound).reshape(np.shape(w))

    def shrinkage_conjugate(self, v: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """φ_B*(v) = sup { ⟨v, w⟩ − a‖w‖² : |w| ≤ M } of every group, (G,)."""
        flat, groups = _flatten(v, groups)
        a, m, size = groups.spread(self.shrinkage), groups.spread(self.bound), np.abs(flat)
        with np.errstate(invalid="ignore"):  # ∞ − ∞ in the branch that M = ∞ never takes
            entry = np.where(size <= 2 * a * m, size**2 / (4 * a), m * size - a * m**2)
        return groups.sum(entry)

    def conjugate(self, v: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """h*(v) = max(0, φ_B*(v) − c) of every group, (G,)."""
        return np.maximum(0.0, self.shrinkage_conjugate(v, groups) - self.price)

    def _of(self, chosen: np.ndarray) -> Square:
        def pick(value):
            return np.broadcast_to(value, chosen.shape)[chosen]

        return Square(pick(self.shrinkage), pick(self.price), pick(self.bound))


def bounded_prox_indicator(term: Square, magnitude: Array, step: float, group_sum, spread) -> Array:
    """Indicator y of prox_{t·h} of groups whose bound is active, by Newton in one dimension.

    For fixed y the minimiser is clip(v·y/(y+2ta), ±My). With z = y + 2ta the derivative of the
    minimum in y is

        f(z) = t·c − t·a·Σ_k min(|v_k|/z, M)² − M·Σ_k max(0, |v_k| − M·z),

    increasing and concave in z, so Newton from the left end z = 2ta rises monotonically to the
    root.

    Parameters
    ----------
    term : Square
        With parameters of these groups alone, shape (G,).
    magnitude : (D,) array
        |v| of these groups' weights.
    step : float
        t > 0.
    group_sum, spread : callables
        (D,) to (G,) sums, and (G,) to (D,) copies.

    Returns
    -------
    (G,) array, in [0, 1]
    """
    xp = array_namespace(magnitude)
    a, c, bound = term.shrinkage, term.price, term.bound
    low, high = 2 * step * a, 1 + 2 * step * a
    z = low
    m = spread(bound)
    for _ in range(_NEWTON_STEPS):
        wide = spread(z)
        clipped = magnitude > m * wide
        zero = xp.zeros_like(magnitude)
        ratio = xp.where(clipped, m, magnitude / wide)
        excess = group_sum(xp.where(clipped, magnitude - m * wide, zero))
        f = step * c - step * a * group_sum(ratio**2) - bound * excess
        slope = 2 * step * a * group_sum(
            xp.where(clipped, zero, ratio**2)
        ) / z + bound**2 * group_sum(xp.where(clipped, xp.ones_like(magnitude), zero))
        ahead = xp.where(f < 0, z - f / slope, z)
        ahead = xp.minimum(xp.maximum(ahead, z), high)
        if bool(xp.all(ahead - z <= 2 * xp.finfo(z.dtype).eps * ahead)):
            break
        z = ahead
    return xp.clip(z - low, 0, 1)


def norm_and_peak(w: np.ndarray, groups: Partition | None = None) -> tuple[np.ndarray, np.ndarray]:
    """s = ‖w_j‖₂ and m = ‖w_j‖∞ of every group, each (G,)."""
    flat, groups = _flatten(w, groups)
    return np.sqrt(groups.sum(flat * flat)), groups.max(np.abs(flat))


def _flatten(w: np.ndarray, groups: Partition | None) -> tuple[np.ndarray, Partition]:
    w = np.asarray(w, dtype=np.float64)
    if groups is None:
        if w.ndim != 2:
            raise InputError("weights without a partition must be a (groups, size) array")
        groups = Partition(np.full(w.shape[0], w.shape[1]))
    if w.size != groups.sizes.sum():
        raise InputError(f"{w.size} weights do not fill groups of {groups.sizes.sum()}")
    return w.reshape(-1), groups
