"""The groups of a network: which weights live and die together.

A group is one channel (or hidden unit) with everything coupled to it: the filter that produces it,
its BatchNorm entries, the slices of the next layers that consume it, and, through residual
additions, the same channel of every block of a stage. Torch-pruning's dependency graph (Fang et
al. 2023, arXiv 2301.12900) finds the coupling. It has no notion of a zero-padding shortcut, so
such a shortcut is traced as what it is to the channels, a concatenation: new channels below, the
old ones, new channels above.

A residual branch whose inner channels are all removed computes nothing but a constant: it goes
altogether, and only the shortcut of its block stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from formulations.arrays import BoolArray, IntArray
from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock
from mipprune.structure.tracing import (
    LAYERS,
    NORMS,
    Axis,
    Coupling,
    couplings,
    replace_shortcuts,
)

# So many of the example inputs are remembered.
_EXAMPLES = 8


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor of the network, and the group of every index along it.

    Attributes
    ----------
    tensor : str
        Name in the state dictionary.
    axis : int or None
        None: every entry of the tensor has a group of its own.
    group : (size of the axis,) int array
        Group of each index, −1 where the index belongs to none (it is never pruned); of each entry
        of the flattened tensor if the axis is None.
    role : {"producer", "consumer", "statistic"}
        Producers make the channel and are what a term penalises: if they are zero, the channel is.
        Consumers read it; statistics are the running averages of BatchNorm.
    """

    tensor: str
    axis: int | None
    group: IntArray
    role: str


