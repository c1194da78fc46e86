"""The term of the pruning MIP and the regularizer that its perspective reformulation projects to.

For every group of weights w the pruning MIP holds

    φ(w) + c·y,     ‖w‖∞ ≤ M·y (or ‖w‖₂ ≤ M·y),     y ∈ {0, 1},

with the shrinkage φ(w) = ψ(‖w‖_p), the price c of keeping the group and the bound M. Its
perspective reformulation, y projected away, is the convex regularizer

    h(w) = min { y·φ(w/y) + c·y  :  ‖w‖/M ≤ y ≤ 1 }

(Frangioni & Gentile 2006 for the perspective; Cacciola, Frangioni, Li & Lodi 2022,
arXiv 2206.14056, for the projection as a regularizer, there with φ = a‖w‖² and called SPR).

With s = ‖w‖_p, F(r) = r·ψ'(r) − ψ(r) and r* = inf {r : F(r) ≥ c},

    y*(w) = min(1, max(‖w‖/M, s/r*)),     h = y*·ψ(s/y*) + c·y*.

A :class:`Term` computes all of this from its :class:`formulations.terms.profile.Profile`, which
:mod:`formulations.symbolic.derivation` generates. Everything that depends on a group only through
its norm s and its peak (the norm that the bound limits) is written once against the array API
standard: the solvers call it with NumPy arrays in float64, the trainer with torch tensors on any
device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from formulations.errors import InputError
from formulations.terms import prox_search
from formulations.terms.profile import Profile
from formulations.terms.prox_search import Layout

Array = Any  # an array of any library that follows the array API standard


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
        self.layout = Layout(self.sum, self.max, self.expand)

    def sum(self, x: np.ndarray) -> np.ndarray:
        """(D,) entries to (G,) sums."""
        return np.add.reduceat(x, self.starts)

    def max(self, x: np.ndarray) -> np.ndarray:
        """(D,) entries to (G,) maxima."""
        return np.maximum.reduceat(x, self.starts)

    def expand(self, x: np.ndarray) -> np.ndarray:
        """(G,) numbers, or one, to the (D,) entries of the groups."""
        return np.repeat(np.broadcast_to(x, self.sizes.shape), self.sizes)


@dataclass(frozen=True, eq=False)
class Term:
    """φ(w) + c·y of a group, and its projection h.

    Parameters
    ----------
    profile : Profile
        ψ and its formulas.
    price : float or (G,) array
        c > 0, in the units of the objective, paid once for a group that is kept.
    bound : float or (G,) array
        M > 0, largest magnitude (or 2-norm) of a kept group; ``inf`` for none.
    weight : float or (G,) array
        Factor of ψ, positive.
    extract : float or (G,) array
        δ ≥ 0: δ‖w‖² is subtracted again, from φ and from h, which then need not be convex.
    parameters : mapping of str to float or (G,) array
        The parameters of ψ by name.

    Attributes
    ----------
    radius : (G,) or () array
        r*: the norm at which a group is fully paid for; infinite where no norm is.
    free_slope : (G,) or () array
        h/s where neither the bound nor y = 1 holds: (ψ(r*) + c)/r*, or ψ'(∞).
    largest_extract : float
        Of all groups, at least: a plain number, as a GPU would have to be waited for.

    Raises
    ------
    InputError
        If a number is not what it must be.

    Notes
    -----
    Arrays of weights come either as ``(G, d)`` (equal groups, one a row) or as ``(D,)`` with a
    :class:`Partition` (ragged groups). Results of the same shape, or ``(G,)`` for one number a
    group. :meth:`to` gives the same term for torch tensors.
    """

    profile: Profile
    price: Array
    bound: Array = float("inf")
    weight: Array = 1.0
    extract: Array = 0.0
    parameters: Mapping[str, Array] = field(default_factory=dict)
    radius: Array = field(init=False)
    free_slope: Array = field(init=False)
    largest_extract: float = field(init=False)

    blocks: ClassVar = None  # of the groups, where indicators are nested

    # all numbers of a group, and those that double when the objective does
    _NUMBERS: ClassVar = ("price", "bound", "weight", "extract", "radius", "free_slope")
    _EXTENSIVE: ClassVar = ("price", "weight", "extract", "free_slope", "largest_extract")

    def __post_init__(self):
        for name in ("price", "bound", "weight", "extract"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, value)
            wrong = ~(value >= 0) if name == "extract" else ~(value > 0)
            if name != "bound":
                wrong |= np.isinf(value)
            if wrong.any():
                least = "must not be negative" if name == "extract" else "must be positive"
                raise InputError(f"{name} {least}: it is {value[wrong][0]:g}")
        if self.extract.any() and self.profile.norm_order != 2:
            raise InputError("extraction subtracts δ‖w‖₂²: it goes with the norm ‖·‖₂ alone")
        parameters = {k: np.asarray(v, np.float64) for k, v in self.parameters.items()}
        shapes = {"price": self.price.shape, "bound": self.bound.shape}
        shapes |= {"weight": self.weight.shape, "extract": self.extract.shape}
        shapes |= {name: value.shape for name, value in parameters.items()}
        if len({shape for shape in shapes.values() if shape}) > 1:
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
            raise InputError(f"one number for each group, or one for all, fit: not {shown}")
        object.__setattr__(self, "parameters", parameters)
        radius = self.profile.find_radius(self.price / self.weight, parameters)
        finite = np.isfinite(radius)
        safe = np.where(finite, radius, 1.0)
        paid = (self.phi(safe) + self.price) / safe
        limit = self.weight * self.profile.slope_limit(np, **parameters)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "free_slope", np.where(finite, paid, limit))
        object.__setattr__(self, "largest_extract", float(self.extract.max(initial=0.0)))
        vanishing = np.isinf(self.bound) & (self.free_slope == 0)
        if vanishing.any():
            raise InputError("φ = 0 needs a bound M: without one the penalty vanishes")

    # ---- the same term, otherwise ---------------------------------------------------------------

    def to(self, like: Array) -> Term:
        """The term for arrays of another library, precision or device: those of ``like``."""
        xp = array_namespace(like)

        def convert(value):
            own = np.array(value) if isinstance(value, np.ndarray | float) else value
            return xp.asarray(own, dtype=like.dtype, device=like.device)

        return self._changed(convert, self._NUMBERS, parameters=True)

    def scaled(self, factor: float) -> Term:
        """The term of factor·(φ + c·y): same bound, same r*."""
        return self._changed(lambda v: v * factor, self._EXTENSIVE)

    def take(self, chosen: Array) -> Term:
        """The term of some groups, by a (G,) mask."""
        xp = array_namespace(chosen)

        def pick(value):
            return xp.broadcast_to(value, chosen.shape)[chosen]

        return self._changed(pick, Term._NUMBERS, parameters=True)

    def single(self, group: int, groups: int) -> Term:
        """The term of one group of so many, its numbers without an axis. NumPy."""

        def pick(value):
            return np.broadcast_to(value, (groups,))[group]

        return self._changed(pick, Term._NUMBERS, parameters=True)

    def bounded_by(self, bound: Array) -> Term:
        """The term with another bound M."""
        return replace(self, bound=bound)

    def priced(self, price: Array) -> Term:
        """The term with another price c."""
        return replace(self, price=price)

    def without_extraction(self) -> Term:
        """The convex term: φ and h with nothing subtracted."""
        return self._changed(lambda v: 0 * v, ("extract", "largest_extract"))

    def with_square(self, delta: Array) -> Term:
        """The term of φ + δ‖w‖², δ ≥ 0 a number or one for each group; the norm must be ‖·‖₂."""
        parameters = {**self.parameters, "square": np.asarray(delta) / self.weight}
        return replace(self, profile=self.profile.with_square(), parameters=parameters)

    def _changed(self, change: Callable, names: Sequence[str], parameters: bool = False) -> Term:
        other = copy.copy(self)
        for name in names:
            object.__setattr__(other, name, change(getattr(self, name)))
        if parameters:
            changed = {name: change(value) for name, value in self.parameters.items()}
            object.__setattr__(other, "parameters", changed)
        return other

    # ---- ψ, weighted ----------------------------------------------------------------------------

    def phi(self, r: Array) -> Array:
        """φ of a group with norm r, before the extraction."""
        return self.weight * self.profile.value(array_namespace(r), r, **self.parameters)

    def slope(self, r: Array) -> Array:
        """φ' along the norm."""
        return self.weight * self.profile.slope(array_namespace(r), r, **self.parameters)

    def legendre(self, r: Array) -> Array:
        """F(r) = r·φ'(r) − φ(r), which is c at r*."""
        return self.weight * self.profile.legendre(array_namespace(r), r, **self.parameters)

    def curvature(self, r: Array) -> Array:
        """φ'' along the norm."""
        return self.weight * self.profile.curvature(array_namespace(r), r, **self.parameters)

    @property
    def ridge(self) -> Array | None:
        """A where φ(w) = a‖w‖² before the extraction, else None."""
        if self.profile.ridge is None:
            return None
        xp = array_namespace(self.weight)
        return self.weight * self.profile.ridge(xp, **self.parameters)

    @property
    def superlinear(self) -> bool:
        """Whether φ grows faster than any multiple of the norm, in all groups."""
        return bool(np.all(np.isinf(self.profile.slope_limit(np, **self.parameters))))

    # ---- of a group's norm and peak; any array library ------------------------------------------

    def uncapped_indicator(self, norm: Array, peak: Array) -> Array:
        """max(peak/M, s/r*): the keep-score before it is cut at 1; it still ranks kept groups."""
        xp = array_namespace(norm)
        return xp.maximum(peak / self.bound, norm / self.radius)

    def indicator(self, norm: Array, peak: Array) -> Array:
        """y*(w) = min(1, max(peak/M, s/r*)), in [0, 1]: the relaxed indicator."""
        xp = array_namespace(norm)
        return xp.clip(self.uncapped_indicator(norm, peak), 0, 1)

    def regimes(self, norm: Array, peak: Array) -> tuple[Array, Array, Array]:
        """Boolean masks (free, bound, kept): which piece of h a group is on.

        Free where peak/M ≤ s/r* ≤ 1, bound where s/r* < peak/M ≤ 1, kept where s/r* > 1.
        """
        share, ratio = peak / self.bound, norm / self.radius
        kept = ratio > 1
        decides = ~kept & (share > ratio)
        return ~kept & ~decides, decides, kept

    def projected(self, norm: Array, peak: Array) -> Array:
        """h(w) − δ‖w‖²; infinite where the peak is beyond M (and beyond rounding)."""
        xp = array_namespace(norm)
        free, _, _ = self.regimes(norm, peak)
        y = self.indicator(norm, peak)
        safe = xp.where(free, xp.ones_like(y), y)
        paid = safe * self.phi(norm / safe) + self.price * safe
        h = xp.where(free, self.free_slope * norm, paid) - self.extract * norm**2
        return xp.where(self.outside(peak), xp.full_like(h, float("inf")), h)

    def perspective_of(self, norm: Array, y: Array) -> Array:
        """y·φ(s/y) − δs²; at y = 0 the recession function of φ where s > 0, else 0."""
        xp = array_namespace(norm)
        alive, zero = y > 0, xp.zeros_like(norm)
        safe = xp.where(alive, y, zero + 1)
        limit = self.weight * self.profile.slope_limit(xp, **self.parameters)
        far = xp.where(norm > 0, limit * xp.where(norm > 0, norm, zero + 1), zero)
        return xp.where(alive, safe * self.phi(norm / safe), far) - self.extract * norm**2

    def outside(self, peak: Array) -> Array:
        """Whether the peak is beyond M, and beyond the rounding of the array's precision."""
        xp = array_namespace(peak)
        return peak > self.bound * (1 + 4 * xp.finfo(peak.dtype).eps)

    def gradient_factors(self, norm: Array, peak: Array) -> tuple[Array, Array]:
        """(radial, axial) of the gradient radial·sign(w)|w|^(p−1) + axial·sign(w_k)·e_k.

        k is the argmax. By the envelope theorem the derivative by the norm is ψ'(s/y*), and that by
        the peak, (c − F(s/y*))/M, appears only where the bound decides y*; with a ball, whose peak
        is the norm, it is part of the radial one. At w = 0 both are 0, the smallest subgradient.
        """
        xp = array_namespace(norm)
        free, decides, _ = self.regimes(norm, peak)
        # 1/s would overflow for the smallest numbers, which count as zero
        kind = xp.finfo(norm.dtype)
        positive = norm > kind.smallest_normal / kind.eps
        one, zero = xp.ones_like(norm), xp.zeros_like(norm)
        y = xp.where(free | ~positive, one, self.indicator(norm, peak))
        r = xp.where(positive, norm, one) / y
        along = xp.where(free, self.free_slope + zero, self.slope(r))
        decides = decides & positive
        axial = xp.where(decides, (self.price - self.legendre(r)) / self.bound, zero)
        if self.profile.ball:
            along, axial = along + axial, zero
        scale = xp.where(positive, norm, one) ** (self.profile.norm_order - 1)
        return xp.where(positive, along / scale - 2 * self.extract, zero), axial

    def prox_factor(self, norm: Array, peak: Array, step: float) -> Array:
        """Factor of a group's weights in the proximal step of length t, (G,).

        For the norm ‖·‖₂ it follows from norm and peak. With k = t·h/s of the free regime the new
        norm σ is 0 for s ≤ k, s − k while that is at most r*, and beyond it solves
        σ + t·ψ'(σ) = s. The factor is NaN where :meth:`prox_by_search` has to find the step: where
        a box is active at the solution, and for other norms.
        """
        xp = array_namespace(norm)
        nan = xp.full_like(norm, float("nan"))
        if self.profile.norm_order != 2:
            return nan
        convex = self._convexify(step)
        norm, peak, step = norm * convex, peak * convex, step * convex
        zero = xp.zeros_like(norm)
        radius, free_slope = self.radius + zero, self.free_slope + zero
        if self.profile.ball:  # y ≥ s/M: the free regime ends at M
            nearer = self.bound < radius
            edge = xp.where(nearer, self.bound + zero, zero + 1)
            free_slope = xp.where(nearer, (self.phi(edge) + self.price) / edge, free_slope)
            radius = xp.where(nearer, edge, radius)
        new = xp.maximum(norm - step * free_slope, zero)
        kept = new > radius
        least = xp.where(kept, radius, zero)
        beyond = self.profile.find_prox(
            xp.where(kept, norm, zero), step * self.weight + zero, least, self.parameters
        )
        new = xp.where(kept, xp.maximum(beyond, least), new)
        if self.profile.ball:
            new = xp.minimum(new, self.bound + zero)
        factor = new / xp.where(norm > 0, norm, zero + 1)
        if not self.profile.ball:
            limited = self.bound < float("inf")
            y = xp.clip(new / self.radius, 0, 1)
            reach = xp.where(limited, self.bound, xp.ones_like(self.bound)) * y
            active = (new > 0) & (peak * factor > reach) & limited
            factor = xp.where(active, nan, factor)
        return factor * convex

    def prox_by_search(self, size: Array, step: float, layout: Layout) -> Array:
        """The proximal step where :meth:`prox_factor` has no answer: magnitudes, (D,).

        Parameters
        ----------
        size : (D,) array
            |v| of these groups' weights; the term is of these groups alone.
        step : float
            t > 0.
        layout : Layout
        """
        convex = self._convexify(step) + layout.sum(0 * size)
        return prox_search.prox(self, size * layout.expand(convex), step * convex, layout)

    def _convexify(self, step: float) -> Array:
        """1/(1 − 2tδ): prox of h − δ‖w‖² with step t is prox of h with t and v times this."""
        if 2 * step * self.largest_extract >= 1:
            raise InputError(
                f"a proximal step of {step:g} is too long for an extraction of "
                f"{self.largest_extract:g}: their product must stay below 1/2"
            )
        return 1 / (1 - 2 * step * self.extract)

    # ---- of the weights themselves; NumPy -------------------------------------------------------

    def measure(self, w: np.ndarray, groups: Partition | None = None):
        """(norm, peak) of every group, each (G,): s = ‖w_j‖_p, and ‖w_j‖∞ or ‖w_j‖₂."""
        flat, groups = _flatten(w, groups)
        size = np.abs(flat)
        layout = groups.layout
        return layout.norm(size, self.profile.norm_order), layout.norm(
            size, self.profile.peak_order
        )

    def value(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """H − δ‖w‖² of every group, (G,). Infinite for a group beyond its bound."""
        return self.projected(*self.measure(w, groups))

    def shrinkage(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """φ(w) − δ‖w‖² of every group, (G,): what a kept group pays beside its price."""
        norm, _ = self.measure(w, groups)
        return self.phi(norm) - self.extract * norm**2

    def perspective(self, w: np.ndarray, y: np.ndarray, groups=None) -> np.ndarray:
        """y·φ(w/y) − δ‖w‖² of every group, (G,), for indicators y: the price is not in it."""
        norm, _ = self.measure(w, groups)
        return self.perspective_of(norm, y)

    def keep(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """Keep-score y*(w) of every group, (G,), in [0, 1]."""
        return self.indicator(*self.measure(w, groups))

    def gradient(self, w: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """A (sub)gradient of Σ_j (h_j − δ‖w_j‖²), shaped like w.

        Where several weights share the peak, the axial part is shared among them, which is a
        subgradient too.
        """
        flat, groups = _flatten(w, groups)
        norm, peak = self.measure(flat, groups)
        radial, axial = self.gradient_factors(norm, peak)
        along = np.sign(flat) * np.abs(flat) ** (self.profile.norm_order - 1)
        at_peak = np.abs(flat) == groups.expand(peak)
        axial = axial / np.maximum(groups.sum(at_peak.astype(np.float64)), 1)
        result = groups.expand(radial) * along + groups.expand(axial) * at_peak * np.sign(flat)
        return result.reshape(np.shape(w))

    def prox(self, w: np.ndarray, step: float, groups: Partition | None = None) -> np.ndarray:
        """argmin_x ½‖x − w‖² + t·Σ_j (h_j(x) − δ‖x_j‖²), shaped like w.

        Parameters
        ----------
        w : (G, d) or (D,) array
        step : float
            t > 0, below 1/(2δ).

        Raises
        ------
        InputError
            If the step is not positive, or too long for the extraction.
        """
        if not step > 0:
            raise InputError(f"the proximal step must be positive: it is {step:g}")
        flat, groups = _flatten(w, groups)
        factor = self.prox_factor(*self.measure(flat, groups), step)
        searched = np.isnan(factor)
        result = flat * groups.expand(factor)
        if searched.any():
            inside, chosen = Partition(groups.sizes[searched]), groups.expand(searched)
            size = self.take(searched).prox_by_search(np.abs(flat[chosen]), step, inside.layout)
            result[chosen] = np.sign(flat[chosen]) * size
        if not self.profile.ball:  # rounding
            bound = groups.expand(self.bound)
            result = np.clip(result, -bound, bound)
        return result.reshape(np.shape(w))

    def shrinkage_prox(
        self, w: np.ndarray, step, y=1.0, groups: Partition | None = None, limit=None
    ) -> np.ndarray:
        """argmin_x ½‖x − w‖² + Σ_j t_j·y_j·φ(x_j/y_j) within the bounds, shaped like w.

        Parameters
        ----------
        w : (G, d) or (D,) array
        step, y : float or (G,) array
            t > 0 and the indicators, positive. Price and extraction play no part.
        limit : array shaped like w, optional
            Largest magnitudes, instead of the bound M·y.
        """
        flat, groups = _flatten(w, groups)
        layout, size, shape = groups.layout, np.abs(flat), groups.sizes.shape
        term = self.take(np.ones(shape, bool))
        step, y = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in (step, y))
        if limit is None:
            if term.profile.ball:
                limit = np.full(size.shape, np.inf)
            else:
                limit = groups.expand(term.bound * y)
        limit = np.reshape(limit, -1)
        if term.profile.norm_order == 2:
            norm = layout.norm(size, 2)
            new = y * term.profile.find_prox(
                norm / y, step * term.weight / y, np.zeros(shape), term.parameters
            )
            if term.profile.ball:
                new = np.minimum(new, term.bound * y)
            result = size * groups.expand(new / np.where(norm > 0, norm, 1.0))
            searched = layout.max((result > limit).astype(float)) > 0
        else:
            result, searched = np.zeros_like(size), np.ones(shape, bool)
        if searched.any():
            inside, chosen = Partition(groups.sizes[searched]), groups.expand(searched)
            result[chosen], _ = prox_search.shrinkage_prox(
                *(term.take(searched), size[chosen], step[searched], y[searched]),
                *(limit[chosen], inside.layout),
            )
        return (np.sign(flat) * result).reshape(np.shape(w))

    def shrinkage_conjugate(self, v: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """φ_B*(v) = sup { ⟨v, w⟩ − φ(w) : w within the bound } of every group, (G,)."""
        flat, groups = _flatten(v, groups)
        size, layout, order = np.abs(flat), groups.layout, self.profile.norm_order
        dual = layout.norm(size, order / (order - 1) if order > 1 else np.inf)
        term = self.take(np.ones(dual.shape, bool))
        # without a bound the maximiser has the norm ρ with ψ'(ρ) = ‖v‖_q
        rho = self.profile.invert_slope(dual / term.weight, term.parameters)
        if self.profile.ball:
            rho = np.minimum(rho, term.bound)
        finite = np.isfinite(rho)
        safe = np.where(finite, rho, 1.0)
        result = np.where(finite, dual * safe - term.phi(safe), np.inf)
        if self.profile.ball:
            return result
        reach = rho  # its largest magnitude, or more
        if order > 1:
            share = size / groups.expand(np.where(dual > 0, dual, 1.0))
            peak = layout.max(share) ** (1 / (order - 1))
            reach = np.where(peak > 0, rho, 0.0) * peak
        beyond = np.isfinite(term.bound) & ~(reach <= term.bound)
        if beyond.any():
            inside = Partition(groups.sizes[beyond])
            result[beyond], _ = prox_search.conjugate_in_box(
                term.take(beyond),
                size[groups.expand(beyond)],
                inside.expand(term.bound[beyond]),
                inside.layout,
            )
        return result

    def prices(self, y: np.ndarray) -> float:
        """What the indicators y (G,) pay together, Σ_j c_j·y_j."""
        return float(np.broadcast_to(self.price, y.shape) @ y)

    def conjugate(self, v: np.ndarray, groups: Partition | None = None) -> np.ndarray:
        """h*(v) = max(0, φ_B*(v) − c) of every group, (G,); of h before the extraction."""
        return np.maximum(0.0, self.shrinkage_conjugate(v, groups) - self.price)


def _flatten(w: np.ndarray, groups: Partition | None) -> tuple[np.ndarray, Partition]:
    w = np.asarray(w, dtype=np.float64)
    if groups is None:
        if w.ndim != 2:
            raise InputError("weights without a partition must be a (groups, size) array")
        groups = Partition(np.full(w.shape[0], w.shape[1]))
    if w.size != groups.sizes.sum():
        raise InputError(f"{w.size} weights do not fill groups of {groups.sizes.sum()}")
    return w.reshape(-1), groups
