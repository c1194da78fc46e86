"""Which indices of which layers torch-pruning's dependency graph couples.

The graph (Fang et al. 2023, arXiv 2301.12900) has no notion of a zero-padding shortcut, so such a
shortcut is traced as what it is to the channels, a concatenation.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import ZeroPadShortcut

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

Axis = tuple[nn.Module, str]
"""Outputs ("out") or inputs ("in") of a layer."""
Coupling = tuple[Axis, Sequence[int], Axis, Sequence[int]]
"""Indices of one axis and, pair by pair, those of another that live and die with them."""


class ShortcutAsConcatenation(nn.Module):
    """A zero-padding shortcut with the same channel coupling, in operations that can be traced."""

    def __init__(self, shortcut: ZeroPadShortcut) -> None:
        super().__init__()
        inputs, low, high = shortcut.inputs, shortcut.low, shortcut.high
        self.low = nn.Conv2d(inputs, low, 1, 2) if low else None
        self.high = nn.Conv2d(inputs, high, 1, 2) if high else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, low + C + high, ⌈H/2⌉, ⌈W/2⌉)."""
        parts = [F.max_pool2d(x, 1, 2)]
        parts = [self.low(x), *parts] if self.low else parts
        parts = [*parts, self.high(x)] if self.high else parts
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def coupled_layers(network: nn.Module, shape: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """torch-pruning's group of every layer with outputs to prune: (layer's name, group).

    The groups are those of a copy on the CPU with the same weights and gradients. The stand-ins
    of zero-padding shortcuts are zero.

    Parameters
    ----------
    network : nn.Module
        Left as it is.
    shape : (channels, height, width)
        Of an input image.
    """
    traced = copy.deepcopy(network)  # without the gradients
    for own, parameter in zip(network.parameters(), traced.parameters(), strict=True):
        parameter.grad = own.grad
    traced = traced.cpu().eval()
    shortcuts = replace_shortcuts(traced)
    for shortcut in shortcuts.values():
        for parameter in shortcut.parameters():
            nn.init.zeros_(parameter)
            parameter.grad = torch.zeros_like(parameter)
    graph = _graph(traced.float(), torch.zeros(1, *shape, dtype=torch.float32))
    names = {module: name for name, module in traced.named_modules()}
    for module, group in _groups(graph, traced):
        yield names[module], group


def replace_shortcuts(network: nn.Module) -> dict[str, ShortcutAsConcatenation]:
    """Put stand-ins that can be traced in the place of zero-padding shortcuts, by their names."""
    replaced = {}
    for name, block in list(network.named_modules()):
        for child, shortcut in list(block.named_children()):
            if isinstance(shortcut, ZeroPadShortcut):
                stand_in = ShortcutAsConcatenation(shortcut)
                setattr(block, child, stand_in)
                replaced[f"{name}.{child}" if name else child] = stand_in
    return replaced


def couplings(network: nn.Module, example: torch.Tensor) -> tuple[dict[Axis, int], list[Coupling]]:
    """Axes with their lengths, and the pairs of their indices that torch-pruning couples.

    Parameters
    ----------
    network : nn.Module
        Its parameters are set to require gradients.
    example : Tensor
        Inputs that it takes, with the batch as the first axis.

    Raises
    ------
    InputError
        If the network fails on the example or cannot be traced, or has a grouped convolution that
        is not depthwise.
    """
    graph = _graph(network, example)
    axes: dict[Axis, int] = {}
    edges: list[Coupling] = []
    for module, group in _groups(graph, network):
        depthwise = _is_depthwise(module)
        axes.setdefault((module, "out"), len(module.weight))
        if not depthwise:
            inputs = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
            axes.setdefault((module, "in"), inputs)
        for item in group:
            target = item.dep.target.module
            if not isinstance(target, (*LAYERS, *NORMS)):
                continue
            out = graph.is_out_channel_pruning_fn(item.dep.handler) or _is_depthwise(target)
            side = "out" if out else "in"
            if isinstance(target, NORMS):
                axes.setdefault((target, "out"), target.num_features)
                side = "out"
            edges.append(((module, "out"), item.root_idxs, (target, side), item.idxs))
    return axes, edges


def _graph(network: nn.Module, example: torch.Tensor) -> Any:
    """torch-pruning's dependency graph."""
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch_pruning.DependencyGraph().build_dependency(network, example, verbose=False)
        except Exception as error:  # whatever anybody's forward pass or the tracer may raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the network cannot be traced on inputs of shape {tuple(example.shape)}: {reason}"
            ) from error


def _groups(graph: Any, network: nn.Module) -> Iterator[tuple[nn.Conv2d | nn.Linear, Any]]:
    """The layers that the network uses, each with what its output channels are coupled to."""
    for module in network.modules():
        if isinstance(module, LAYERS) and module in graph.module2node:
            prune = graph.get_pruner_of_module(module).prune_out_channels
            yield module, graph.get_pruning_group(module, prune, list(range(len(module.weight))))


def _is_depthwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.groups == 1:
        return False
    if module.groups != module.in_channels or module.groups != module.out_channels:
        raise InputError(
            f"a convolution with {module.groups} groups for {module.in_channels} channels "
            "cannot be pruned: only dense and depthwise ones can"
        )
    return True