@dataclass(frozen=True)
class Groups:
    """All groups of a network.

    Attributes
    ----------
    count : int
    members : tuple of Member
        In network order.
    layers : dict
        Groups of the output channels of every prunable layer, by the layer's name.
    paddings : dict
        Groups of the channels that a zero-padding shortcut adds (below, above), by its name.
    blocks : dict
        By the name of a residual block whose branch can be removed, the groups that live in the
        branch alone: its inner channels, not those of the stage.
    branches : dict
        By the same names, the layers and norms of the branch, in their order.
    example : Tensor or None
        Some inputs on which the network was traced, on the CPU, the batch as the first axis.
    """

    count: int
    members: tuple[Member, ...]
    layers: dict[str, IntArray] = field(default_factory=dict)
    paddings: dict[str, tuple[IntArray, IntArray]] = field(default_factory=dict)
    blocks: dict[str, IntArray] = field(default_factory=dict)
    branches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    example: torch.Tensor | None = None

    def producers(self) -> list[Member]:
        """All weights that make a group's channels: filters, biases, BatchNorm weights."""
        return [member for member in self.members if member.role == "producer"]

    def scales(self) -> list[Member]:
        """The weights that carry a channel's magnitude.

        BatchNorm divides a filter's norm out again, so behind one these are its weight and bias
        alone; of a group without BatchNorm, all its producers.
        """
        norms = {module_of(m.tensor) for m in self.members if m.role == "statistic"}
        producers = self.producers()
        behind = [m for m in producers if module_of(m.tensor) in norms]
        normalised = {int(g) for m in behind for g in m.group}
        rest = [m for m in producers if m not in behind and not normalised & set(m.group.tolist())]
        return [m for m in producers if m in behind or m in rest]

    def restrict(self, allowed: BoolArray) -> Groups:
        """The groups of a (count,) mask alone: the channels of all others are never pruned."""
        number = np.append(np.where(allowed, np.cumsum(allowed) - 1, -1), -1)  # −1 stays −1
        members = [replace(m, group=number[m.group]) for m in self.members]
        layers = {name: number[group] for name, group in self.layers.items()}
        # a branch with protected channels is not removable
        free = [name for name, group in self.blocks.items() if allowed[group].all()]
        return replace(
            self,
            count=int(allowed.sum()),
            members=tuple(m for m in members if (m.group >= 0).any()),
            layers={name: group for name, group in layers.items() if (group >= 0).any()},
            paddings={n: (number[low], number[high]) for n, (low, high) in self.paddings.items()},
            blocks={n: number[group] for n, group in self.blocks.items() if n in free},
            branches={n: branch for n, branch in self.branches.items() if n in free},
        )

    def numbered_as(self, layers: Mapping[str, Sequence[int]]) -> Groups:
        """These groups with the numbers of an older tracing of the same network, and no others.

        Parameters
        ----------
        layers : mapping
            ``layers`` of the older groups; where it has −1 or no entry, channels are not pruned.
        """
        older = np.full(self.count, -1)
        for name, group in self.layers.items():
            if name in layers:
                inside = group >= 0
                older[group[inside]] = np.asarray(layers[name])[inside]
        mine = self.restrict(older >= 0)
        number = np.append(older[older >= 0], -1)  # −1 stays −1
        return replace(
            mine,
            members=tuple(replace(m, group=number[m.group]) for m in mine.members),
            layers={name: number[group] for name, group in mine.layers.items()},
            paddings={n: (number[low], number[high]) for n, (low, high) in mine.paddings.items()},
            blocks={n: np.sort(number[group]) for n, group in mine.blocks.items()},
        )

    def kept_per_layer(self, kept: BoolArray) -> dict[str, int]:
        """Channels left in every prunable layer for a (count,) mask of kept groups."""
        stays = np.append(kept, True)  # the last for −1
        return {name: int(stays[group].sum()) for name, group in self.layers.items()}

    def emptied(self, kept: BoolArray) -> list[str]:
        """Blocks with an inner layer of which a (count,) mask keeps nothing: the branch is dead."""
        return [
            name
            for name, layers in self._inner_layers.items()
            if not all(kept[layer].any() for layer in layers)
        ]

    def settle(self, kept: BoolArray) -> BoolArray:
        """The (count,) mask without the groups of dead branches.

        Nor those that nothing produces any more: channels that a shortcut pads with zeros, and
        that no branch adds to.
        """
        emptied = self.emptied(kept)
        if not emptied:
            return kept.copy()
        dead = {layer for name in emptied for layer in self.branches[name]}
        living = [m.group for m in self.producers() if module_of(m.tensor) not in dead]
        produced = np.isin(np.arange(self.count), np.concatenate([*living, np.zeros(0, int)]))
        inner = np.concatenate([self.blocks[name] for name in emptied])
        return kept & produced & ~np.isin(np.arange(self.count), inner)

    def shrink(self, kept: BoolArray) -> Groups:
        """Groups of the network after physical removal; group k is the k-th kept one of these.

        Parameters
        ----------
        kept : (count,) bool array
        """
        kept = self.settle(kept)
        gone = set(self.emptied(kept))
        dead = {layer for name in gone for layer in self.branches[name]}
        number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # −1 stays −1

        def left(group: IntArray) -> IntArray:
            return number[group[(group < 0) | (number[group] >= 0)]]

        members = [
            replace(member, group=left(member.group))
            for member in self.members
            if module_of(member.tensor) not in dead
        ]
        layers = {name: left(group) for name, group in self.layers.items() if name not in dead}
        return Groups(
            int(kept.sum()),
            tuple(member for member in members if (member.group >= 0).any()),
            {name: group for name, group in layers.items() if (group >= 0).any()},
            {name: (left(low), left(high)) for name, (low, high) in self.paddings.items()},
            {name: left(group) for name, group in self.blocks.items() if name not in gone},
            {name: branch for name, branch in self.branches.items() if name not in gone},
            self.example,
        )

    @cached_property
    def _inner_layers(self) -> dict[str, list[IntArray]]:
        """Groups of every layer that lies wholly inside a removable branch, by block."""
        return {
            name: [
                self.layers[layer]
                for layer in self.branches[name]
                if layer in self.layers and np.isin(self.layers[layer], inner).all()
            ]
            for name, inner in self.blocks.items()
        }


def module_of(tensor: str) -> str:
    """Name of the module that holds a tensor of the state dictionary."""
    return tensor.rpartition(".")[0]


