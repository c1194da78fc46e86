"""The layers of a network in the order in which they are applied, seen in one forward pass.

With every layer: the residual block that holds it and the BatchNorm that reads its output, which
say in what units its output counts and where a constant can be added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock
from mipprune.structure.tracing import LAYERS, NORMS

Weighted = nn.Conv2d | nn.Linear
"""A layer with weights (O, …), of which those of an input are rows of its layer problem."""


@dataclass(frozen=True)
class Layer:
    """A convolution (not a grouped one) or linear layer, as calibration sees it.

    Attributes
    ----------
    name : str
    segment : str
        Innermost residual block that holds it; ``""`` for none: the network itself.
    norm : str or None
        The BatchNorm that reads its output.
    closes : bool
        Whether its output, normalised if it has a norm, is what the shortcut of ``segment`` is
        added to.
    """

    name: str
    segment: str
    norm: str | None
    closes: bool


@dataclass(frozen=True)
class ForwardOrder:
    """The layers of a network in the order in which they are applied, and which blocks are chained.

    Attributes
    ----------
    layers : tuple of Layer
    before : dict
        By a residual block's name, the block whose output is its input.
    """

    layers: tuple[Layer, ...]
    before: dict[str, str]

    def layer(self, name: str) -> Layer:
        """A layer by its name.

        Raises
        ------
        InputError
            If the network does not apply it, or it is a grouped convolution.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise InputError(
            f"{name} is no layer whose inputs can be chosen: they are {known}, and no grouped "
            "convolutions"
        )


@torch.no_grad()
def forward_order(network: nn.Module, shape: Sequence[int]) -> ForwardOrder:
    """Run a network once on an image of zeros and see what follows what.

    Parameters
    ----------
    network : nn.Module
        Left in the mode in which it is.
    shape : (channels, height, width)
        Of an image.
    """
    seen = _Seen()
    hooks = [
        module.register_forward_hook(seen.hook(name))
        for name, module in network.named_modules()
        if isinstance(module, (*LAYERS, *NORMS, ResidualBlock))
    ]
    like, training = next(network.parameters()), network.training
    try:
        network.eval()(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    last = _last_of_branches(network, list(seen.outputs))
    layers = tuple(
        Layer(name, _segment_of(network, name), seen.norms.get(name), name in last)
        for name in seen.outputs
    )
    before = {name: _name_of(tensor, seen.exits) for name, tensor in seen.entries.items()}
    return ForwardOrder(layers, {name: own for name, own in before.items() if own is not None})


class _Seen:
    """What came out of the layers, which norms read it, and what went into and out of blocks."""

    def __init__(self) -> None:
        self.outputs: dict[str, torch.Tensor] = {}
        self.norms: dict[str, str] = {}
        self.entries: dict[str, torch.Tensor] = {}
        self.exits: dict[str, torch.Tensor] = {}

    def hook(
        self, name: str
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, LAYERS):
                if getattr(module, "groups", 1) == 1:
                    self.outputs[name] = output
            elif isinstance(module, NORMS):
                if (layer := _name_of(inputs[0], self.outputs)) is not None:
                    self.norms[layer] = name
            else:
                self.entries[name], self.exits[name] = inputs[0], output

        return look


def _name_of(tensor: torch.Tensor, seen: dict[str, torch.Tensor]) -> str | None:
    return next((name for name, other in seen.items() if other is tensor), None)


def _segment_of(network: nn.Module, layer: str) -> str:
    parts = layer.split(".")
    names = (".".join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1))
    blocks = (name for name in names if isinstance(network.get_submodule(name), ResidualBlock))
    return next(blocks, "")


def _last_of_branches(network: nn.Module, applied: list[str]) -> set[str]:
    """Of every residual branch the layer that is applied last."""
    last: set[str] = set()
    for name, block in network.named_modules():
        if isinstance(block, ResidualBlock):
            heads = [f"{name}.{child}" for child in block.branch]
            inside = [a for a in applied if any(f"{a}.".startswith(f"{h}.") for h in heads)]
            last |= set(inside[-1:])
    return last


def layer_of(network: nn.Module, name: str) -> Weighted:
    """The convolution or linear layer of a name."""
    module = network.get_submodule(name)
    assert isinstance(module, LAYERS), name
    return module


def norm_of(network: nn.Module, layer: Layer) -> _BatchNorm | None:
    """The BatchNorm that reads a layer's output, None where there is none."""
    if layer.norm is None:
        return None
    module = network.get_submodule(layer.norm)
    assert isinstance(module, _BatchNorm), layer.norm
    return module


def has_intercept(network: nn.Module, layer: Layer) -> bool:
    """Whether a constant can be added to a layer's output: in its bias or the norm behind it."""
    if layer_of(network, layer.name).bias is not None:
        return True
    norm = norm_of(network, layer)
    return norm is not None and norm.running_mean is not None


def scale_of(norm: _BatchNorm) -> torch.Tensor:
    """What a BatchNorm multiplies its inputs by in evaluation mode, (C,).

    Raises
    ------
    InputError
        If it keeps no statistics of its own.
    """
    if norm.running_var is None:
        raise InputError("BatchNorm without running statistics scales by no fixed number")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale * norm.weight if norm.affine else scale
