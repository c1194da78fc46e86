"""A term over all groups of a network at once.

:class:`GroupPenalty` evaluates any :class:`formulations.terms.Term` on the members of every group
with a few tensor operations a parameter; the term's formulas are generated from its derivation. It
never builds an autograd graph: its gradient is added to ``parameter.grad`` after the backward pass,
or its proximal operator is applied after the step. Statistics of half-precision weights are kept in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from formulations.search import Layout
from formulations.terms import Term
from mipprune.groups import Member
from mipprune.penalties.rows import GroupRows


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
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        members: Sequence[Member],
        count: int,
        term: Term,
    ):
        self.count, self.weights = count, GroupRows(parameters, members, count)
        self.rows = self.weights.rows
        self.term = term.to(torch.zeros(0, dtype=self.weights.dtype, device=self.weights.device))
        self._bounded = bool(torch.isfinite(self.term.bound).any())
        self._order = term.profile.order

    def norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Norm ‖w_j‖_p and peak (‖w_j‖∞, or ‖w_j‖₂ for a ball) of every group, each (count,)."""
        norm, peak = self.weights.norms(self._order)
        return norm, norm if self.term.profile.ball else peak

    def value(self) -> torch.Tensor:
        """Σ_j h(w_j), a scalar tensor."""
        return self.term.projected(*self.norms()).sum()

    def keep(self) -> torch.Tensor:
        """Keep-scores y*(w_j) of every group, (count,), in [0, 1]."""
        return self.term.indicator(*self.norms())

    @torch.no_grad()
    def add_gradient_(self) -> None:
        """Add the gradient of Σ_j h(w_j) to every parameter's ``grad``."""
        norm, peak = self.norms()
        radial, axial = map(_with_zero, self.term.slopes(norm, peak))
        for rows in self.rows:
            along = rows.parameter
            if self._order != 2:
                along = along.sign() * along.abs().pow(self._order - 1)
            rows.parameter.grad.addcmul_(along, rows.spread(radial))
        if not self._bounded or not bool((axial != 0).any()):
            return
        # −1 never equals a magnitude: no peak is looked for in ungrouped rows
        peak = torch.cat([peak, peak.new_full((1,), -1)])
        ties = torch.zeros_like(peak)
        for rows in self.rows:
            at_peak = rows.parameter.abs() == rows.spread(peak)
            ties.index_add_(0, rows.group, rows.rows(at_peak).sum(1).to(peak.dtype))
        axial = axial / ties.clamp(min=1)
        for rows in self.rows:
            at_peak = rows.parameter.abs() == rows.spread(peak)
            rows.parameter.grad.add_(rows.parameter.sign() * at_peak * rows.spread(axial))

    @torch.no_grad()
    def prox_(self, step: float) -> None:
        """Replace every group by prox_{step·h} of it: exact zeros, and weights inside the box."""
        factor = self.term.shrinking(*self.norms(), step)
        searched = torch.isnan(factor)
        if (self._bounded or self._order != 2) and bool(searched.any()):
            self._search_prox(searched, step)
            factor = torch.where(searched, torch.ones_like(factor), factor)
        self.weights.scale_(factor)
        if self._bounded and not self.term.profile.ball:  # rounding
            self._clip()

    @torch.no_grad()
    def project_(self) -> torch.Tensor:
        """Project onto the bound; the number of groups that were outside, a scalar tensor."""
        if not self._bounded:
            return torch.zeros((), dtype=torch.int64)
        _, peak = self.norms()
        outside = peak > self.term.bound
        if self.term.profile.ball:
            self.weights.scale_(torch.where(outside, self.term.bound / peak, 1.0))
        else:
            self._clip()
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

    def _clip(self) -> None:
        bound = self.term.bound.expand(self.count)
        bound = torch.cat([bound, bound.new_full((1,), float("inf"))])
        for rows in self.rows:
            limit = rows.spread(bound).expand_as(rows.parameter)
            torch.clamp(rows.parameter, -limit, limit, out=rows.parameter.data)

    def _search_prox(self, searched: torch.Tensor, step: float) -> None:
        """The proximal step of the groups that need a search, on their weights gathered flat."""
        count = int(searched.sum())
        place = torch.full((self.count + 1,), -1, device=searched.device)
        place[:-1][searched] = torch.arange(count, device=searched.device)
        inside = [place[rows.group] >= 0 for rows in self.rows]
        parts = [
            rows.rows(rows.parameter.detach())[mask]
            for rows, mask in zip(self.rows, inside, strict=True)
        ]
        owner = torch.cat(
            [
                place[rows.group][mask].repeat_interleave(part.shape[1])
                for rows, mask, part in zip(self.rows, inside, parts, strict=True)
            ]
        )
        layout = Layout(
            lambda x: x.new_zeros(count).index_add_(0, owner, x),
            lambda x: x.new_zeros(count).scatter_reduce_(0, owner, x, "amax"),
            lambda x: x.expand(count)[owner],
        )
        # nested searches need the digits
        size = torch.cat([part.abs().flatten() for part in parts]).double()
        term = self.term.take(searched).to(size)
        found = term.prox_by_search(size, step, layout)
        pieces = found.split([part.numel() for part in parts])
        for rows, mask, part, piece in zip(self.rows, inside, parts, pieces, strict=True):
            rows.assign(mask, part.sign() * piece.view(part.shape).to(part.dtype))


def _with_zero(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values, values.new_zeros(1)])
