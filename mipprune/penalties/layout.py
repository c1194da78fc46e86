"""How the weights of groups lie in a network's tensors, and what is found and changed of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

# Magnitudes (D,), the owner of each (D,), a number from 0, and how many owners: to new magnitudes.
Search = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(eq=False)
class Rows:
    """A parameter seen as rows, one for each index of the grouped axis, and each row's group.

    Without an axis every entry is a row. Rows of no group have the number behind the last.
    """

    parameter: torch.Tensor
    axis: int | None
    group: torch.Tensor

    def inner_axes(self) -> list[int]:
        """The axes along a row, in the order of the memory; without an axis, all of them."""
        stride = self.parameter.stride()
        axes = [axis for axis in range(self.parameter.dim()) if axis != self.axis]
        return sorted(axes, key=lambda axis: -stride[axis])

    def group_in_memory(self) -> torch.Tensor:
        """Each row's group, in the order of the memory."""
        if self.axis is None:
            return self.group.view(self.parameter.shape).permute(self.inner_axes()).flatten()
        return self.group


class Measure(NamedTuple):
    """What a pass over the weights finds of every group, (groups,) each.

    Attributes
    ----------
    norm, peak : Tensor
        ‖w_j‖_p and ‖w_j‖∞.
    ties : Tensor or None
        How many weights are at the peak, where that came with the same pass.
    """

    norm: torch.Tensor
    peak: torch.Tensor
    ties: torch.Tensor | None = None


class Spikes(NamedTuple):
    """Changes at the largest weights alone: by ``height`` in their direction, (groups,) each."""

    height: torch.Tensor
    peak: torch.Tensor


class Backend(Protocol):
    """What :class:`GroupRows` asks of an implementation; as its methods of the same names."""

    def measure(self, order: float, peaks: bool) -> Measure: ...

    def ties(self, peak: torch.Tensor) -> torch.Tensor: ...

    def replace_(self, chosen: torch.Tensor, search: Search) -> None: ...

    def scale_(
        self, factor: torch.Tensor, spikes: Spikes | None, limit: torch.Tensor | None
    ) -> None: ...

    def add_to_gradients_(
        self, factor: torch.Tensor, order: float, spikes: Spikes | None
    ) -> None: ...
