"""The term φ(w) + c·y of a pruning MIP in numbers: what it says of arrays of weights.

A :class:`Term` is a :class:`formulations.terms.projection.Projection`, which has h as a function of
a group's norm and peak, with the functions of the weights themselves: value, gradient, proximal
steps, conjugates, keep-scores. Terms are made by :func:`formulations.derive`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from formulations.arrays import ArrayT, FloatArray
from formulations.errors import InputError
from formulations.terms import prox_search
from formulations.terms.partition import Layout, Partition, flatten
from formulations.terms.projection import Projection


@dataclass(frozen=True, eq=False)
class Term(Projection):
    """φ(w) + c·y of every group and its projection h, as functions of the weights. NumPy.

    Parameters and attributes as in :class:`formulations.terms.projection.Projection`.

    Notes
    -----
    Arrays of weights come either as ``(G, d)`` (equal groups, one a row) or as ``(D,)`` with a
    :class:`Partition` (ragged groups). Results have the same shape, or are ``(G,)`` for one number
    a group.
    """

    def measure(
        self, w: ArrayLike, groups: Partition | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """(norm, peak) of every group, each (G,): s = ‖w_j‖_p, and ‖w_j‖∞ or ‖w_j‖₂."""
        flat, groups = flatten(w, groups)
        size = np.abs(flat)
        layout = groups.layout
        profile = self.profile
        return layout.norm(size, profile.norm_order), layout.norm(size, profile.peak_order)

    def value(self, w: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """Values h − δ‖w‖² of every group, (G,); infinite for a group beyond its bound."""
        return self.projected(*self.measure(w, groups))

    def shrinkage(self, w: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """φ(w) − δ‖w‖² of every group, (G,): what a kept group pays beside its price."""
        norm, _ = self.measure(w, groups)
        return self.phi(norm) - self.extract * norm**2

    def perspective(
        self, w: ArrayLike, y: FloatArray, groups: Partition | None = None
    ) -> FloatArray:
        """The perspective y·φ(w/y) − δ‖w‖² of every group, (G,), without the price.

        Parameters
        ----------
        w : (G, d) or (D,) array
        y : (G,) array
            Indicators, in [0, 1].
        groups : Partition, optional
        """
        norm, _ = self.measure(w, groups)
        return self.perspective_of(norm, y)

    def keep(self, w: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """Keep-score y*(w) of every group, (G,), in [0, 1]."""
        return self.indicator(*self.measure(w, groups))

    def gradient(self, w: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """A (sub)gradient of Σ_j (h_j − δ‖w_j‖²), shaped like w.

        Where several weights share the peak, the axial part is shared among them, which is a
        subgradient too.
        """
        flat, groups = flatten(w, groups)
        norm, peak = self.measure(flat, groups)
        radial, axial = self.gradient_factors(norm, peak)
        along = np.sign(flat) * np.abs(flat) ** (self.profile.norm_order - 1)
        at_peak = np.abs(flat) == groups.expand(peak)
        axial = axial / np.maximum(groups.sum(at_peak.astype(np.float64)), 1)
        result = groups.expand(radial) * along + groups.expand(axial) * at_peak * np.sign(flat)
        return result.reshape(np.shape(w))

    def prox(self, w: ArrayLike, step: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """argmin_x Σ_j ½‖x_j − w_j‖² + t_j·(h_j(x) − δ‖x_j‖²), shaped like w.

        Parameters
        ----------
        w : (G, d) or (D,) array
        step : float or (G,) array
            t > 0, below 1/(2δ).

        Raises
        ------
        InputError
            If the step is not positive, or too long for the extraction.
        """
        if not np.min(step) > 0:
            raise InputError(f"the proximal step must be positive: it is {np.min(step):g}")
        flat, groups = flatten(w, groups)
        step = np.broadcast_to(np.asarray(step, np.float64), groups.sizes.shape)
        factor = self.prox_factor(*self.measure(flat, groups), step)
        searched = np.isnan(factor)
        result = flat * groups.expand(factor)
        if searched.any():
            inside, chosen = Partition(groups.sizes[searched]), groups.expand(searched)
            size = self.take(searched).prox_by_search(
                np.abs(flat[chosen]), step[searched], inside.layout
            )
            result[chosen] = np.sign(flat[chosen]) * size
        if not self.profile.ball:  # rounding
            bound = groups.expand(self.bound)
            result = np.clip(result, -bound, bound)
        return result.reshape(np.shape(w))

    def shrinkage_prox(
        self,
        w: ArrayLike,
        step: ArrayLike,
        y: ArrayLike = 1.0,
        groups: Partition | None = None,
        limit: ArrayLike | None = None,
    ) -> FloatArray:
        """argmin_x ½‖x − w‖² + Σ_j t_j·y_j·φ(x_j/y_j) within the bounds, shaped like w.

        Parameters
        ----------
        w : (G, d) or (D,) array
        step, y : float or (G,) array
            t > 0 and the indicators, positive. Price and extraction play no part.
        limit : array shaped like w, optional
            Largest magnitudes, instead of the bound M·y.
        """
        flat, groups = flatten(w, groups)
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

    def shrinkage_conjugate(self, v: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """φ_B*(v) = sup { ⟨v, w⟩ − φ(w) : w within the bound } of every group, (G,)."""
        flat, groups = flatten(v, groups)
        size, layout, order = np.abs(flat), groups.layout, self.profile.norm_order
        dual = layout.norm(size, order / (order - 1) if order > 1 else np.inf)
        term = self.take(np.ones(dual.shape, bool))
        # without a bound the maximiser has the norm ρ with ψ'(ρ) = ‖v‖_q
        rho = self.profile.invert_slope(dual / term.weight, term.parameters)
        if self.profile.ball:
            rho = np.minimum(rho, term.bound)
        finite = np.isfinite(rho)
        safe = np.where(finite, rho, 1.0)
        # of w = 0 it is 0: the rest may be less by rounding
        result = np.where(finite, np.maximum(0.0, dual * safe - term.phi(safe)), np.inf)
        # at the slope's limit itself r·ψ' − ψ grows to its own
        limit = term.weight * term.profile.slope_limit(np, **term.parameters)
        least = term.weight * term.profile.legendre_limit(np, **term.parameters)
        result = np.where((dual == limit) & ~finite, least, result)
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

    def prices(self, y: FloatArray) -> float:
        """What the indicators y (G,) pay together, Σ_j c_j·y_j."""
        return float(np.broadcast_to(self.price, y.shape) @ y)

    def conjugate(self, v: ArrayLike, groups: Partition | None = None) -> FloatArray:
        """h*(v) = max(0, φ_B*(v) − c) of every group, (G,); of h before the extraction."""
        return np.maximum(0.0, self.shrinkage_conjugate(v, groups) - self.price)

    def prox_by_search(self, size: ArrayT, step: ArrayT | float, layout: Layout) -> ArrayT:
        """The proximal step where :meth:`prox_factor` has no answer: magnitudes, (D,).

        Parameters
        ----------
        size : (D,) array
            |v| of these groups' weights; the term is of these groups alone.
        step : float or (G,) array
            t > 0.
        layout : Layout
        """
        convex = self._convexify(step) + layout.sum(0 * size)
        return prox_search.prox(self, size * layout.expand(convex), step * convex, layout)
