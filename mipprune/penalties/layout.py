"""How the weights of groups lie in a network's tensors, and what is found and changed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from formulations.errors import InputError

NewMagnitudes = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""From magnitudes (D,), the owner of each (D,) int, numbered from 0, and how many owners there are,
to other magnitudes (D,)."""


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
    ties : callable
        Gives how many weights are at the peak, as long as the weights are not changed; where that
        did not come with the same pass, it is another one.
    """

    norm: torch.Tensor
    peak: torch.Tensor
    ties: Callable[[], torch.Tensor]


class Spikes(NamedTuple):
    """Changes at the largest weights alone: by ``height`` in their direction, (groups,) each."""

    height: torch.Tensor
    peak: torch.Tensor


class Backend(Protocol):
    """An implementation for rows of ``count`` groups, with norms and factors of one type."""

    def measure(self, order: float, peaks: bool) -> Measure:
        """Return ‖w_j‖_p of every group, p = ``order``, and, if asked for, ‖w_j‖∞, else 0."""

    def scale_(
        self, factor: torch.Tensor, spikes: Spikes | None, limit: torch.Tensor | None
    ) -> None:
        """Multiply weights by the factor of their group, add spikes, cut at ±limit; (groups,)."""

    def replace_(self, chosen: torch.Tensor, magnitudes: NewMagnitudes) -> None:
        """Give the weights of the chosen groups, (groups,) bool, other magnitudes."""

    def add_to_gradients_(self, factor: torch.Tensor, order: float, spikes: Spikes | None) -> None:
        """Add factor·sign(w)|w|^(p−1), and spikes, to the gradients that there are."""


MakeBackend = Callable[[Sequence[Rows], int, torch.dtype], Backend]
"""From rows, number of groups, and type of norms and factors."""


def tiles(rows: Rows, tensor: int, first: int, height: int, width: int) -> list[list[int]]:
    """What the programs that work on a tensor's tiles need of it, a line for each tile.

    The tensor's number; offset of the tile's first entry; number of its first row, its rows and
    their length; stride from row to row; and entry k of a row lies at (k // inner)·outer +
    (k % inner)·step. Rows of one entry fill a tile, (height, width), in
    both directions; of longer rows it has as many as its height.

    Raises
    ------
    InputError
        If the weight's memory has gaps.
    """
    weight, count = rows.parameter, len(rows.group)
    size, stride = weight.shape, weight.stride()
    runs: list[tuple[int, int]] = []  # (entries, stride) of what lies evenly
    for axis in rows.inner_axes():
        if size[axis] == 1:
            continue
        if runs and runs[-1][1] == size[axis] * stride[axis]:
            runs[-1] = (runs[-1][0] * size[axis], stride[axis])
        else:
            runs.append((size[axis], stride[axis]))
    if len(runs) > (1 if rows.axis is None else 2):
        raise InputError(f"a weight of shape {tuple(size)} and strides {stride} has gaps")
    if rows.axis is None:
        row_stride, runs = runs[0][1] if runs else 1, []
    else:
        row_stride = stride[rows.axis]
    (outer_size, outer), (inner, step) = [(1, 0)] * (2 - len(runs)) + runs
    length = outer_size * inner
    share = height * width if length == 1 else height
    return [
        [
            *(tensor, row * row_stride, first + row, min(share, count - row), length),
            *(row_stride, inner, outer, step),
        ]
        for row in range(0, count, share)
    ]


def gradient_as_weight(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight's gradient, in the weight's memory format: where it is not, it is brought there.

    Autograd's own gradients are.
    """
    gradient = weight.grad
    if gradient is not None and (
        gradient.dtype != weight.dtype
        or any(
            mine != other
            for mine, other, size in zip(
                gradient.stride(), weight.stride(), weight.shape, strict=True
            )
            if size > 1
        )
    ):
        weight.grad = torch.empty_like(weight).copy_(gradient)
    return weight.grad
