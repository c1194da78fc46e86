"""What is pruned of a network: single weights, hidden units, channels, whole blocks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

import numpy as np
from torch import nn

from formulations.errors import InputError
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups, find_groups
from mipprune.structure.links import LinkCost, find_links
from mipprune.structure.tracing import LAYERS


def find_structure(
    network: nn.Module, shape: Sequence[int], granularity: str, protect: Sequence[str] = ()
) -> tuple[Groups, Cost | LinkCost]:
    """The groups of a network at a granularity, and what it costs for any choice of them.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of an input image.
    granularity : {"link", "neuron", "channel", "block"}
        As in :class:`mipprune.config.train.Config`.
    protect : sequence of str
        Layers whose channels stay, with everything coupled to them: names or patterns.

    Raises
    ------
    InputError
        If a pattern matches no layer, or nothing is left to prune.
    """
    layers = [n for n, m in network.named_modules() if isinstance(m, LAYERS)]
    for pattern in protect:
        if not any(fnmatch(name, pattern) for name in layers):
            raise InputError(f"protect={pattern} matches no layer: they are {', '.join(layers)}")
    if granularity == "link":
        groups = find_links(network, protect)
        return groups, LinkCost(network, groups, shape)
    groups = find_groups(network, shape)
    allowed = np.ones(groups.count, bool)
    for name, group in groups.layers.items():
        convolution = isinstance(network.get_submodule(name), nn.Conv2d)
        protected = any(fnmatch(name, pattern) for pattern in protect)
        if protected or (granularity == "neuron" and convolution):
            allowed[group[group >= 0]] = False
    if not allowed.any():
        reason = "no hidden units" if granularity == "neuron" else "only protected layers"
        raise InputError(f"nothing to prune: the network has {reason}")
    if not allowed.all():
        groups = groups.restrict(allowed)
    if granularity == "block" and not groups.blocks:
        raise InputError(
            "granularity=block: this network has no residual blocks to remove"
            f"{' besides protected ones' if protect else ''}; set granularity=channel"
        )
    return groups, Cost(network, groups, shape)
