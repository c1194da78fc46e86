"""The weights of a network by group: norms of all groups at once, and scaling them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mipprune.groups import Member


@dataclass
class Rows:
    """A parameter seen as rows, one for each index of the grouped axis, and each row's group.

    Without an axis every entry is a row.
    """

    parameter: torch.Tensor
    axis: int | None
    group: torch.Tensor

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """(rows, entries of a row)."""
        if self.axis is None or tensor.dim() == 1:
            return tensor.reshape(-1, 1)
        return tensor.movedim(self.axis, 0).flatten(1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(groups + 1,) numbers to a tensor that broadcasts against the parameter."""
        if self.axis is None:
            shape = self.parameter.shape
        else:
            shape = [1] * self.parameter.dim()
            shape[self.axis] = -1
        return values[self.group].view(shape).to(self.parameter.dtype)

    def assign(self, inside: torch.Tensor, rows: torch.Tensor) -> None:
        """Write new values, (chosen rows, entries of a row), to the rows of a mask."""
        whole = self.rows(self.parameter.detach()).clone()
        whole[inside] = rows
        if self.axis is None or self.parameter.dim() == 1:
            self.parameter.copy_(whole.view(self.parameter.shape))
        else:
            moved = self.parameter.movedim(self.axis, 0)
            moved.copy_(whole.view(moved.shape))


class GroupRows:
    """The rows of every group.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Parameters of the network by name.
    members : sequence of Member
        Which axis of which parameter belongs to which group; every group's weights are the
        slices of all its members together. Indices with group −1 are left alone.
    count : int
        Number of groups.

    Attributes
    ----------
    dtype : torch.dtype
        Of norms: at least float32.
    """

    def __init__(
        self, parameters: Mapping[str, torch.Tensor], members: Sequence[Member], count: int
    ):
        self.count, self.rows = count, []
        for member in members:
            parameter = parameters[member.tensor]
            group = torch.as_tensor(member.group, device=parameter.device)
            # ungrouped rows go to a slot of their own, behind the groups
            self.rows.append(
                Rows(parameter, member.axis, torch.where(group < 0, count, group).long())
            )
        first = self.rows[0].parameter
        self.device, self.dtype = first.device, torch.promote_types(first.dtype, torch.float32)

    def sizes(self) -> torch.Tensor:
        """Number of weights of every group, (count,)."""
        size = torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)
        for rows in self.rows:
            entries = rows.parameter.numel() / len(rows.group)
            size.index_add_(0, rows.group, torch.full_like(rows.group, entries, dtype=size.dtype))
        return size[:-1]

    def norms(self, order: float = 2) -> tuple[torch.Tensor, torch.Tensor]:
        """‖w_j‖_p and ‖w_j‖∞ of every group, each (count,)."""
        power = torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)
        peak = torch.zeros_like(power)
        for rows in self.rows:
            flat = rows.rows(rows.parameter.detach()).to(self.dtype)
            raised = flat.square() if order == 2 else flat.abs().pow(order)
            power.index_add_(0, rows.group, raised.sum(1))
            peak.scatter_reduce_(0, rows.group, flat.abs().amax(1), "amax")
        norm = power[:-1].sqrt() if order == 2 else power[:-1].pow(1 / order)
        return norm, peak[:-1]

    @torch.no_grad()
    def scale_(self, factor: torch.Tensor) -> None:
        """Multiply every group's weights by a factor, (count,)."""
        factor = torch.cat([factor, factor.new_ones(1)])
        for rows in self.rows:
            rows.parameter.mul_(rows.spread(factor))
