"""Physical removal: from a mask of kept groups to a smaller network and optimizer.

A removed group's producers (filter, bias, BatchNorm weight and bias) count as zero: the pruned
network computes what the network masked by :func:`mask_groups` computes. A residual branch without
inner channels goes as a whole, with its last norm: its output counts as zero.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, IntArray
from formulations.errors import InputError
from mipprune.models.external import resize
from mipprune.models.registry import build, describe
from mipprune.structure.groups import Groups, module_of

# In float64, of the largest output: by how much a pruned network may differ from the masked one.
_SAME = 1e-8


class Removal:
    """Slicing of every tensor of a network for a (groups,) mask of kept groups.

    Attributes
    ----------
    groups : Groups
    kept : (groups,) bool array
        Without the groups of dead branches.
    dead : tuple of tuples of str
        Layers and norms of every dead branch, in their order.

    Raises
    ------
    InputError
        If a layer outside of these would be left empty.
    """

    def __init__(self, groups: Groups, kept: BoolArray) -> None:
        if kept.shape != (groups.count,):
            raise InputError(f"the mask has {kept.shape} entries for {groups.count} groups")
        self.groups, self.kept = groups, groups.settle(kept)
        self.dead = tuple(groups.branches[name] for name in groups.emptied(self.kept))
        self._gone = {module for branch in self.dead for module in branch}
        self._indices: dict[str, list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for member in groups.members:
            if not self.stays(member.tensor):
                continue
            alive = self.alive(member.group)
            if not alive.any():
                raise InputError(f"nothing would be left of {member.tensor}")
            if member.axis is None:
                raise InputError("single weights are not removed but masked")
            index = torch.from_numpy(np.flatnonzero(alive))
            self._indices[member.tensor].append((member.axis, index))

    def alive(self, group: IntArray) -> BoolArray:
        """Which indices of an axis stay, given their groups (−1: none)."""
        return np.append(self.kept, True)[group]  # the last for −1

    def stays(self, name: str) -> bool:
        """Whether anything is left of a named tensor: it is not of a dead branch."""
        return module_of(name) not in self._gone

    def slice(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The part of a named tensor (or of one shaped like it) that stays."""
        for axis, index in self._indices.get(name, ()):
            tensor = tensor.index_select(axis, index.to(tensor.device))
        return tensor.contiguous()


def mask_groups(network: nn.Module, groups: Groups, kept: BoolArray) -> None:
    """Set the producers of the removed groups to zero, and the end of dead branches, in place.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
        Of this network.
    kept : (groups,) bool array
    """
    tensors, removal = dict(network.named_parameters()), Removal(groups, kept)
    with torch.no_grad():
        for member in groups.producers():
            tensor = tensors[member.tensor]
            dead = torch.from_numpy(~removal.alive(member.group))
            tensor.movedim(member.axis or 0, 0)[dead.to(tensor.device)] = 0
        for branch in removal.dead:
            for parameter in network.get_submodule(branch[-1]).parameters():
                parameter.zero_()


def prune_groups(network: nn.Module, groups: Groups, kept: BoolArray) -> nn.Module:
    """A new network without the removed groups.

    Parameters
    ----------
    network : nn.Module
        Any module of convolutions (dense or depthwise), linear layers and BatchNorm; left as it is.
    groups : Groups
        Of this network.
    kept : (groups,) bool array

    Returns
    -------
    nn.Module
        On the same device and in the same mode. A network of :mod:`mipprune.models` is built anew,
        with ``architecture`` set to its own widths; of another one it is a copy whose layers are
        smaller.

    Raises
    ------
    InputError
        If a layer would be left empty that is not in a removable branch; if the copy does not
        compute what the network computes with the removed groups at zero.
    """
    removal = Removal(groups, kept)
    state = {
        name: removal.slice(name, tensor)
        for name, tensor in network.state_dict().items()
        if removal.stays(name)
    }
    if isinstance(getattr(network, "architecture", None), dict):  # of mipprune.models
        smaller = build(_architecture(network, removal, state))
        smaller.load_state_dict(state)
        device = next(network.parameters()).device
        return smaller.to(device).train(network.training)
    smaller = _resized(network, state)
    _check_same(network, smaller, groups, kept)
    return smaller


def _architecture(
    network: nn.Module, removal: Removal, state: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The smaller network's description, from which it can be built anew."""
    architecture, groups = describe(network), removal.groups
    if "shapes" in architecture:
        return {**architecture, "shapes": {k: list(tensor.shape) for k, tensor in state.items()}}
    widths = architecture["widths"]
    for name, group in groups.layers.items():
        widths[name] = int(removal.alive(group).sum())
    for name, (low, high) in groups.paddings.items():
        widths[name] = int(removal.alive(low).sum())
        widths[f"{name}.high"] = int(removal.alive(high).sum())
    return architecture


def _resized(network: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of a module whose layers hold these tensors."""
    smaller = copy.deepcopy(network)
    resize(smaller, {name: tensor.shape for name, tensor in state.items()}, "the network")
    smaller.load_state_dict(state)
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trained[name])
    return smaller


@torch.no_grad()
def _check_same(network: nn.Module, smaller: nn.Module, groups: Groups, kept: BoolArray) -> None:
    """Raise an InputError if a smaller network computes something else than the masked one."""
    if groups.example is None:
        raise InputError("these groups were not found on examples: find_groups(network, inputs)")
    example = groups.example.double()
    if bool((example == example.flatten()[0]).all()):  # such as zeros, which prove little
        example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).double()
    masked, small = (copy.deepcopy(n).cpu().double().eval() for n in (network, smaller))
    mask_groups(masked, groups, kept)
    expected = masked(example)
    try:
        difference = float((small(example) - expected).abs().max())
    except Exception as error:  # whatever the module's own forward pass raises
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the network cannot run with fewer channels: {reason}") from error
    largest = float(expected.abs().max())
    if not difference <= _SAME * max(largest, 1e-300):  # nan neither
        raise InputError(
            f"without the removed groups the network's outputs differ by {difference:.3g} (largest "
            f"{largest:.3g}) from those with the groups at zero: an operation does not map zero "
            "channels to zero, or mixes channels in a way that cannot be traced"
        )


def prune_optimizer(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    smaller: nn.Module,
    removal: Removal,
) -> None:
    """Point an optimizer of ``network`` at ``smaller``, its state (momentum, …) sliced likewise.

    Parameters of dead branches leave the optimizer.
    """
    names: dict[torch.Tensor, str] = {p: name for name, p in network.named_parameters()}
    successors = dict(smaller.named_parameters())
    state: defaultdict[torch.Tensor, dict[str, Any]] = defaultdict(dict)
    for parameter, entries in optimizer.state.items():
        name = names[parameter]
        if not removal.stays(name):
            continue
        state[successors[name]] = {
            key: removal.slice(name, value)
            if torch.is_tensor(value) and value.shape == parameter.shape
            else value
            for key, value in entries.items()
        }
    for group in optimizer.param_groups:
        left = [names[parameter] for parameter in group["params"]]
        group["params"] = [successors[name] for name in left if removal.stays(name)]
    optimizer.state = state


def recalibrate(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Estimate the running statistics of every BatchNorm anew from batches of images.

    The plain average over the batches, in training mode, without gradients.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
