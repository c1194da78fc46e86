"""Calibration: what the layers of a network see, and what they make of it, streamed over images.

Second moments of a layer's inputs (im2col rows X) and outputs Y are all that its layer problem and
its refit need. They are summed in float64, slice by slice, so that memory holds one Gram matrix and
one batch, whatever the number of images. A network is walked through unit by unit, a unit being a
residual block or the network as a whole; the inputs of a block are the outputs of the one before,
kept in files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock
from mipprune.structure.tracing import LAYERS, NORMS

# entries of a slice of im2col rows
_SLICE = 2**23


@dataclass(frozen=True)
class Layer:
    """A convolution (not a grouped one) or linear layer, as calibration sees it.

    Attributes
    ----------
    name : str
    unit : str
        Innermost residual block that holds it; ``""`` for none: the network itself.
    norm : str or None
        The BatchNorm that reads its output.
    closes : bool
        Whether its output, normalised if it has a norm, is what the shortcut of ``unit`` is added
        to.
    """

    name: str
    unit: str
    norm: str | None
    closes: bool


@dataclass(frozen=True)
class Order:
    """The layers of a network in the order in which they are applied, and which blocks are chained.

    Attributes
    ----------
    layers : tuple of Layer
    before : dict
        By a residual block's name, the block whose output is its input.
    """

    layers: tuple[Layer, ...]
    before: dict[str, str]


@torch.no_grad()
def find_order(network: nn.Module, shape: Sequence[int]) -> Order:
    """Run a network once on an image of zeros and see what follows what."""
    outputs: dict[str, torch.Tensor] = {}
    norms: dict[str, str] = {}
    entries: dict[str, torch.Tensor] = {}
    exits: dict[str, torch.Tensor] = {}
    hooks = []

    def source(seen: dict[str, torch.Tensor], tensor: torch.Tensor) -> str | None:
        return next((name for name, other in seen.items() if other is tensor), None)

    def look(name: str, module: nn.Module, inputs, output) -> None:
        if isinstance(module, LAYERS):
            if getattr(module, "groups", 1) == 1:
                outputs[name] = output
        elif isinstance(module, NORMS):
            if (layer := source(outputs, inputs[0])) is not None:
                norms[layer] = name
        elif isinstance(module, ResidualBlock):
            entries[name], exits[name] = inputs[0], output

    for name, module in network.named_modules():
        if isinstance(module, (*LAYERS, *NORMS, ResidualBlock)):
            hooks.append(
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: look(name, module, inputs, output)
                )
            )
    like, training = next(network.parameters()), network.training
    try:
        network.eval()(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    last = _last_of_branches(network, list(outputs))
    layers = tuple(
        Layer(name, _unit_of(network, name), norms.get(name), name in last) for name in outputs
    )
    before = {name: source(exits, tensor) for name, tensor in entries.items()}
    return Order(layers, {name: first for name, first in before.items() if first is not None})


def _unit_of(network: nn.Module, layer: str) -> str:
    parts = layer.split(".")
    names = (".".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1))
    blocks = (name for name in names if isinstance(network.get_submodule(name), ResidualBlock))
    return next(blocks, "")


def _last_of_branches(network: nn.Module, applied: list[str]) -> set[str]:
    """Of every residual branch the layer that is applied last."""
    last = set()
    for name, block in network.named_modules():
        if isinstance(block, ResidualBlock):
            heads = [f"{name}.{child}" for child in block.branch]
            inside = [a for a in applied if any(f"{a}.".startswith(f"{h}.") for h in heads)]
            last |= set(inside[-1:])
    return last


class _Reached(Exception):
    """A forward pass has come to where it was to end."""


def _run_until(module: nn.Module, watched: nn.Module, x: torch.Tensor, before: bool):
    """(input, output) of ``watched`` in ``module(x)``; only the input if ``before``."""
    seen = []

    def stop(_, inputs, output=None):
        seen.append((inputs[0], output))
        raise _Reached

    attach = watched.register_forward_pre_hook if before else watched.register_forward_hook
    hook = attach(stop)
    try:
        module(x)
    except _Reached:
        return seen[0]
    finally:
        hook.remove()
    raise RuntimeError("the network does not apply a layer that it applied before")


class Walk:
    """The inputs of one unit after another, of one or several networks side by side.

    Parameters
    ----------
    networks : sequence of nn.Module
        In evaluation mode, with the same units. Layers of the unit that the walk is at, and of
        later ones, may change on the way.
    order : Order
        Of the first.
    images : sequence of tensors
        Batches, on the CPU.
    folder : Path
        For the activations between units; emptied by nobody but the caller.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        order: Order,
        images: Sequence[torch.Tensor],
        folder: Path,
    ):
        self.networks, self.order, self.images, self.folder = networks, order, images, folder
        self.device = next(networks[0].parameters()).device
        self.unit = ""

    def enter(self, unit: str) -> None:
        """Go to a unit: ``""`` or a residual block, in the order of the layers."""
        if unit == self.unit:
            return
        follows = unit != "" and self.order.before.get(unit) == self.unit
        for number in range(len(self.images) if unit else 0):
            for index, network in enumerate(self.networks):
                if follows:
                    output = network.get_submodule(self.unit)(self._read(index, number))
                else:
                    images = self.images[number].to(self.device)
                    output, _ = _run_until(network, network.get_submodule(unit), images, True)
                np.save(self._file(index, number), output.cpu().numpy())
        self.unit = unit

    def observe(
        self, layer: Layer
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]]:
        """Inputs of a layer of this unit in every network, its outputs in the first, and the unit's
        inputs in every network; batch by batch.
        """
        for number, images in enumerate(self.images):
            inputs, outputs, entries = [], [], []
            for index, network in enumerate(self.networks):
                x = self._read(index, number) if self.unit else images.to(self.device)
                unit, watched = (network.get_submodule(name) for name in (self.unit, layer.name))
                seen, made = _run_until(unit, watched, x, before=index > 0)
                inputs.append(seen)
                outputs.append(made)
                entries.append(x)
            yield inputs, outputs[0], entries

    def _file(self, index: int, number: int) -> Path:
        return self.folder / f"{index}-{number}.npy"

    def _read(self, index: int, number: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self._file(index, number))).to(self.device)


