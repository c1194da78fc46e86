"""Physical removal: from a mask of kept groups to a smaller network and optimizer.

A removed group's producers (filter, bias, BatchNorm weight and bias) count as zero: the pruned
network computes what the network masked by :func:`mask` computes. A residual branch without inner
channels goes as a whole, with its last norm: its output counts as zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from formulations.errors import InputError
from mipprune.models.registry import build, describe
from mipprune.structure.groups import Groups, module_of


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

    def __init__(self, groups: Groups, kept: np.ndarray):
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
            index = torch.from_numpy(np.flatnonzero(alive))
            self._indices[member.tensor].append((member.axis, index))

    def alive(self, group: np.ndarray) -> np.ndarray:
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


def mask(network: nn.Module, groups: Groups, kept: np.ndarray) -> None:
    """Set the producers of the removed groups to zero, and the end of dead branches, in place."""
    tensors, removal = dict(network.named_parameters()), Removal(groups, kept)
    with torch.no_grad():
        for member in groups.producers():
            tensor = tensors[member.tensor]
            dead = torch.from_numpy(~removal.alive(member.group))
            tensor.movedim(member.axis, 0)[dead.to(tensor.device)] = 0
        for branch in removal.dead:
            for parameter in network.get_submodule(branch[-1]).parameters():
                parameter.zero_()


def prune(network: nn.Module, groups: Groups, kept: np.ndarray) -> nn.Module:
    """A new network without the removed groups.

    Parameters
    ----------
    network : nn.Module
        Built by :func:`mipprune.models.registry.build`; left as it is.
    groups : Groups
        Of this network.
    kept : (groups,) bool array

    Returns
    -------
    nn.Module
        On the same device and in the same mode, with ``architecture`` set to its own widths.

    Raises
    ------
    InputError
        If a layer would be left empty that is not in a removable branch.
    """
    removal = Removal(groups, kept)
    state = {
        name: removal.slice(name, tensor)
        for name, tensor in network.state_dict().items()
        if removal.stays(name)
    }
    architecture = describe(network)
    if "shapes" in architecture:
        architecture["shapes"] = {name: list(tensor.shape) for name, tensor in state.items()}
    else:
        widths = architecture["widths"]
        for name, group in groups.layers.items():
            widths[name] = int(removal.alive(group).sum())
        for name, (low, high) in groups.paddings.items():
            widths[name] = int(removal.alive(low).sum())
            widths[f"{name}.high"] = int(removal.alive(high).sum())
    smaller = build(architecture)
    smaller.load_state_dict(state)
    device = next(network.parameters()).device
    return smaller.to(device).train(network.training)


def prune_optimizer(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    smaller: nn.Module,
    removal: Removal,
) -> None:
    """Point an optimizer of ``network`` at ``smaller``, its state (momentum, …) sliced likewise.

    Parameters of dead branches leave the optimizer.
    """
    names = {parameter: name for name, parameter in network.named_parameters()}
    successors = dict(smaller.named_parameters())
    state = defaultdict(dict)
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
