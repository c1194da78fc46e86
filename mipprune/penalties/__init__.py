"""A term over all groups of a network at once.

:class:`GroupPenalty` evaluates a :class:`formulations.terms.Square` on the producers of every group
with a few tensor operations a parameter. It never builds an autograd graph: its gradient is added
to ``parameter.grad`` after the backward pass, or its proximal operator is applied after the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from formulations.terms import Square, bounded_prox_indicator
from mipprune.groups import Member


@dataclass
class _Rows:
    """A parameter seen as rows, one for each index of the grouped axis, and each row's group."""

    parameter: torch.Tensor
    axis: int
    group: torch.Tensor

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """(rows, entries of a row)."""
        return tensor.movedim(self.axis, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(groups + 1,) numbers to a tensor that broadcasts against the parameter."""
        shape = [1] * self.parameter.dim()
        shape[self.axis] = -1
        return values[self.group].view(shape)


class GroupPenalty:
    """h summed over the groups of a network.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Parameters of the network by name.
    members : sequence of Member
        Which axis of which parameter belongs to which group; every group's weights are the
        slices of all its members together. Indices with group −1 are left alone.
    count : int
        Number of groups.
    term : Square
        Its parameters are tensors of shape (count,) on the parameters' device and of their type.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        members: Sequence[Member],
        count: int,
        term: Square,
    ):
        self.count, self.term = count, term
        self._rows = []
        for member in members:
            parameter = parameters[member.tensor]
            group = torch.as_tensor(member.group, device=parameter.device)
            # ungrouped rows go to a slot of their own, behind the groups
            self._rows.append(
                _Rows(parameter, member.axis, torch.where(group < 0, count, group).long())
            )
        self._bounded = bool(torch.isfinite(term.bound).any())

    def norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """s = ‖w_j‖₂ and m = ‖w_j‖∞ of every group, each (count,)."""
        first = self._rows[0].parameter
        square = torch.zeros(self.count + 1, dtype=first.dtype, device=first.device)
        peak = torch.zeros_like(square)
        for rows in self._rows:
            flat = rows.rows(rows.parameter.detach())
            square.index_add_(0, rows.group, flat.square().sum(1))
            peak.scatter_reduce_(0, rows.group, flat.abs().amax(1), "amax")
        return square[:-1].sqrt(), peak[:-1]

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
        for rows in self._rows:
            rows.parameter.grad.addcmul_(rows.parameter, rows.spread(radial))
        if not self._bounded or not bool((axial != 0).any()):
            return
        # −1 never equals a magnitude: no peak is looked for in ungrouped rows
        peak = torch.cat([peak, peak.new_full((1,), -1)])
        ties = torch.zeros_like(peak)
        for rows in self._rows:
            at_peak = rows.parameter.abs() == rows.spread(peak)
            ties.index_add_(0, rows.group, rows.rows(at_peak).sum(1).to(peak.dtype))
        axial = axial / ties.clamp(min=1)
        for rows in self._rows:
            at_peak = rows.parameter.abs() == rows.spread(peak)
            rows.parameter.grad.add_(rows.parameter.sign() * at_peak * rows.spread(axial))

    @torch.no_grad()
    def prox_(self, step: float) -> None:
        """Replace every group by prox_{step·h} of it: exact zeros, and weights inside the box."""
        norm, peak = self.norms()
        y = self.term.prox_indicator(norm, peak, step)
        active = torch.isnan(y)
        if self._bounded and bool(active.any()):
            y = torch.where(active, self._bounded_indicator(active, step), y)
        shift = 2 * step * self.term.shrinkage
        scale = _with_zero(y / (y + shift))
        scale[-1] = 1
        for rows in self._rows:
            rows.parameter.mul_(rows.spread(scale))
        if self._bounded:
            self._clip_to(self.term.box(y))

    @torch.no_grad()
    def project_(self) -> torch.Tensor:
        """Project onto the box |w| ≤ M; the number of groups that were outside, a scalar tensor."""
        if not self._bounded:
            return torch.zeros((), dtype=torch.int64)
        _, peak = self.norms()
        outside = (peak > self.term.bound).sum()
        self._clip_to(self.term.bound)
        return outside

    def regimes(self) -> dict[str, float]:
        """Share of the groups on each piece of h: free, bound, kept; and of those at zero."""
        norm, peak = self.norms()
        masks = self.term.regimes(norm, peak)
        shares = {
            name: float(mask.float().mean())
            for name, mask in zip(("free", "bound", "kept"), masks, strict=True)
        }
        return {**shares, "zero": float((norm == 0).float().mean())}

    def _clip_to(self, bound: torch.Tensor) -> None:
        bound = torch.cat([bound, bound.new_full((1,), float("inf"))])
        for rows in self._rows:
            limit = rows.spread(bound).expand_as(rows.parameter)
            torch.clamp(rows.parameter, -limit, limit, out=rows.parameter.data)

    def _bounded_indicator(self, active: torch.Tensor, step: float) -> torch.Tensor:
        """y of the groups whose bound is active in the prox, from their weights gathered flat."""
        chosen = torch.full((self.count + 1,), -1, device=active.device)
        chosen[:-1][active] = torch.arange(int(active.sum()), device=active.device)
        magnitudes, owners = [], []
        for rows in self._rows:
            owner = chosen[rows.group]
            inside = owner >= 0
            flat = rows.rows(rows.parameter.detach())[inside]
            magnitudes.append(flat.abs().flatten())
            owners.append(owner[inside].repeat_interleave(flat.shape[1]))
        magnitude, owner = torch.cat(magnitudes), torch.cat(owners)
        term = Square(*(p[active] for p in (self.term.shrinkage, self.term.price, self.term.bound)))
        count = int(active.sum())
        y = bounded_prox_indicator(
            term,
            magnitude,
            step,
            lambda x: x.new_zeros(count).index_add_(0, owner, x),
            lambda x: x[owner],
        )
        result = torch.zeros(self.count, dtype=y.dtype, device=y.device)
        result[active] = y
        return result


def _with_zero(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values, values.new_zeros(1)])
