"""The projection h of a pruning term as a function of a group's norm and peak.

For every group of weights w the pruning MIP holds

    φ(w) + c·y,     ‖w‖∞ ≤ M·y (or ‖w‖₂ ≤ M·y),     y ∈ {0, 1},

with the shrinkage φ(w) = ψ(‖w‖_p), the price c of keeping the group and the bound M. Its
perspective reformulation, y projected away, is the convex regularizer

    h(w) = min { y·φ(w/y) + c·y  :  ‖w‖/M ≤ y ≤ 1 }

(Frangioni & Gentile 2006 for the perspective; Cacciola, Frangioni, Li & Lodi 2022,
arXiv 2206.14056, for the projection as a regularizer, there with φ = a‖w‖² and called SPR).

With s = ‖w‖_p, F(r) = r·ψ'(r) − ψ(r) and r* = inf {r : F(r) ≥ c},

    y*(w) = min(1, max(‖w‖/M, s/r*)),     h = y*·ψ(s/y*) + c·y*.

Everything here depends on a group only through its norm s and its peak (the norm that the bound
limits), and is written once against the array API standard: the solvers call it with NumPy arrays
in float64, the trainer with torch tensors on any device. The formulas of ψ are those of the term's
:class:`formulations.terms.profile.Profile`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike

from formulations.arrays import AnyArray, Array, ArrayT, FloatArray, IntArray
from formulations.errors import InputError
from formulations.terms.profile import Profile


@dataclass(frozen=True, eq=False)
class Projection:
    """φ(w) + c·y of a group, and its projection h.

    Parameters
    ----------
    profile : Profile
        ψ and its formulas.
    price : () or (G,) array
        c > 0, in the units of the objective, paid once for a group that is kept.
    bound : () or (G,) array
        M > 0, largest magnitude (or 2-norm) of a kept group; ``inf`` for none.
    weight : () or (G,) array
        Factor of ψ, positive.
    extract : () or (G,) array
        δ ≥ 0: δ‖w‖² is subtracted again, from φ and from h, which then need not be convex.
    parameters : mapping of str to () or (G,) array
        The parameters of ψ by name.

    Attributes
    ----------
    radius : (G,) or () array
        r*: the norm at which a group is fully paid for; infinite where no norm is.
    free_slope : (G,) or () array
        h/s where neither the bound nor y = 1 holds: (ψ(r*) + c)/r*, or ψ'(∞).
    largest_extract : float
        Of all groups, at least: a plain number, as a GPU would have to be waited for.
    blocks, block_price : None
        Arrays where indicators are nested: :class:`formulations.terms.nested.NestedTerm`.

    Raises
    ------
    InputError
        If a number is not what it must be.

    Notes
    -----
    Its numbers are NumPy arrays; :meth:`to` gives the same for torch tensors.
    """

    profile: Profile
    price: AnyArray
    bound: AnyArray = field(default_factory=lambda: np.asarray(np.inf))
    weight: AnyArray = field(default_factory=lambda: np.asarray(1.0))
    extract: AnyArray = field(default_factory=lambda: np.asarray(0.0))
    parameters: Mapping[str, AnyArray] = field(default_factory=dict)
    radius: AnyArray = field(init=False)
    free_slope: AnyArray = field(init=False)
    largest_extract: float = field(init=False)
    blocks: IntArray | None = field(init=False, default=None)
    block_price: AnyArray = field(init=False, default=None)

    # all numbers of a group, and those that double when the objective does
    _NUMBERS: ClassVar[tuple[str, ...]] = (
        *("price", "bound", "weight", "extract", "radius", "free_slope"),
    )
    _EXTENSIVE: ClassVar[tuple[str, ...]] = (
        *("price", "weight", "extract", "free_slope", "largest_extract"),
    )

    def __post_init__(self) -> None:
        price, bound = self._number("price"), self._number("bound", infinite=True)
        weight, extract = self._number("weight"), self._number("extract", zero=True)
        if extract.any() and self.profile.norm_order != 2:
            raise InputError("extraction subtracts δ‖w‖₂²: it goes with the norm ‖·‖₂ alone")
        parameters = {k: np.asarray(v, np.float64) for k, v in self.parameters.items()}
        numbers = {"price": price, "bound": bound, "weight": weight, "extract": extract}
        shapes = {name: value.shape for name, value in {**numbers, **parameters}.items()}
        if len({shape for shape in shapes.values() if shape}) > 1:
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
            raise InputError(f"one number for each group, or one for all, fit: not {shown}")
        self._set(**numbers, parameters=parameters)
        with np.errstate(over="ignore"):  # of the least weights: r* is infinite then
            radius = self.profile.find_radius(price / weight, parameters)
        finite = np.isfinite(radius)
        safe = np.where(finite, radius, 1.0)
        paid = (self.phi(safe) + price) / safe
        limit = weight * self.profile.slope_limit(np, **parameters)
        free_slope = np.where(finite, paid, limit)
        self._set(radius=radius, free_slope=free_slope)
        self._set(largest_extract=float(extract.max(initial=0.0)))
        if (np.isinf(bound) & (free_slope == 0)).any():
            raise InputError("φ = 0 needs a bound M: without one the penalty vanishes")

    def _number(self, name: str, zero: bool = False, infinite: bool = False) -> FloatArray:
        """A number for each group or for all, checked: positive, or 0 or infinite too."""
        value = np.asarray(getattr(self, name), dtype=np.float64)
        wrong = ~(value >= 0) if zero else ~(value > 0)
        if not infinite:
            wrong |= np.isinf(value)
        if wrong.any():
            least = "must not be negative" if zero else "must be positive"
            raise InputError(f"{name} {least}: it is {value[wrong][0]:g}")
        return value

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # ---- the same term, otherwise ---------------------------------------------------------------

    def to(self, like: Array) -> Self:
        """The term for arrays of another library, precision or device: those of ``like``."""
        xp = array_namespace(like)

        def convert(value: Any) -> AnyArray:
            own = np.array(value) if isinstance(value, np.ndarray | float) else value
            return xp.asarray(own, dtype=like.dtype, device=like.device)

        return self._changed(convert, self._NUMBERS, parameters=True)

    def scaled(self, factor: float) -> Self:
        """The term of factor·(φ + c·y): same bound, same r*."""
        return self._changed(lambda v: v * factor, self._EXTENSIVE)

    def in_units(self, objective: int, weights: IntArray | None) -> Self:
        """The term in units of 2 to these powers: of the objective, and of the weights (G,).

        Other units of the weights are for φ = a‖w‖² alone. NumPy.
        """
        scaled = self._changed(lambda v: np.ldexp(v, -objective), self._EXTENSIVE)
        if weights is None:
            return scaled
        return replace(
            scaled,
            weight=np.ldexp(scaled.weight, 2 * weights),
            extract=np.ldexp(scaled.extract, 2 * weights),
            bound=np.ldexp(scaled.bound, -weights),
        )

    def take(self, chosen: Array) -> Self:
        """The term of some groups, by a (G,) mask. Of nested indicators no part can be taken."""
        xp = array_namespace(chosen)

        def pick(value: AnyArray) -> AnyArray:
            return xp.broadcast_to(value, chosen.shape)[chosen]

        return self._changed(pick, Projection._NUMBERS, parameters=True)

    def single(self, group: int, groups: int) -> Self:
        """The term of one group of so many, its numbers without an axis. NumPy."""

        def pick(value: FloatArray) -> AnyArray:
            return np.broadcast_to(value, (groups,))[group]

        return self._changed(pick, Projection._NUMBERS, parameters=True)

    def bounded_by(self, bound: ArrayLike) -> Self:
        """The term with another bound M, a number or one for each group."""
        return replace(self, bound=np.asarray(bound))

    def priced(self, price: ArrayLike) -> Self:
        """The term with another price c, a number or one for each group."""
        return replace(self, price=np.asarray(price))

    def without_extraction(self) -> Self:
        """The convex term: φ and h with nothing subtracted."""
        return self._changed(lambda v: 0 * v, ("extract", "largest_extract"))

    def with_square(self, delta: ArrayLike) -> Self:
        """The term of φ + δ‖w‖², δ ≥ 0 a number or one for each group; the norm must be ‖·‖₂."""
        parameters = {**self.parameters, "square": np.asarray(delta) / self.weight}
        return replace(self, profile=self.profile.with_square(), parameters=parameters)

    def _changed(
        self, change: Callable[[Any], Any], names: Sequence[str], parameters: bool = False
    ) -> Self:
        other = copy.copy(self)
        other._set(**{name: change(getattr(self, name)) for name in names})
        if parameters:
            other._set(parameters={name: change(v) for name, v in self.parameters.items()})
        return other

    # ---- ψ, weighted ----------------------------------------------------------------------------

    def phi(self, r: ArrayT) -> ArrayT:
        """φ of a group with norm r, before the extraction."""
        return self.weight * self.profile.value(array_namespace(r), r, **self.parameters)

    def slope(self, r: ArrayT) -> ArrayT:
        """φ' along the norm."""
        return self.weight * self.profile.slope(array_namespace(r), r, **self.parameters)

    def legendre(self, r: ArrayT) -> ArrayT:
        """F(r) = r·φ'(r) − φ(r), the Legendre transform of φ at its slope there; it is c at r*."""
        return self.weight * self.profile.legendre(array_namespace(r), r, **self.parameters)

    def curvature(self, r: ArrayT) -> ArrayT:
        """φ'' along the norm."""
        return self.weight * self.profile.curvature(array_namespace(r), r, **self.parameters)

    @property
    def ridge(self) -> AnyArray | None:
        """The a of φ(w) = a‖w‖², before the extraction; None for any other φ."""
        if self.profile.ridge is None:
            return None
        xp = array_namespace(self.weight)
        return self.weight * self.profile.ridge(xp, **self.parameters)

    @property
    def superlinear(self) -> bool:
        """Whether φ grows faster than any multiple of the norm, in all groups."""
        return bool(np.all(np.isinf(self.profile.slope_limit(np, **self.parameters))))

    # ---- of a group's norm and peak; any array library ------------------------------------------

    def uncapped_indicator(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """max(peak/M, s/r*): the keep-score before it is cut at 1; it still ranks kept groups."""
        xp = array_namespace(norm)
        return xp.maximum(peak / self.bound, norm / self.radius)

    def indicator(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """y*(w) = min(1, max(peak/M, s/r*)), in [0, 1]: the relaxed indicator."""
        xp = array_namespace(norm)
        return xp.clip(self.uncapped_indicator(norm, peak), 0, 1)

    def regimes(self, norm: ArrayT, peak: ArrayT) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Boolean masks (free, bound, kept): which piece of h a group is on.

        Free where peak/M ≤ s/r* ≤ 1, bound where s/r* < peak/M ≤ 1, kept where s/r* > 1.
        """
        share, ratio = peak / self.bound, norm / self.radius
        kept = ratio > 1
        decides = ~kept & (share > ratio)
        return ~kept & ~decides, decides, kept

    def projected(self, norm: ArrayT, peak: ArrayT) -> ArrayT:
        """h(w) − δ‖w‖²; infinite where the peak is beyond M (and beyond rounding)."""
        xp = array_namespace(norm)
        free, _, _ = self.regimes(norm, peak)
        y = self.indicator(norm, peak)
        safe = xp.where(free, xp.ones_like(y), y)
        paid = safe * self.phi(norm / safe) + self.price * safe
        h = xp.where(free, self.free_slope * norm, paid) - self.extract * norm**2
        return xp.where(self.outside(peak), xp.full_like(h, float("inf")), h)

    def perspective_of(self, norm: ArrayT, y: ArrayT) -> ArrayT:
        """y·φ(s/y) − δs²; at y = 0 the recession function of φ where s > 0, else 0."""
        xp = array_namespace(norm)
        alive, zero = y > 0, xp.zeros_like(norm)
        safe = xp.where(alive, y, zero + 1)
        limit = self.weight * self.profile.slope_limit(xp, **self.parameters)
        far = xp.where(norm > 0, limit * xp.where(norm > 0, norm, zero + 1), zero)
        return xp.where(alive, safe * self.phi(norm / safe), far) - self.extract * norm**2

    def outside(self, peak: ArrayT) -> AnyArray:
        """Whether the peak is beyond M, and beyond the rounding of the array's precision."""
        xp = array_namespace(peak)
        return peak > self.bound * (1 + 4 * xp.finfo(peak.dtype).eps)

    def gradient_factors(self, norm: ArrayT, peak: ArrayT) -> tuple[ArrayT, ArrayT]:
        """(radial, axial) of the gradient radial·sign(w)|w|^(p−1) + axial·sign(w_k)·e_k, each (G,).

        The k is the argmax of |w|. By the envelope theorem the derivative by the norm is ψ'(s/y*),
        and that by the peak, (c − F(s/y*))/M, appears only where the bound decides y*; with a ball,
        whose peak is the norm, it is part of the radial one. At w = 0 both are 0, the smallest
        subgradient.
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
        with np.errstate(invalid="ignore"):  # infinite over infinite, where no bound decides
            axial = xp.where(decides, (self.price - self.legendre(r)) / self.bound, zero)
        if self.profile.ball:
            along, axial = along + axial, zero
        scale = xp.where(positive, norm, one) ** (self.profile.norm_order - 1)
        return xp.where(positive, along / scale - 2 * self.extract, zero), axial

    def prox_factor(self, norm: ArrayT, peak: ArrayT, step: ArrayT | float) -> ArrayT:
        """Factor of a group's weights in the proximal step of length t, (G,).

        For the norm ‖·‖₂ it follows from norm and peak. With k = t·h/s of the free regime the new
        norm σ is 0 for s ≤ k, s − k while that is at most r*, and beyond it solves
        σ + t·ψ'(σ) = s. The factor is NaN where :meth:`Term.prox_by_search` has to find the step:
        where a box is active at the solution, and for other norms.

        Parameters
        ----------
        norm, peak : (G,) arrays
        step : float or (G,) array
            t > 0.

        Raises
        ------
        InputError
            If the step is too long for the extraction: 2tδ must stay below 1.
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

    def _convexify(self, step: AnyArray | float) -> AnyArray:
        """1/(1 − 2tδ): prox of h − δ‖w‖² with step t is prox of h with t and v times this."""
        longest = float(step if isinstance(step, float | int) else step.max())
        if 2 * longest * self.largest_extract >= 1:
            raise InputError(
                f"a proximal step of {longest:g} is too long for an extraction of "
                f"{self.largest_extract:g}: their product must stay below 1/2"
            )
        return 1 / (1 - 2 * step * self.extract)
