"""Single weights as groups of one: unstructured pruning, by masks instead of removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, IntArray
from formulations.errors import InputError
from mipprune.structure.cost import count_params, positions
from mipprune.structure.groups import Groups, Member
from mipprune.structure.tracing import LAYERS


def find_links(network: nn.Module, protect: Sequence[str] = ()) -> Groups:
    """Every weight of the convolutions and linear layers as a group of its own.

    Parameters
    ----------
    network : nn.Module
    protect : sequence of str
        Names of layers, or patterns, that stay, as biases and BatchNorm do.

    Raises
    ------
    InputError
        If nothing is left to prune.
    """
    members, count = [], 0
    for name, module in network.named_modules():
        if isinstance(module, LAYERS) and not any(fnmatch(name, p) for p in protect):
            size = module.weight.numel()
            group = np.arange(count, count + size)
            members.append(Member(f"{name}.weight", None, group, "producer"))
            count += size
    if not members:
        raise InputError("the network has no weights to prune: protect fewer layers")
    layers = {m.tensor.removesuffix(".weight"): m.group for m in members}
    return Groups(count, tuple(members), layers, {}, {}, {})


class LinkCost:
    """What the network costs where removed weights count as nothing: a sum over the weights.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
        Of :func:`find_links`.
    shape : (channels, height, width)
        Of an input image.
    """

    def __init__(self, network: nn.Module, groups: Groups, shape: Sequence[int]) -> None:
        self.groups = groups
        times = positions(network, shape)
        modules = dict(network.named_modules())
        everything = sum(modules[name].weight.numel() * n for name, n in times.items())
        self.dense: Mapping[str, int] = {"macs": everything, "params": count_params(network)}
        repeated = np.concatenate(
            [np.full(len(group), times[name]) for name, group in groups.layers.items()]
        )
        self._marginal = {"macs": repeated, "params": np.ones(groups.count, int)}

    def marginal(self, unit: str) -> IntArray:
        """What goes away with each weight, (groups,)."""
        return self._marginal[unit]

    def value(self, kept: BoolArray, unit: str) -> int:
        """MACs with, or parameters that are, weights other than zero, for a (groups,) mask."""
        return int(self.dense[unit] - self._marginal[unit][~kept].sum())


class Masks:
    """Zeros that stay: sets the removed weights to zero, and again after every step.

    Parameters
    ----------
    network : nn.Module
    keep : mapping of str to bool Tensor
        By the weight's name, of its shape: what stays.
    """

    done = False

    def __init__(self, network: nn.Module, keep: Mapping[str, torch.Tensor]) -> None:
        parameters = dict(network.named_parameters())
        self.keep = {name: mask.to(parameters[name].device) for name, mask in keep.items()}
        self._pairs = [(parameters[name], mask) for name, mask in self.keep.items()]
        self.apply_()

    @torch.no_grad()
    def apply_(self) -> None:
        """Set the weights outside the masks to zero."""
        for weight, mask in self._pairs:
            weight.mul_(mask)


def masks_of(network: nn.Module, groups: Groups, kept: BoolArray) -> dict[str, torch.Tensor]:
    """Which entries of every prunable weight stay, for a (groups,) mask.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
        Of :func:`find_links`.
    kept : (groups,) bool array

    Returns
    -------
    dict
        By the weight's name, a bool tensor of its shape.
    """
    parameters = dict(network.named_parameters())
    return {
        m.tensor: torch.from_numpy((m.group < 0) | kept[m.group]).view(parameters[m.tensor].shape)
        for m in groups.members
    }


def sparsity(network: nn.Module) -> dict[str, float]:
    """Share of zeros in the weight of every convolution and linear layer, by the layer's name."""
    return {
        name: float((module.weight == 0).float().mean())
        for name, module in network.named_modules()
        if isinstance(module, LAYERS)
    }


def count_nonzero(network: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """``macs`` and ``params`` of the weights other than zero, by which sparse networks are told."""
    times = positions(network, shape)
    modules = dict(network.named_modules())
    parameters = list(network.parameters())
    zeros = sum(int((modules[name].weight == 0).sum()) for name in times)
    return {
        "macs": sum(int((modules[n].weight != 0).sum()) * repeat for n, repeat in times.items()),
        "params": sum(p.numel() for p in parameters) - zeros,
    }
