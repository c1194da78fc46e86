"""The weights of a network by group: norms of all groups at once, and changes of all of them.

What is computed is said here; :mod:`mipprune.penalties.torch_backend` does it with a fixed number
of tensor operations, and :mod:`mipprune.penalties.triton_backend` with three Triton kernels on a
GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import torch

from mipprune.penalties.layout import Backend, MakeBackend, Measure, NewMagnitudes, Rows, Spikes
from mipprune.penalties.torch_backend import Operations
from mipprune.structure.groups import Member


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
    backend : callable, optional
        Makes the implementation; by default :func:`backend_for` the weights' device.

    Attributes
    ----------
    dtype : torch.dtype
        Of norms: at least float32.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        members: Sequence[Member],
        count: int,
        backend: MakeBackend | None = None,
    ) -> None:
        self.count = count
        self.rows: list[Rows] = []
        for member in members:
            parameter = parameters[member.tensor]
            group = torch.as_tensor(member.group, device=parameter.device)
            # ungrouped rows go to a slot of their own, behind the groups
            self.rows.append(
                Rows(parameter, member.axis, torch.where(group < 0, count, group).long())
            )
        first = self.rows[0].parameter
        self.device, self.dtype = first.device, torch.promote_types(first.dtype, torch.float32)
        self._make = backend or backend_for(self.device)
        self._made: tuple[list[int], Backend] | None = None

    @property
    def backend(self) -> Backend:
        """The implementation for the weights where they lie now."""
        addresses = [rows.parameter.data_ptr() for rows in self.rows]
        # at first, and after a change of the memory format
        if self._made is None or self._made[0] != addresses:
            self._made = addresses, self._make(self.rows, self.count, self.dtype)
        return self._made[1]

    def sizes(self) -> torch.Tensor:
        """Number of weights of every group, (count,)."""
        size = torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)
        for rows in self.rows:
            entries = rows.parameter.numel() / len(rows.group)
            size.index_add_(0, rows.group, torch.full_like(rows.group, entries, dtype=size.dtype))
        return size[:-1]

    @torch.no_grad()
    def measure(self, order: float = 2, peaks: bool = True) -> Measure:
        """‖w_j‖_p and, if asked for, ‖w_j‖∞ of every group; else 0 for it."""
        return self.backend.measure(order, peaks)

    def norm(self, order: float = 2) -> torch.Tensor:
        """‖w_j‖_p of every group, (count,)."""
        return self.measure(order, peaks=False).norm

    @torch.no_grad()
    def spikes(self, height: torch.Tensor, measure: Measure) -> Spikes:
        """A change by ``height``, (count,), shared among the weights at the peak of each group."""
        return Spikes(height / measure.ties().clamp(min=1), measure.peak)

    @torch.no_grad()
    def scale_(
        self,
        factor: torch.Tensor,
        spikes: Spikes | None = None,
        limit: torch.Tensor | None = None,
    ) -> None:
        """Multiply every group's weights by a factor, (count,).

        Then the spikes are added, and all is cut at ±limit, (count,).
        """
        self.backend.scale_(factor.to(self.dtype), spikes, limit)

    @torch.no_grad()
    def replace_(self, chosen: torch.Tensor, magnitudes: NewMagnitudes) -> None:
        """Give the weights of the chosen groups, (count,) bool, other magnitudes.

        ``magnitudes`` numbers the chosen groups from 0. The device is waited for.
        """
        self.backend.replace_(chosen, magnitudes)

    @torch.no_grad()
    def add_to_gradients_(
        self, factor: torch.Tensor, order: float = 2, spikes: Spikes | None = None
    ) -> None:
        """Add factor·sign(w)|w|^(p−1), and the spikes, to the weights' gradients.

        Weights without a gradient take no part in training, and are left so.
        """
        self.backend.add_to_gradients_(factor.to(self.dtype), order, spikes)


def backend_for(device: torch.device) -> MakeBackend:
    """Triton kernels on an NVIDIA GPU, where torch brings Triton along; else tensor operations."""
    if device.type == "cuda" and find_spec("triton"):
        # Triton is not installed everywhere
        from mipprune.penalties.triton_backend import Kernels  # noqa: PLC0415

        return Kernels
    return Operations
