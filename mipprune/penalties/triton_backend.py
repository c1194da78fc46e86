"""The weights of all groups in three Triton kernels: rows measured, rows folded to groups, changed.

Every kernel runs over all tensors at once. A table of tiles says where their rows lie: a program
reads its address, strides and sizes there. The weights are read once for norms, peaks and the ties
at the peaks, and once to be changed; nothing waits for the GPU. Every sum has a fixed order (no
atomics), so that the same weights give the same penalty on every rank.

Ceiling: the bytes of the weights, read twice and written once, over the memory's bandwidth.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
import triton
from triton import language as tl

from mipprune.penalties.layout import (
    Measure,
    NewMagnitudes,
    Rows,
    Spikes,
    gradient_as_weight,
    tiles,
)
from mipprune.penalties.torch_backend import Operations

_ROWS, _COLUMNS = 16, 128  # of a tile in registers
_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def _tile(tiles: tl.tensor) -> tuple[tuple[tl.tensor, ...], ...]:
    """The tile of this program, see :func:`mipprune.penalties.layout.tiles`: nine numbers."""
    at = tiles + tl.program_id(0) * 9
    place = (tl.load(at), tl.load(at + 1))
    size = (tl.load(at + 2), tl.load(at + 3), tl.load(at + 4))
    stride = (tl.load(at + 5), tl.load(at + 6), tl.load(at + 7), tl.load(at + 8))
    return place, size, stride


@triton.jit
def _raised(size: tl.tensor, POWER: tl.constexpr) -> tl.tensor:
    """size^POWER for size ≥ 0; 0^0 = 1."""
    if POWER == 0:
        result = size * 0 + 1
    elif POWER == 1:
        result = size
    elif POWER == 2:
        result = size * size
    else:
        alive = size > 0
        result = tl.where(alive, tl.exp2(POWER * tl.log2(tl.where(alive, size, 1))), 0)
    return result


@triton.jit
def _measure_rows(
    tiles: tl.tensor,
    weights: tl.tensor,
    powers: tl.tensor,
    peaks: tl.tensor,
    ties: tl.tensor,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    ORDER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Σ|w|^p, max|w| and how often it occurs, of every row."""
    (tensor, origin), (first, count, length), (row_stride, inner, outer, step) = _tile(tiles)
    base = tl.load(weights + tensor).to(tl.pointer_type(TYPE)) + origin
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    if length == 1:  # as many rows as the tile has entries
        entry = row[:, None] * COLUMNS + column[None, :]
        inside = entry < count
        size = tl.abs(tl.load(base + entry * row_stride, mask=inside, other=0).to(WIDE))
        tl.store(powers + first + entry, _raised(size, ORDER), mask=inside)
        tl.store(peaks + first + entry, size, mask=inside)
        tl.store(ties + first + entry, size * 0 + 1, mask=inside)
    else:
        power = tl.zeros([ROWS], WIDE)
        peak = tl.zeros([ROWS], WIDE)
        tied = tl.zeros([ROWS], WIDE)
        for start in range(0, length, COLUMNS):
            at = start + column
            offset = (at // inner) * outer + (at % inner) * step
            inside = (row < count)[:, None] & (at < length)[None, :]
            weight = tl.load(base + row[:, None] * row_stride + offset[None, :], inside, 0)
            size = tl.abs(weight.to(WIDE))
            power += tl.sum(_raised(size, ORDER) * inside, 1)
            high = tl.max(size, 1)
            here = tl.sum(((size == high[:, None]) & inside).to(WIDE), 1)
            tied = tl.where(high > peak, here, tl.where(high == peak, tied + here, tied))
            peak = tl.maximum(peak, high)
        tl.store(powers + first + row, power, mask=row < count)
        tl.store(peaks + first + row, peak, mask=row < count)
        tl.store(ties + first + row, tied, mask=row < count)


@triton.jit
def _fold(
    rows: tl.tensor,
    starts: tl.tensor,
    groups: tl.tensor,
    powers: tl.tensor,
    peaks: tl.tensor,
    ties: tl.tensor,
    group_powers: tl.tensor,
    group_peaks: tl.tensor,
    group_ties: tl.tensor,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """The same of every group, from its rows: rows[starts[j]:starts[j + 1]]."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    alive = group < groups
    start = tl.load(starts + group, mask=alive, other=0)
    count = tl.load(starts + group + 1, mask=alive, other=0) - start
    power = tl.zeros([GROUPS], WIDE)
    peak = tl.zeros([GROUPS], WIDE)
    tied = tl.zeros([GROUPS], WIDE)
    for place in range(0, tl.max(count, 0), ROWS):
        at = place + tl.arange(0, ROWS)
        inside = at[None, :] < count[:, None]
        row = tl.load(rows + start[:, None] + at[None, :], mask=inside, other=0)
        power += tl.sum(tl.load(powers + row, mask=inside, other=0), 1)
        size = tl.load(peaks + row, mask=inside, other=0)
        high = tl.max(size, 1)
        at_high = inside & (size == high[:, None])
        here = tl.sum(tl.load(ties + row, mask=at_high, other=0), 1)
        tied = tl.where(high > peak, here, tl.where(high == peak, tied + here, tied))
        peak = tl.maximum(peak, high)
    tl.store(group_powers + group, power, mask=alive)
    tl.store(group_peaks + group, peak, mask=alive)
    tl.store(group_ties + group, tied, mask=alive)


@triton.jit
def _numbers(
    group: tl.tensor,
    inside: tl.tensor,
    factors: tl.tensor,
    heights: tl.tensor,
    peaks: tl.tensor,
    limits: tl.tensor,
    KIND: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Factor, spike's height, peak and limit of the groups of a tile; what is not used is 0."""
    spikes: tl.constexpr = KIND[1]
    limited: tl.constexpr = KIND[2]
    factor = tl.load(factors + group, mask=inside, other=0)
    height, peak, limit = factor * 0, factor * 0, factor * 0
    if spikes:
        height = tl.load(heights + group, mask=inside, other=0)
        peak = tl.load(peaks + group, mask=inside, other=0)
    if limited:
        limit = tl.load(limits + group, mask=inside, other=0)
    return factor, height, peak, limit


@triton.jit
def _change_tile(
    base: tl.tensor,
    goal: tl.tensor,
    inside: tl.tensor,
    factor: tl.tensor,
    height: tl.tensor,
    peak: tl.tensor,
    limit: tl.tensor,
    KIND: tl.constexpr,
) -> None:
    """factor·sign(w)|w|^power, plus height·sign(w) at the peak, cut at ±limit, of a tile of w.

    Written to ``goal``, or added to what is there.
    """
    power: tl.constexpr = KIND[0]
    spikes: tl.constexpr = KIND[1]
    limited: tl.constexpr = KIND[2]
    add: tl.constexpr = KIND[3]
    weight = tl.load(base, mask=inside, other=0).to(factor.dtype)
    size = tl.abs(weight)
    sign = tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0)).to(factor.dtype)
    result = factor * sign * _raised(size, power)
    if spikes:
        result += tl.where(size == peak, height * sign, 0)
    if limited:
        # by comparisons, which leave NaN as it is: Triton's minimum and maximum would hide it
        result = tl.where(result > limit, limit, tl.where(result < -limit, -limit, result))
    if add:
        result += tl.load(goal, mask=inside, other=0).to(factor.dtype)
    tl.store(goal, result.to(goal.dtype.element_ty), mask=inside)


