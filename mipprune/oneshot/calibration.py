"""Calibration: what the layers of a network see, and what they make of it, streamed over images.

A network is run segment by segment, a segment being a residual block or the network as a whole; the
inputs of a block are the outputs of the one before, kept in files, so that a layer far behind costs
no pass through all that is before it. Of a layer's inputs come the rows of its im2col matrix, in
slices, and of the rows all that a layer problem and a refit need of the images: second moments of
inputs and targets, summed in float64. Memory holds a layer's Gram matrix, one batch and one slice,
whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.oneshot.forward_order import (
    ForwardOrder,
    Layer,
    Weighted,
    has_intercept,
    layer_of,
)

# entries of a slice of im2col rows
_SLICE = 2**23
# images of a forward pass
_BATCH = 50


def batches_of(images: torch.Tensor) -> list[torch.Tensor]:
    """Calibration images (N, C, H, W) in the batches of a forward pass, on the CPU."""
    return list(images.cpu().split(_BATCH))


# ---- forward passes -----------------------------------------------------------------------------


class _Reached(Exception):
    """A forward pass has come to where it was to end."""


def _input_of(module: nn.Module, watched: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What ``watched`` sees in ``module(x)``, which goes no further."""
    seen: list[torch.Tensor] = []

    def stop(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Reached

    _run_until(module, x, watched.register_forward_pre_hook(stop))
    return seen[0]


def _input_and_output_of(
    module: nn.Module, watched: nn.Module, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``watched`` sees and makes of it in ``module(x)``, which goes no further."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stop(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((inputs[0], output))
        raise _Reached

    _run_until(module, x, watched.register_forward_hook(stop))
    return seen[0]


def _run_until(module: nn.Module, x: torch.Tensor, hook: torch.utils.hooks.RemovableHandle) -> None:
    try:
        module(x)
    except _Reached:
        return
    finally:
        hook.remove()
    raise RuntimeError("the network does not apply a layer that it applied before")


class SegmentedForward:
    """The inputs of one segment after another, of one or several networks side by side.

    Parameters
    ----------
    networks : sequence of nn.Module
        In evaluation mode, with the same segments. Layers of the segment that is entered, and of
        later ones, may change on the way.
    order : ForwardOrder
        Of the first.
    images : sequence of (N, C, H, W) tensors
        Batches, on the CPU.
    folder : Path
        For the activations between segments; emptied by nobody but the caller.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        order: ForwardOrder,
        images: Sequence[torch.Tensor],
        folder: Path,
    ) -> None:
        self.networks, self.order, self.images, self.folder = networks, order, images, folder
        self.device = next(networks[0].parameters()).device
        self.segment = ""

    def enter(self, segment: str) -> None:
        """Go to a segment: ``""`` or a residual block, in the order of the layers."""
        if segment == self.segment:
            return
        follows = segment != "" and self.order.before.get(segment) == self.segment
        for number in range(len(self.images) if segment else 0):
            for index, network in enumerate(self.networks):
                if follows:
                    output = network.get_submodule(self.segment)(self._read(index, number))
                else:
                    images = self.images[number].to(self.device)
                    output = _input_of(network, network.get_submodule(segment), images)
                np.save(self._file(index, number), output.cpu().numpy())
        self.segment = segment

    def observe(
        self, layer: Layer
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]]:
        """Run the segment as far as one of its layers, batch by batch.

        Yields
        ------
        inputs : list of tensors
            What the layer sees in every network.
        output : tensor
            What it makes of it in the first.
        entries : list of tensors
            The segment's inputs in every network.
        """
        for number, images in enumerate(self.images):
            inputs, entries = [], []
            for index, network in enumerate(self.networks):
                x = self._read(index, number) if self.segment else images.to(self.device)
                segment = network.get_submodule(self.segment)
                watched = network.get_submodule(layer.name)
                if index == 0:
                    seen, output = _input_and_output_of(segment, watched, x)
                else:
                    seen = _input_of(segment, watched, x)
                inputs.append(seen)
                entries.append(x)
            yield inputs, output, entries

    def _file(self, index: int, number: int) -> Path:
        return self.folder / f"{index}-{number}.npy"

    def _read(self, index: int, number: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self._file(index, number))).to(self.device)


# ---- rows of a layer ----------------------------------------------------------------------------


def pick_positions(
    layer: Weighted, output: torch.Tensor, most: int | None, generator: torch.Generator
) -> torch.Tensor | None:
    """Positions of a convolution's output map that count for a batch, sorted; None for all.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
    output : tensor
        Of the layer, (N, O, H, W) or (N, …, O).
    most : int or None
        Largest number of positions; None for no limit.
    generator : torch.Generator
        On the CPU.
    """
    if most is None or isinstance(layer, nn.Linear) or output[0, 0].numel() <= most:
        return None
    index = torch.randperm(output[0, 0].numel(), generator=generator)[:most]
    return index.sort().values.to(output.device)


def rows_of(
    layer: Weighted,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    index: torch.Tensor | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """im2col rows (n, D) of a layer's inputs and its outputs (n, O) at the same places, in slices.

    D is ordered as in ``weight.flatten(1)``: by input channel, then by place in the kernel.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
    inputs, outputs : tensors
        (N, I, H, W) and (N, O, H', W') of a convolution, (N, …, I) and (N, …, O) of a linear layer.
    index : (P,) int tensor, optional
        Places of the output map that count, as :func:`pick_positions` picks them.

    Raises
    ------
    InputError
        If the convolution is padded with anything but zeros by given numbers.
    """
    if isinstance(layer, nn.Linear):
        x, y = inputs.flatten(0, -2), outputs.flatten(0, -2)
        size = max(1, _SLICE // x.shape[1])
        yield from zip(x.split(size), y.split(size), strict=True)
        return
    height, width = outputs.shape[2:]
    if index is None:
        index = torch.arange(height * width, device=inputs.device)
    size = max(1, _SLICE // (len(index) * layer.weight[0].numel()))
    for x, y in zip(inputs.split(size), outputs.split(size), strict=True):
        yield _patches(layer, x, index, width), y.flatten(2)[:, :, index].mT.flatten(0, 1)


def _patches(layer: nn.Conv2d, x: torch.Tensor, index: torch.Tensor, width: int) -> torch.Tensor:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise InputError("calibration is for convolutions padded with zeros by given numbers")
    (down, right), (tall, wide) = layer.padding, layer.kernel_size
    x = F.pad(x, (right, right, down, down))
    row = torch.div(index, width, rounding_mode="floor") * layer.stride[0]
    column = (index % width) * layer.stride[1]
    offsets = [
        (i * layer.dilation[0], j * layer.dilation[1]) for i in range(tall) for j in range(wide)
    ]
    parts = [x[:, :, row + i, column + j] for i, j in offsets]
    return torch.stack(parts, dim=2).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


# ---- second moments -----------------------------------------------------------------------------


class Means(NamedTuple):
    """Means over rows, float64 on the CPU.

    Attributes
    ----------
    gram : (D, D) tensor
        E[xxᵀ]; with an intercept central, as the next two.
    cross : (D, O) tensor
        E[xyᵀ].
    square : (O,) tensor
        E[y²] of every output.
    inputs, outputs : (D,), (O,) tensors
        E[x] and E[y].
    """

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor
    inputs: torch.Tensor
    outputs: torch.Tensor


class Moments:
    """Second moments of inputs X (n, D) and targets Y (n, O).

    Parameters
    ----------
    inputs, outputs : int
        D and O.
    device : torch.device
        On which they are summed.

    Attributes
    ----------
    count : int
        Rows so far.
    gram, cross : (D, D), (D, O) tensors
        XᵀX and XᵀY.
    square : (O,) tensor
        Σ Y² of every output.
    inputs, outputs : (D,), (O,) tensors
        Sums.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.count = 0
        self.gram, self.cross = zeros(inputs, inputs), zeros(inputs, outputs)
        self.square = zeros(outputs)
        self.inputs, self.outputs = zeros(inputs), zeros(outputs)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take in rows (n, D) and targets (n, O) of any precision."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.gram.addmm_(x.T, x)
        self.cross.addmm_(x.T, y)
        self.square += y.square().sum(0)
        self.inputs += x.sum(0)
        self.outputs += y.sum(0)

    def __add__(self, other: Moments) -> Moments:
        total = Moments(0, 0, self.gram.device)
        for name in vars(self):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def means(self, intercept: bool) -> Means:
        """Means over the rows so far.

        With an ``intercept`` the moments are central, which is what an intercept minimised over
        leaves of the squared error; the means say what it is: E[Y] − E[X]·W.
        """
        x, y = self.inputs / self.count, self.outputs / self.count
        gram, cross, square = (m / self.count for m in (self.gram, self.cross, self.square))
        if intercept:
            gram, cross, square = gram - x.outer(x), cross - x.outer(y), square - y.square()
        gram = (gram + gram.T) / 2
        return Means(*(mean.cpu() for mean in (gram, cross, square, x, y)))


@torch.no_grad()
def input_moments(
    forward: SegmentedForward, layer: Layer, positions: int | None, seed: int
) -> Moments:
    """Moments of the inputs of a layer, without targets.

    Parameters
    ----------
    forward : SegmentedForward
        Of one network; enters the layer's segment.
    layer : Layer
    positions : int or None
        Most positions of an output map that count, drawn anew for every batch; None for all.
    seed : int
        Of the positions.
    """
    forward.enter(layer.segment)
    module = layer_of(forward.networks[0], layer.name)
    moments = Moments(module.weight[0].numel(), 0, forward.device)
    generator = torch.Generator().manual_seed(seed)
    for inputs, outputs, _ in forward.observe(layer):
        index = pick_positions(module, outputs, positions, generator)
        for x, y in rows_of(module, inputs[0], outputs, index):
            moments.add(x, y[:, :0])
    return moments


def input_means(forward: SegmentedForward, layer: Layer, positions: int, seed: int) -> Means:
    """Means of :func:`input_moments`, central where the layer has an intercept."""
    moments = input_moments(forward, layer, positions, seed)
    return moments.means(has_intercept(forward.networks[0], layer))
