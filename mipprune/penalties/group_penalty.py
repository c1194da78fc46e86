"""A term over all groups of a network at once.

:class:`GroupPenalty` evaluates any :class:`formulations.terms.term.Term` in two passes over the
weights: one for the norms of all groups, one that changes weights or gradients. In between stand
the term's own formulas, generated from its derivation, on one number a group. It never builds an
autograd graph: its gradient is added to ``parameter.grad`` after the backward pass, or its proximal
operator is applied after the step. Statistics of half-precision weights are kept in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.terms.partition import Layout, Partition
from formulations.terms.term import Term
from mipprune.penalties.layout import MakeBackend, Measure
from mipprune.penalties.rows import GroupRows
from mipprune.structure.groups import Groups


class GroupPenalty:
    """h summed over the groups of a network.

    In a training loop either :meth:`prox_` follows the optimizer's step, or :meth:`add_gradient_`
    goes before it.

    Parameters
    ----------
    network : nn.Module or mapping of str to Tensor
        The network, or its parameters by name.
    groups : Groups
        Of the network; their producers are what is penalised.
    term : Term
        Of these groups, or one for all of them; as NumPy numbers or for tensors: see :attr:`term`.
    backend : callable, optional
        As of :class:`mipprune.penalties.rows.GroupRows`.
    may_wait : bool, optional
        Whether a step may ask for tensors' values, which on a GPU is to wait for a queue of work;
        by default on the CPU alone.

    Attributes
    ----------
    count : int
        Number of groups.
    term : Term
        The same for tensors on the parameters' device.

    Raises
    ------
    InputError
        If a tensor is grouped along two axes and the term has a box or another norm than ‖·‖₂.
    """

    def __init__(
        self,
        network: nn.Module | Mapping[str, torch.Tensor],
        groups: Groups,
        term: Term,
        *,
        backend: MakeBackend | None = None,
        may_wait: bool | None = None,
    ) -> None:
        parameters = network
        if isinstance(parameters, nn.Module):
            parameters = dict(parameters.named_parameters())
        members = groups.producers()
        self.count = groups.count
        self.weights = GroupRows(parameters, members, groups.count, backend)
        self.term = term.to(torch.zeros(0, dtype=self.weights.dtype, device=self.weights.device))
        self._order = term.profile.norm_order
        self._bounded = bool(torch.isfinite(self.term.bound).any())
        self._boxed = self._bounded and not term.profile.ball
        self._searches = self._boxed or self._order != 2
        self._may_wait = self.weights.device.type == "cpu" if may_wait is None else may_wait
        # without r* every group's step is a search: there is nothing to wait for that is rare
        rare = self._order == 2 and bool(torch.isfinite(self.term.radius).all())
        self._explicit = not self._may_wait and self._boxed and rare
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
        """Relaxed indicators y*(w_j) of every group, (count,), in [0, 1]."""
        return self.term.indicator(*self.norms())

    def keep_scores(self) -> FloatArray:
        """Keep-scores: y*(w_j) of every group before it is cut at 1, (count,) in NumPy.

        So they rank the groups that the relaxation keeps, too.
        """
        scores = self.term.uncapped_indicator(*self.norms())
        return scores.detach().double().cpu().numpy()

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

        Parameters
        ----------
        step : float
            Length t > 0, such as the learning rate.
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
            found = partial(_stepped, self.term.take(searched), step)
            self.weights.replace_(searched, found)
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
        """Whether any is set; where that would have to be waited for, always True."""
        return not self._may_wait or bool(mask.any())


def _stepped(
    term: Term, step: float, size: torch.Tensor, owner: torch.Tensor, count: int
) -> torch.Tensor:
    """:meth:`Term.prox_by_search` of (D,) magnitudes, each of the group that owns it."""
    size = size.double()  # nested searches need the digits
    if size.device.type == "cpu":  # few numbers, many operations: NumPy's calls cost less
        by_owner = torch.argsort(owner, stable=True)
        layout = Partition(torch.bincount(owner, minlength=count)).layout
        sorted_size = size[by_owner].numpy()
        found = torch.from_numpy(term.to(sorted_size).prox_by_search(sorted_size, step, layout))
        return torch.empty_like(size).index_copy_(0, by_owner, found)
    layout = Layout(
        lambda x: x.new_zeros(count).index_add_(0, owner, x),
        lambda x: x.new_zeros(count).scatter_reduce_(0, owner, x, "amax"),
        lambda x: x.expand(count)[owner],
    )
    return term.to(size).prox_by_search(size, step, layout)