@triton.jit
def _change(
    tiles: tl.tensor,
    weights: tl.tensor,
    targets: tl.tensor,
    owners: tl.tensor,
    groups: tl.tensor,
    factors: tl.tensor,
    heights: tl.tensor,
    peaks: tl.tensor,
    limits: tl.tensor,
    TYPE: tl.constexpr,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """All weights changed in their place, or gradients, by numbers of their groups.

    ``weights`` and ``targets`` are addresses of tensors; a target 0 is left out. ``KIND`` is the
    power, whether there are spikes and limits, and whether to add.
    """
    (tensor, origin), (first, count, length), (row_stride, inner, outer, step) = _tile(tiles)
    base = tl.load(weights + tensor).to(tl.pointer_type(TYPE)) + origin
    target = tl.load(targets + tensor)
    goal = target.to(tl.pointer_type(TYPE)) + origin
    count = tl.where(target == 0, 0, count)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    if length == 1:  # as many rows as the tile has entries
        entry = row * COLUMNS + column
        group = tl.load(owners + first + entry, mask=entry < count, other=groups)
        within = group < groups
        own = _numbers(group, within, factors, heights, peaks, limits, KIND)
        offset = entry * row_stride
        _change_tile(base + offset, goal + offset, within, own[0], own[1], own[2], own[3], KIND)
    else:
        owner = tl.load(owners + first + row, mask=row < count, other=groups)
        mine = owner < groups
        shared = _numbers(owner, mine, factors, heights, peaks, limits, KIND)
        for start in range(0, length, COLUMNS):
            at = start + column
            place = row * row_stride + (at // inner) * outer + (at % inner) * step
            inside = mine & (at < length)
            _change_tile(
                base + place, goal + place, inside, shared[0], shared[1], shared[2], shared[3], KIND
            )


class Kernels:
    """Norms of groups and changes of their weights. See :class:`mipprune.penalties.layout.Backend`.

    A launch is for all tensors of one type; a tensor that is grouped along two axes takes part in
    two, so that no two programs change the same weight.

    Parameters
    ----------
    rows : sequence of Rows
    count : int
        Number of groups.
    dtype : torch.dtype
        Of norms and factors.

    Raises
    ------
    InputError
        If a weight's memory has gaps.
    """

    def __init__(self, rows: Sequence[Rows], count: int, dtype: torch.dtype) -> None:
        self._rows, self._count, self._dtype = list(rows), count, dtype
        self._device = rows[0].parameter.device
        seen: dict[int, int] = defaultdict(int)
        tables: dict[tuple[torch.dtype, int], list[list[int]]] = defaultdict(list)
        first = 0
        for index, own in enumerate(self._rows):
            weight = own.parameter
            tables[weight.dtype, seen[weight.data_ptr()]] += tiles(
                own, index, first, _ROWS, _COLUMNS
            )
            seen[weight.data_ptr()] += 1
            first += len(own.group)
        self._tiles = [
            (_TYPES[kind], torch.tensor(table, device=self._device))
            for (kind, _), table in tables.items()
        ]
        self._weights = self._addresses(own.parameter for own in self._rows)
        self._known: tuple[list[int], torch.Tensor] | None = None  # of gradients
        self._owners = torch.cat([own.group_in_memory() for own in self._rows])
        self._by_group = torch.argsort(self._owners, stable=True)
        sizes = torch.bincount(self._owners, minlength=count + 1)
        self._starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        # a tile of groups as wide as their rows, up to what fits into registers
        width = min(32, triton.next_power_of_2(max(1, int(sizes[:count].max()))))
        self._fold_shape = (1024 // width, width)
        self._of_rows = torch.empty(3, first, dtype=dtype, device=self._device)

    # ---- from weights to groups -----------------------------------------------------------------

    def measure(self, order: float, peaks: bool = True) -> Measure:
        """Norms, peaks and ties of all groups; peaks cost nothing more."""
        wide = _TYPES[self._dtype]
        for kind, table in self._tiles:
            _measure_rows[(len(table),)](
                table,
                self._weights,
                *self._of_rows,
                TYPE=kind,
                WIDE=wide,
                ORDER=1.0 if math.isinf(order) else float(order),
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
            )
        power, peak, ties = torch.empty(3, self._count, dtype=self._dtype, device=self._device)
        groups, width = self._fold_shape
        _fold[(triton.cdiv(self._count, groups),)](
            self._by_group,
            self._starts,
            self._count,
            *self._of_rows,
            power,
            peak,
            ties,
            WIDE=wide,
            GROUPS=groups,
            ROWS=width,
        )
        if math.isinf(order):
            return Measure(peak, peak, lambda: ties)
        return Measure(power.sqrt() if order == 2 else power.pow(1 / order), peak, lambda: ties)

    # ---- from groups to weights -----------------------------------------------------------------

    def replace_(self, chosen: torch.Tensor, magnitudes: NewMagnitudes) -> None:
        """Other magnitudes for the weights of the chosen groups, by tensor operations."""
        self._operations.replace_(chosen, magnitudes)

    @cached_property
    def _operations(self) -> Operations:
        return Operations(self._rows, self._count, self._dtype)

    def scale_(
        self, factor: torch.Tensor, spikes: Spikes | None, limit: torch.Tensor | None
    ) -> None:
        """Weights times a factor, plus spikes, cut at a limit."""
        self._change_(self._weights, factor, 1.0, spikes, limit, gradient=False)

    def add_to_gradients_(self, factor: torch.Tensor, order: float, spikes: Spikes | None) -> None:
        """Gradients plus factor·sign(w)|w|^(p−1), plus spikes."""
        gradients = [gradient_as_weight(rows.parameter) for rows in self._rows]
        known = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
        if self._known is None or self._known[0] != known:
            self._known = known, self._addresses(gradients)
        self._change_(self._known[1], factor, float(order - 1), spikes, None, gradient=True)

    def _addresses(self, tensors: Iterable[torch.Tensor | None]) -> torch.Tensor:
        addresses = torch.tensor([0 if t is None else t.data_ptr() for t in tensors])
        if self._device.type == "cuda":  # so that the copy waits for nothing
            addresses = addresses.pin_memory()
        return addresses.to(self._device, non_blocking=True)

    def _change_(
        self,
        targets: torch.Tensor,
        factor: torch.Tensor,
        power: float,
        spikes: Spikes | None,
        limit: torch.Tensor | None,
        gradient: bool,
    ) -> None:
        factor = factor.contiguous()
        limits = factor if limit is None else limit.expand(self._count).contiguous()
        for kind, table in self._tiles:
            _change[(len(table),)](
                table,
                self._weights,
                targets,
                self._owners,
                self._count,
                factor,
                *((factor, factor) if spikes is None else spikes),
                limits,
                TYPE=kind,
                KIND=(power, spikes is not None, limit is not None, gradient),
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
            )