def pick_positions(
    layer: nn.Module, output: torch.Tensor, most: int, generator: torch.Generator
) -> torch.Tensor | None:
    """Positions of a convolution's output map that count for a batch, sorted; None for all."""
    if isinstance(layer, nn.Linear) or output[0, 0].numel() <= most:
        return None
    index = torch.randperm(output[0, 0].numel(), generator=generator)[:most]
    return index.sort().values.to(output.device)


def rows_of(
    layer: nn.Module,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    index: torch.Tensor | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """im2col rows (n, D) of a layer's inputs and its outputs (n, O) at the same places, in slices.

    D is ordered as in ``weight.flatten(1)``: by input channel, then by place in the kernel.
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
    offsets = [(i * layer.dilation[0], j * layer.dilation[1]) for i in range(tall)
               for j in range(wide)]  # fmt: skip
    parts = [x[:, :, row + i, column + j] for i, j in offsets]
    return torch.stack(parts, dim=2).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


class Moments:
    """Second moments of inputs X (n, D) and targets Y (n, O), summed in float64.

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

    def __init__(self, rows: int, outputs: int, device: torch.device):
        def zeros(*shape):
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.count = 0
        self.gram, self.cross, self.square = zeros(rows, rows), zeros(rows, outputs), zeros(outputs)
        self.inputs, self.outputs = zeros(rows), zeros(outputs)

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

    def means(self, intercept: bool) -> tuple[np.ndarray, ...]:
        """G (D, D), B (D, O), E[Y²] (O,), E[X] (D,), E[Y] (O,), in NumPy.

        With an ``intercept`` the first three are central moments, which is what an intercept
        minimised over leaves of the squared error, and the means say what it is: E[Y] − E[X]·W.
        """
        x, y = self.inputs / self.count, self.outputs / self.count
        gram, cross, square = (m / self.count for m in (self.gram, self.cross, self.square))
        if intercept:
            gram, cross, square = gram - x.outer(x), cross - x.outer(y), square - y.square()
        gram = (gram + gram.T) / 2
        return tuple(m.cpu().numpy() for m in (gram, cross, square, x, y))
