"""Groups that the same layers read, and where in those layers' inputs they are.

Channels that one layer reads are chosen for it alone; those of a residual stage, which many layers
read, for all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from formulations.arrays import BoolArray, IntArray
from formulations.errors import InputError
from mipprune.oneshot.forward_order import (
    ForwardOrder,
    Layer,
    Weighted,
    forward_order,
    layer_of,
)
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.scope import find_structure
from mipprune.structure.widths import classes_of


@dataclass(frozen=True, eq=False)
class ReadingLayer:
    """A layer that reads some groups, and where in its inputs they are.

    Attributes
    ----------
    layer : Layer
    rows : (J·b,) int array
        Rows of the layer's Gram matrix, group by group.
    block : int
        b, rows of a group.
    """

    layer: Layer
    rows: IntArray
    block: int


@dataclass(frozen=True, eq=False)
class Site:
    """Groups that the same layers read.

    Attributes
    ----------
    groups : (J,) int array
        In the order of the layer problems.
    readers : tuple of ReadingLayer
        In the order in which they are applied.
    """

    groups: IntArray
    readers: tuple[ReadingLayer, ...]

    @property
    def name(self) -> str:
        """The first reader and how many there are besides."""
        more = f" and {len(self.readers) - 1} more" if len(self.readers) > 1 else ""
        return f"{self.readers[0].layer.name}{more}"


def find_candidates(
    network: nn.Module, shape: tuple[int, ...], protect: Sequence[str], candidates: str
) -> tuple[Groups, Cost, ForwardOrder]:
    """The groups to choose from, what the network costs for them, and its layers in order.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of an image.
    protect : sequence of str
        As in :func:`mipprune.structure.scope.find_structure`.
    candidates : {"all", "inner"}
        As in :class:`mipprune.config.prune.PruneConfig`.

    Raises
    ------
    InputError
        If there is nothing to prune.
    """
    groups, cost = find_structure(network, shape, "channel", protect)
    assert isinstance(cost, Cost)  # of channels
    if candidates == "inner":
        inner = read_once(groups)
        if not inner.any():
            raise InputError(
                "candidates=inner: the network has no prunable groups, each of its channels is "
                "read by several layers: set candidates=all"
            )
        groups = groups.restrict(inner)
        cost = Cost(network, groups, shape)
    return groups, cost, forward_order(network, shape)


def inputs_of(groups: Groups) -> dict[str, IntArray]:
    """Group of every input of every layer that reads some, by the layer's name."""
    consumers = (m for m in groups.members if m.role == "consumer")
    return {member.tensor.removesuffix(".weight"): member.group for member in consumers}


def read_once(groups: Groups) -> BoolArray:
    """The groups that one layer alone reads, (groups,) bool."""
    readers = np.zeros(groups.count, int)
    for inputs in inputs_of(groups).values():
        readers[np.unique(inputs[inputs >= 0])] += 1
    return readers == 1


def find_sites(network: nn.Module, cost: Cost, order: ForwardOrder) -> list[Site]:
    """A site for every class of groups, in order."""
    inputs = inputs_of(cost.groups)
    classes = classes_of(cost)
    return in_order([find_site(network, order, inputs, own) for own in classes], order)


def in_order(sites: Sequence[Site], order: ForwardOrder) -> list[Site]:
    """Sites in the order of their last readers."""
    place = {layer.name: number for number, layer in enumerate(order.layers)}
    return sorted(sites, key=lambda site: place[site.readers[-1].layer.name])


def find_site(
    network: nn.Module, order: ForwardOrder, inputs: Mapping[str, IntArray], groups: IntArray
) -> Site:
    """The site of given groups, which the same of the layers of ``inputs`` read."""
    readers = []
    for layer in order.layers:
        if layer.name in inputs and np.isin(groups, inputs[layer.name]).any():
            module = layer_of(network, layer.name)
            readers.append(ReadingLayer(layer, *group_rows(module, inputs[layer.name], groups)))
    return Site(groups, tuple(readers))


def group_rows(layer: Weighted, inputs: IntArray, groups: IntArray) -> tuple[IntArray, int]:
    """Rows of a layer's Gram matrix that belong to groups, group by group, and how many each has.

    Parameters
    ----------
    layer : nn.Conv2d or nn.Linear
    inputs : (I,) int array
        Group of every input.
    groups : (J,) int array
    """
    kernel = int(np.prod(layer.weight.shape[2:], dtype=int))
    channels = [np.flatnonzero(inputs == group) for group in groups]
    if len({len(own) for own in channels}) != 1:
        raise InputError("a layer reads some groups through more of its inputs than others")
    index = np.concatenate(channels)
    rows = (index[:, None] * kernel + np.arange(kernel)).ravel()
    return rows, kernel * len(channels[0])
