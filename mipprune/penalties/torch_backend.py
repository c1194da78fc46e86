"""The weights of all groups in a fixed small number of tensor operations, on any device.

A pass over a network's tensors one by one costs more in calls than in arithmetic. Here rows of one
length, of all tensors together, are one matrix of (rows, entries of a row): that of a large tensor
is its own memory, whatever its memory format; small ones are copied side by side. Norms and peaks
of all rows are three reductions of each matrix, and groups are sums of rows. The way back, from a
number a group to every weight, is one selection and one ``torch._foreach`` call for all tensors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from mipprune.penalties.layout import Measure, NewMagnitudes, Rows, Spikes

# Entries from which a tensor's own reductions take longer than calling them.
_LARGE = 1 << 16


@dataclass(eq=False)
class _Matrix:
    """Rows of one length: a matrix of them, (rows, entries), and the views that are copied there.

    ``members`` are the tensors by number, ``place`` where the rows lie among those of all matrices.
    """

    members: list[int]
    entries: torch.Tensor
    copied: list[torch.Tensor]
    slots: list[torch.Tensor]
    place: slice


class Operations:
    """Norms of groups and changes of their weights. See :class:`mipprune.penalties.layout.Backend`.

    Parameters
    ----------
    rows : sequence of Rows
    count : int
        Number of groups.
    dtype : torch.dtype
        Of norms and factors.
    """

    def __init__(self, rows: Sequence[Rows], count: int, dtype: torch.dtype) -> None:
        self._count, self._dtype = count, dtype
        self._rows, device = list(rows), rows[0].parameter.device
        self._weights = [r.parameter.detach() for r in rows]
        self._matrices: list[_Matrix] = []
        total = 0
        for members in self._same_lengths():
            self._matrices.append(self._matrix(members, total))
            total = self._matrices[-1].place.stop
        ordered = [i for matrix in self._matrices for i in matrix.members]
        self._group = torch.cat([self._rows[i].group_in_memory() for i in ordered])
        alone = torch.bincount(self._group, minlength=count + 1)[:-1]
        self._source = None  # the row that a group is, where every group is one row
        if bool((alone == 1).all()):
            self._source = torch.argsort(self._group)[:count]
        self._copied = [view for matrix in self._matrices for view in matrix.copied]
        self._slots = [slot for matrix in self._matrices for slot in matrix.slots]
        # a number for every row, and for each tensor the view of it that broadcasts
        self._numbers = torch.empty(total, dtype=dtype, device=device)
        self._spread = self._per_tensor([self._numbers[matrix.place] for matrix in self._matrices])
        self._norms, self._highs, self._lows = torch.empty(3, total, dtype=dtype, device=device)

    # ---- the plan -------------------------------------------------------------------------------

    def _same_lengths(self) -> list[list[int]]:
        """The tensors whose rows share a matrix: large ones have their own."""
        together = defaultdict(list)
        for index, (rows, weight) in enumerate(zip(self._rows, self._weights, strict=True)):
            length = weight.numel() // len(rows.group)
            own = weight.numel() >= _LARGE and weight.dtype == self._dtype
            together[(index,) if own and _flat(rows, weight) is not None else length].append(index)
        return list(together.values())

    def _matrix(self, members: list[int], first: int) -> _Matrix:
        sizes = [len(self._rows[i].group) for i in members]
        place, views = slice(first, first + sum(sizes)), []
        for i in members:
            flat = _flat(self._rows[i], self._weights[i])
            views.append(_in_memory(self._rows[i], self._weights[i]) if flat is None else flat)
        weight = self._weights[members[0]]
        if len(members) == 1 and views[0].dim() == 2 and weight.dtype == self._dtype:
            return _Matrix(members, views[0], [], [], place)
        length = weight.numel() // sizes[0]
        entries = torch.empty(sum(sizes), length, dtype=self._dtype, device=weight.device)
        slots = [
            part.view(view.shape) for part, view in zip(entries.split(sizes), views, strict=True)
        ]
        return _Matrix(members, entries, views, slots, place)

    def _per_tensor(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of (rows,) numbers or (rows, entries) of every matrix, the view of every tensor."""
        views: dict[int, torch.Tensor] = {}
        for matrix, part in zip(self._matrices, parts, strict=True):
            split = part.split([len(self._rows[i].group) for i in matrix.members])
            views |= {
                i: _like_weight(self._rows[i], own)
                for i, own in zip(matrix.members, split, strict=True)
            }
        return [views[i] for i in range(len(self._rows))]

    @cached_property
    def _changes(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Room for a change of every weight: matrices, and the view of every tensor."""
        matrices = [torch.empty_like(matrix.entries) for matrix in self._matrices]
        return matrices, self._per_tensor(matrices)

    # ---- from weights to groups -----------------------------------------------------------------

    def measure(self, order: float, peaks: bool) -> Measure:
        """Norms and peaks of all groups."""
        self._copy()
        for matrix in self._matrices:
            entries, place = matrix.entries, matrix.place
            torch.linalg.vector_norm(entries, order, dim=1, out=self._norms[place])
            if peaks:
                torch.amax(entries, 1, out=self._highs[place])
                torch.amin(entries, 1, out=self._lows[place])
        norm = self._fold_norms(order)
        if peaks:
            peak = self._fold_peaks(torch.maximum(self._highs, -self._lows))
        else:
            peak = torch.zeros_like(norm)
        return Measure(norm, peak, partial(self._ties, peak))

    def _ties(self, peak: torch.Tensor) -> torch.Tensor:
        """How many weights of every group are at its peak."""
        return self._sums(torch.cat([at_peak.sum(1) for _, at_peak in self._at_peak(peak)]))

    def _copy(self) -> None:
        if self._copied:
            torch._foreach_copy_(self._slots, self._copied)

    def _fold_norms(self, order: float) -> torch.Tensor:
        if self._source is not None:
            return self._norms[self._source]
        if math.isinf(order):
            return self._fold_peaks(self._norms)
        return self._sums(self._norms.pow(order)).pow(1 / order)

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(self._count + 1, dtype=self._dtype, device=values.device)
        return total.index_add_(0, self._group, values.to(self._dtype))[:-1]

    def _fold_peaks(self, values: torch.Tensor) -> torch.Tensor:
        if self._source is not None:
            return values[self._source]
        peak = torch.zeros(self._count + 1, dtype=self._dtype, device=values.device)
        return peak.scatter_reduce_(0, self._group, values, "amax")[:-1]

    def _at_peak(self, peak: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every matrix, and a mask of its entries at the peak of their group."""
        self._copy()
        of_row = self._of_rows(peak, -1.0)  # never a magnitude: no peak in ungrouped rows
        return [(m.entries, m.entries.abs() == of_row[m.place][:, None]) for m in self._matrices]

    # ---- from groups to weights -----------------------------------------------------------------

    def scale_(
        self, factor: torch.Tensor, spikes: Spikes | None, limit: torch.Tensor | None
    ) -> None:
        """Weights times a factor, plus spikes, cut at a limit."""
        added = None if spikes is None else self._spike_views(spikes)
        torch._foreach_mul_(self._weights, self._spread_over(factor, 1.0))
        if added is not None:
            torch._foreach_add_(self._weights, added)
        if limit is not None:
            limits = self._spread_over(limit.expand(self._count), math.inf)
            torch._foreach_clamp_max_(self._weights, limits)
            torch._foreach_clamp_min_(self._weights, torch._foreach_neg(limits))

    def add_to_gradients_(self, factor: torch.Tensor, order: float, spikes: Spikes | None) -> None:
        """Gradients plus factor·sign(w)|w|^(p−1), plus spikes."""
        found = {i: rows.parameter.grad for i, rows in enumerate(self._rows)}
        trained = {i: gradient for i, gradient in found.items() if gradient is not None}
        if not trained:
            return
        gradients = list(trained.values())
        along = [self._weights[i] for i in trained]
        if order != 2:
            raised = torch._foreach_pow(torch._foreach_abs(along), order - 1)
            signs = torch._foreach_sign(along)
            torch._foreach_mul_(signs, raised)
            along = list(signs)
        spread = self._spread_over(factor, 0.0)
        torch._foreach_addcmul_(gradients, along, [spread[i] for i in trained])
        if spikes is not None:
            views = self._spike_views(spikes)
            torch._foreach_add_(gradients, [views[i] for i in trained])

    def replace_(self, chosen: torch.Tensor, magnitudes: NewMagnitudes) -> None:
        """Other magnitudes for the weights of the chosen groups."""
        self._copy()
        number = torch.where(chosen, chosen.cumsum(0) - 1, -1)
        owner = torch.cat([number, number.new_full((1,), -1)])[self._group]
        rows, parts, owners = [], [], []
        for matrix in self._matrices:
            of_row = owner[matrix.place]
            rows.append((of_row >= 0).nonzero()[:, 0])
            parts.append(matrix.entries[rows[-1]])
            owners.append(of_row[rows[-1]].repeat_interleave(matrix.entries.shape[1]))
        sizes = torch.cat([part.abs().flatten() for part in parts])
        found = magnitudes(sizes, torch.cat(owners), int(chosen.sum())).to(self._dtype)
        pieces = found.split([part.numel() for part in parts])
        for matrix, index, part, piece in zip(self._matrices, rows, parts, pieces, strict=True):
            matrix.entries.index_copy_(0, index, part.sign().mul_(piece.view(part.shape)))
        if self._copied:
            torch._foreach_copy_(self._copied, self._slots)

    def _of_rows(self, values: torch.Tensor, ungrouped: float) -> torch.Tensor:
        """(count,) numbers to the rows of all matrices, one after the other."""
        values = torch.cat([values.to(self._dtype), values.new_full((1,), ungrouped)])
        return values[self._group]

    def _spread_over(self, values: torch.Tensor, ungrouped: float) -> list[torch.Tensor]:
        values = torch.cat([values, values.new_full((1,), ungrouped)])
        torch.index_select(values, 0, self._group, out=self._numbers)
        return self._spread

    def _spike_views(self, spikes: Spikes) -> list[torch.Tensor]:
        """The spikes as tensors shaped like the weights."""
        height, (matrices, views) = self._of_rows(spikes.height, 0.0), self._changes
        for (entries, at_peak), matrix, change in zip(
            self._at_peak(spikes.peak), self._matrices, matrices, strict=True
        ):
            torch.sign(entries, out=change).mul_(at_peak).mul_(height[matrix.place][:, None])
        return views


def _in_memory(rows: Rows, weight: torch.Tensor) -> torch.Tensor:
    """The weight with the rows first, and along a row the order of the memory."""
    return weight.permute(([] if rows.axis is None else [rows.axis]) + rows.inner_axes())


def _flat(rows: Rows, weight: torch.Tensor) -> torch.Tensor | None:
    """(rows, entries of a row) in the weight's own memory, where that is possible."""
    try:
        return _in_memory(rows, weight).view(len(rows.group), -1)
    except RuntimeError:
        return None


def _like_weight(rows: Rows, part: torch.Tensor) -> torch.Tensor:
    """A row's number, (rows,), or all its entries, (rows, entries), in the weight's shape.

    A row's number gets the axes that broadcast.
    """
    weight = rows.parameter
    if rows.axis is None:
        axes = rows.inner_axes()
    elif part.dim() == 1:
        shape = [1] * weight.dim()
        shape[rows.axis] = -1
        return part.view(shape)
    else:
        axes = [rows.axis, *rows.inner_axes()]
    moved = part.view([weight.shape[axis] for axis in axes])
    return moved.permute([axes.index(axis) for axis in range(weight.dim())])
