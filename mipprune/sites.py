"""Layer problems of a network's layers: which groups a layer reads, and what it sees of them.

Outputs count in units of what reads them, that is times the scale of the BatchNorm behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from formulations.catalogue import square
from formulations.errors import InputError
from formulations.layer import LayerProblem
from mipprune import allocation
from mipprune.calibration import Layer, Moments, Order, Walk, pick_positions, rows_of
from mipprune.cost import Cost
from mipprune.groups import Groups
from mipprune.refit import has_intercept, scale_of

# Added to G's diagonal, toward the dense weights, as a share of its mean; and φ's own.
_RIDGE, _SHRINKAGE = 1e-4, 1e-6


@dataclass(frozen=True, eq=False)
class Site:
    """A class of groups that one layer reads, and where in its inputs they are.

    Attributes
    ----------
    layer : Layer
        The reader.
    groups : (J,) int array
        Groups, in the order of the layer problem.
    rows : (J·b,) int array
        Rows of the layer's Gram matrix, group by group.
    block : int
        b, rows of a group.
    """

    layer: Layer
    groups: np.ndarray
    rows: np.ndarray
    block: int


def readers_of(groups: Groups) -> dict[int, set[str]]:
    """The layers that read each group."""
    readers: dict[int, set[str]] = {group: set() for group in range(groups.count)}
    for member in groups.members:
        if member.role == "consumer":
            for group in np.unique(member.group[member.group >= 0]):
                readers[int(group)].add(member.tensor.removesuffix(".weight"))
    return readers


def read_once(groups: Groups, order: Order) -> np.ndarray:
    """The groups that one layer alone reads, (groups,) bool."""
    known = {layer.name for layer in order.layers}
    readers = readers_of(groups)
    return np.array([len(readers[g]) == 1 and readers[g] <= known for g in range(groups.count)])


def find_sites(network: nn.Module, cost: Cost, order: Order) -> list[Site]:
    """The sites of groups that are all read once, in the order of their layers."""
    groups = cost.groups
    readers = readers_of(groups)
    layers = {layer.name: layer for layer in order.layers}
    inputs = {m.tensor: m.group for m in groups.members if m.role == "consumer"}
    sites = []
    for group in allocation.classes_of(cost):
        (name,) = readers[int(group[0])]
        rows, block = group_rows(network.get_submodule(name), inputs[f"{name}.weight"], group)
        sites.append(Site(layers[name], group, rows, block))
    place = {layer.name: number for number, layer in enumerate(order.layers)}
    return sorted(sites, key=lambda site: place[site.layer.name])


def group_rows(layer: nn.Module, inputs: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows of a layer's Gram matrix that belong to groups, group by group, and how many each has.

    Parameters
    ----------
    layer : nn.Module
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


def layer_problem(
    gram: np.ndarray, weights: np.ndarray, rows: np.ndarray, block: int
) -> LayerProblem:
    """The problem of reproducing X·W₀ with fewer groups of inputs.

    Parameters
    ----------
    gram : (D, D) array
        E[xxᵀ], central where the layer has an intercept.
    weights : (D, O) array
        W₀, in units of what reads the output.
    rows : (J·block,) int array
        Rows of the groups. All others are kept, and refitted like them: G and B are what is left
        when their weights are minimised over.
    block : int

    Notes
    -----
    A share of G's mean diagonal is added to it, which draws the weights toward W₀ and not toward
    zero: keeping all groups has loss 0.
    """
    scale = float(np.trace(gram)) / len(gram)
    if scale <= 0:
        raise InputError("the layer sees no input that varies")
    gram = gram + _RIDGE * scale * np.eye(len(gram))
    rest = np.setdiff1d(np.arange(len(gram)), rows)
    own = gram[np.ix_(rows, rows)]
    if rest.size:
        across = gram[np.ix_(rest, rows)]
        own = own - across.T @ np.linalg.solve(gram[np.ix_(rest, rest)], across)
        own = (own + own.T) / 2
    cross = own @ weights[rows]
    constant = 0.5 * float(np.vdot(weights[rows], cross))
    return LayerProblem(own, cross, constant, square(_SHRINKAGE * scale, 1.0), block)


def reader_weights(network: nn.Module, layer: Layer) -> np.ndarray:
    """A layer's weights (D, O), times the scale of the norm behind it."""
    weights = network.get_submodule(layer.name).weight.detach().flatten(1).double()
    if layer.norm is not None:
        weights = weights * scale_of(network.get_submodule(layer.norm)).double().detach()[:, None]
    return weights.T.cpu().numpy()


@torch.no_grad()
def calibrate(walk: Walk, layer: Layer, positions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """G (D, D), central where the layer has an intercept, and the mean (D,) of its inputs."""
    walk.enter(layer.unit)
    network = walk.networks[0]
    module = network.get_submodule(layer.name)
    generator = torch.Generator().manual_seed(seed)
    moments = None
    for inputs, outputs, _ in walk.observe(layer):
        index = pick_positions(module, outputs[0], positions, generator)
        for x, y in rows_of(module, inputs[0], outputs[0], index):
            moments = moments or Moments(x.shape[1], 0, x.device)
            moments.add(x, y[:, :0])
    gram, _, _, mean, _ = moments.means(has_intercept(network, layer))
    return gram, mean


@contextmanager
@torch.no_grad()
def reading_less(
    network: nn.Module, site: Site, weights: np.ndarray, mean: np.ndarray
) -> Iterator[None]:
    """Within the context the site's layer has weights (J·b, O) of its layer problem.

    Parameters
    ----------
    mean : (D,) array
        Of the layer's inputs: its intercept is changed so that the mean output stays.
    """
    layer = site.layer
    module = network.get_submodule(layer.name)
    norm = network.get_submodule(layer.norm) if layer.norm else None
    scale = 1.0 if norm is None else scale_of(norm).double().cpu().numpy()
    before = module.weight.detach().flatten(1).double().cpu().numpy().T
    new = before.copy()
    new[site.rows] = weights / np.where(np.abs(scale) < 1e-12, 1e-12, scale)
    change = torch.from_numpy(mean @ (before - new))
    old = module.weight.detach().clone()
    moved = None if not has_intercept(network, layer) else module.bias
    moved = norm.running_mean if moved is None and norm is not None else moved
    kept = None if moved is None else moved.detach().clone()
    module.weight.copy_(torch.from_numpy(new.T).reshape(old.shape))
    if moved is not None:
        moved.add_((change if module.bias is not None else -change).to(moved))
    try:
        yield
    finally:
        module.weight.copy_(old)
        if moved is not None:
            moved.copy_(kept)
