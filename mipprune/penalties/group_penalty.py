"""A term over all groups of a network at once.

:class:`GroupPenalty` evaluates any :class:`formulations.terms.term.Term` in two passes over the
weights: one for the norms of all groups, one that changes weights or gradients. In between stand
the term's own formulas, generated from its derivation, on one number a group. It never builds an
autograd graph: its gradient is added to ``parameter.grad`` after the backward pass, or its proximal
operator is applied after the step. Statistics of half-precision weights are kept in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from formulations.errors import InputError
from formulations.terms.prox_search import Layout
from formulations.terms.term import Partition, Term
from mipprune.penalties.layout import Measure
from mipprune.penalties.rows import GroupRows
from mipprune.structure.groups import Member


class GroupPenalty:
    """h summed over the groups of a network.

    Parameters
    ----------
    parameters, members, count
        The weights of every group: see :class:`mipprune.penalties.rows.GroupRows`.
    term : Term
        Of these groups, as NumPy numbers or for tensors; see :attr:`term`.

    Attributes
    ----------
    term : Term
        The same for tensors on the parameters' device.

    Raises
    ------
    InputError
        If a tensor is grouped along two axes and the term has a box or another norm than ‖·‖₂.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        members: Sequence[Member],
        count: int,
        term: Term,
    ):
        self.count, self.weights = count, GroupRows(parameters, members, count)
        self.term = term.to(torch.zeros(0, dtype=self.weights.dtype, device=self.weights.device))
        self._order = term.profile.norm_order
        self._bounded = bool(torch.isfinite(self.term.bound).any())
        self._boxed = self._bounded and not term.profile.ball
        self._searches = self._boxed or self._order != 2
        self._asynchronous = asynchronous(self.weights.device)
        # without r* every group's step is a search: there is nothing to wait for that is rare
        rare = self._order == 2 and bool(torch.isfinite(self.term.radius).all())
        self._explicit = self._asynchronous and self._boxed and rare
        if self._searches and len({member.tensor for member in members}) < len(members):
            raise InputError(
                "a weight in two groups takes a term of the norm ‖·‖₂ without a box: "
                "give the term no bound, or group every tensor along one axis"
            )

    def norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Norm ‖w_j‖_p and peak (‖w_j‖∞, or ‖w_j‖₂ for a ball) of every group, each (count,)."""
        measure = self._measure()
        return measure.norm, measure.peak

    def value(self) -> torch.Tensor:
        """Σ_j h(w_j), a scalar tensor."""
        return self.term.projected(*self.norms()).sum()

    def keep(self) -> torch.Tensor:
        """Keep-scores y*(w_j) of every group, (count,), in [0, 1]."""
        return self.term.indicator(*self.norms())

    @torch.no_grad()
    def add_gradient_(self) -> None:
        """Add the gradient of Σ_j h(w_j) to every parameter's ``grad`` that there is."""
        measure = self._measure()
        radial, axial = self.term.gradient_factors(measure.norm, measure.peak)
        spikes = None
        if self._boxed and self._perhaps(axial != 0):
            spikes = self.weights.spikes(axial, measure)
        self.weights.add_to_gradients_(radial, self._order, spikes)

    @torch.no_grad()
    def prox_(self, step: float) -> None:
        """Replace every group by prox_{step·h} of it: exact zeros, and weights inside the box.

        Where the box decides, the step needs a search. On a GPU, which would have to be waited for
        to know whether any group does, such groups take the explicit step w − step·∇h instead,
        within the box: the same to first order in the step.
        """
        measure = self._measure()
        norm, peak, spikes = measure.norm, measure.peak, None
        factor = self.term.prox_factor(norm, peak, step)
        searched = torch.isnan(factor) & torch.isfinite(norm)  # diverged weights stay NaN
        if self._explicit:
            radial, axial = self.term.gradient_factors(norm, peak)
            spikes = self.weights.spikes(torch.where(searched, -step * axial, 0.0), measure)
            factor = torch.where(searched, (1 - step * radial).clamp(min=0), factor)
        elif self._searches and bool(searched.any()):
            search = partial(_search, self.term.take(searched), step)
            self.weights.replace_(searched, search)
            factor = torch.where(searched, 1.0, factor)
            peak = torch.where(searched, 0.0, peak)
        outside = self._boxed and self._perhaps(peak * factor > self.term.bound)  # by rounding
        self.weights.scale_(factor, spikes, self.term.bound if outside else None)

    @torch.no_grad()
    def project_(self) -> torch.Tensor:
        """Project onto the bound; the number of groups that were outside, a scalar tensor."""
        if not self._bounded:
            return torch.zeros((), dtype=torch.int64, device=self.weights.device)
        _, peak = self.norms()
        outside = peak > self.term.bound
        if self._perhaps(outside):
            if self.term.profile.ball:
                self.weights.scale_(torch.where(outside, self.term.bound / peak, 1.0))
            else:
                self.weights.scale_(torch.ones_like(peak), limit=self.term.bound)
        return outside.sum()

    def regimes(self) -> dict[str, float]:
        """Share of the groups on each piece of h: free, bound, kept; and of those at zero."""
        norm, peak = self.norms()
        masks = self.term.regimes(norm, peak)
        shares = {
            name: float(mask.float().mean())
            for name, mask in zip(("free", "bound", "kept"), masks, strict=True)
        }
        return {**shares, "zero": float((norm == 0).float().mean())}

    def _measure(self) -> Measure:
        measure = self.weights.measure(self._order, peaks=self._boxed)
        return measure._replace(peak=measure.norm) if self.term.profile.ball else measure

    def _perhaps(self, mask: torch.Tensor) -> bool:
        """Whether any is set; on a GPU, which would have to be waited for, always True."""
        return self._asynchronous or bool(mask.any())


def asynchronous(device: torch.device) -> bool:
    """Whether to ask for a tensor's value is to wait for a queue of work."""
    return device.type != "cpu"


def _search(
    term: Term, step: float, size: torch.Tensor, owner: torch.Tensor, count: int
) -> torch.Tensor:
    """:meth:`Term.prox_by_search` of (D,) magnitudes, each of the group that owns it."""
    size = size.double()  # nested searches need the digits
    if size.device.type == "cpu":  # few numbers, many operations: NumPy's calls cost less
        order = torch.argsort(owner, stable=True)
        layout = Partition(torch.bincount(owner, minlength=count)).layout
        by_group = size[order].numpy()
        found = torch.from_numpy(term.to(by_group).prox_by_search(by_group, step, layout))
        return torch.empty_like(size).index_copy_(0, order, found)
    layout = Layout(
        lambda x: x.new_zeros(count).index_add_(0, owner, x),
        lambda x: x.new_zeros(count).scatter_reduce_(0, owner, x, "amax"),
        lambda x: x.expand(count)[owner],
    )
    return term.to(size).prox_by_search(size, step, layout)