def find_groups(network: nn.Module, example_inputs: torch.Tensor | Sequence[int]) -> Groups:
    """Trace a network and find its groups.

    Inputs of the network and outputs of its classifier belong to no group.

    Parameters
    ----------
    network : nn.Module
        Left as it is; a copy on the CPU in float32 is traced.
    example_inputs : Tensor or sequence of int
        Inputs that the network takes, with the batch as the first axis, such as (N, C, H, W); or
        the shape of one input, (C, H, W). :func:`~mipprune.structure.removal.prune_groups` checks
        its result on the first of them.

    Returns
    -------
    Groups

    Raises
    ------
    InputError
        If the network cannot be run on the inputs or traced, has a grouped convolution that is not
        depthwise, another kind of layer with parameters, or nothing to prune.
    """
    _check(network)
    if not torch.is_tensor(example_inputs):
        example_inputs = torch.zeros(1, *example_inputs)
    example = example_inputs[:_EXAMPLES].detach().to("cpu", torch.float32, copy=True)
    traced = copy.deepcopy(network).cpu().eval()
    shortcuts = replace_shortcuts(traced)
    axes, edges = couplings(traced.float(), example[:1])
    group_of = _label(axes, edges)
    names = {module: name for name, module in traced.named_modules()}
    stand_ins = {module for shortcut in shortcuts.values() for module in shortcut.modules()}

    members: list[Member] = []
    layers: dict[str, IntArray] = {}
    for (module, side), labels in zip(axes, group_of, strict=True):
        if module in stand_ins or not (labels >= 0).any():
            continue
        name = names[module]
        members += _members(module, name, side, labels)
        if isinstance(module, LAYERS) and side == "out":
            layers[name] = labels
    order = {name: i for i, name in enumerate(network.state_dict())}
    members.sort(key=lambda member: (order[member.tensor], member.axis))
    if not members:
        raise InputError("the network has no prunable groups")
    where = dict(zip(axes, group_of, strict=True))

    def padded(convolution: nn.Conv2d | None) -> IntArray:
        return np.zeros(0, int) if convolution is None else where[convolution, "out"]

    paddings = {name: (padded(cat.low), padded(cat.high)) for name, cat in shortcuts.items()}
    count = 1 + max(int(labels.max()) for labels in group_of)
    layers = {name: layers[name] for name, _ in network.named_modules() if name in layers}
    blocks, branches = _blocks(network, members, layers)
    return Groups(count, tuple(members), layers, paddings, blocks, branches, example)


def _check(network: nn.Module) -> None:
    owner: dict[nn.Parameter, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if owner.setdefault(parameter, name) != name:
            raise InputError(
                f"{owner[parameter]} and {name} are one tensor, which cannot be pruned"
            )
    for name, module in network.named_modules():
        if module._parameters and not isinstance(module, (*LAYERS, *NORMS)):
            raise InputError(
                f"{name or 'the network'} ({type(module).__name__}) cannot be pruned: parameters "
                "must be those of 2-d convolutions, linear layers and BatchNorm"
            )


def _blocks(
    network: nn.Module, members: list[Member], layers: dict[str, IntArray]
) -> tuple[dict[str, IntArray], dict[str, tuple[str, ...]]]:
    """Inner groups and modules of every residual branch that can be removed."""
    blocks: dict[str, IntArray] = {}
    branches: dict[str, tuple[str, ...]] = {}
    for name, block in network.named_modules():
        if not isinstance(block, ResidualBlock) or not block.branch:
            continue
        branch = tuple(
            f"{name}.{child}" + (f".{below}" if below else "")
            for child in block.branch
            for below, module in block.get_submodule(child).named_modules()
            if module._parameters
        )
        inside = [m.group for m in members if module_of(m.tensor) in branch]
        outside = [m.group for m in members if module_of(m.tensor) not in branch]
        inner = np.setdiff1d(np.concatenate(inside), [-1, *np.concatenate(outside)])
        if any(layer in layers and np.isin(layers[layer], inner).all() for layer in branch):
            blocks[name], branches[name] = inner, branch
    return blocks, branches


def _label(axes: dict[Axis, int], edges: list[Coupling]) -> list[IntArray]:
    """Group of every index of every axis: the connected components with producer and consumer.

    Those without a producer are network inputs, without a consumer network outputs.
    """
    starts = dict(zip(axes, np.cumsum([0, *axes.values()]), strict=False))
    total = sum(axes.values())
    rows = np.concatenate([starts[a] + np.asarray(i) for a, i, _, _ in edges] or [[]])
    columns = np.concatenate([starts[b] + np.asarray(j) for _, _, b, j in edges] or [[]])
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(total, total))
    components, label = connected_components(links, directed=False)
    produced, consumed = np.zeros(components, bool), np.zeros(components, bool)
    for (module, side), size in axes.items():
        part = label[starts[module, side] : starts[module, side] + size]
        if side == "in":
            consumed[part] = True
        elif isinstance(module, LAYERS):
            produced[part] = True
    number = np.full(components, -1)
    prunable = produced & consumed
    number[prunable] = np.arange(prunable.sum())
    return [number[label[starts[axis] : starts[axis] + size]] for axis, size in axes.items()]


def _members(module: nn.Module, name: str, side: str, labels: IntArray) -> list[Member]:
    if side == "in":
        return [Member(f"{name}.weight", 1, labels, "consumer")]
    members = [
        Member(f"{name}.{parameter}", 0, labels, "producer")
        for parameter in ("weight", "bias")
        if getattr(module, parameter) is not None
    ]
    if isinstance(module, NORMS) and module.running_mean is not None:
        members += [
            Member(f"{name}.{buffer}", 0, labels, "statistic")
            for buffer in ("running_mean", "running_var")
        ]
    return members
