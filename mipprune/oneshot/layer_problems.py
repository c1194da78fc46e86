"""Layer problems of a network's layers: which layers read groups, and what they see of them.

Outputs count in units of what reads them, that is times the scale of the BatchNorm behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.symbolic.catalogue import square
from mipprune.oneshot.calibration import Layer, Order
from mipprune.oneshot.refit import has_intercept, scale_of
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.widths import classes_of

# Added to G's diagonal, toward the dense weights, as a share of its mean; and φ's own.
_RIDGE, _SHRINKAGE = 1e-4, 1e-6


@dataclass(frozen=True, eq=False)
class Reader:
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
    rows: np.ndarray
    block: int


@dataclass(frozen=True, eq=False)
class Site:
    """Groups that the same layers read.

    Attributes
    ----------
    groups : (J,) int array
        In the order of the layer problems.
    readers : tuple of Reader
        In the order in which they are applied.
    """

    groups: np.ndarray
    readers: tuple[Reader, ...]

    @property
    def name(self) -> str:
        """The first reader and how many there are besides."""
        more = f" and {len(self.readers) - 1} more" if len(self.readers) > 1 else ""
        return f"{self.readers[0].layer.name}{more}"


def inputs_of(groups: Groups) -> dict[str, np.ndarray]:
    """Group of every input of every layer that reads some, by the layer's name."""
    consumers = (m for m in groups.members if m.role == "consumer")
    return {member.tensor.removesuffix(".weight"): member.group for member in consumers}


def read_once(groups: Groups) -> np.ndarray:
    """The groups that one layer alone reads, (groups,) bool."""
    readers = np.zeros(groups.count, int)
    for inputs in inputs_of(groups).values():
        readers[np.unique(inputs[inputs >= 0])] += 1
    return readers == 1


def find_sites(network: nn.Module, cost: Cost, order: Order) -> list[Site]:
    """A site for every class of groups, in order."""
    inputs = inputs_of(cost.groups)
    classes = classes_of(cost)
    return in_order([find_site(network, order, inputs, own) for own in classes], order)


def in_order(sites: Sequence[Site], order: Order) -> list[Site]:
    """Sites in the order of their last readers."""
    place = {layer.name: number for number, layer in enumerate(order.layers)}
    return sorted(sites, key=lambda site: place[site.readers[-1].layer.name])


def find_site(
    network: nn.Module, order: Order, inputs: Mapping[str, np.ndarray], groups: np.ndarray
) -> Site:
    """The site of given groups, which the same of the layers of ``inputs`` read."""
    readers = []
    for layer in order.layers:
        if layer.name in inputs and np.isin(groups, inputs[layer.name]).any():
            module = network.get_submodule(layer.name)
            readers.append(Reader(layer, *group_rows(module, inputs[layer.name], groups)))
    return Site(groups, tuple(readers))


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


def layer_problem(gram: np.ndarray, weights: np.ndarray, reader: Reader) -> LayerProblem:
    """The problem of reproducing X·W₀ with fewer groups of inputs.

    Parameters
    ----------
    gram : (D, D) array
        E[xxᵀ], central where the layer has an intercept.
    weights : (D, O) array
        W₀, in units of what reads the output.
    reader : Reader
        All rows but its own are kept, and refitted like them: G and B are what is left when their
        weights are minimised over.

    Notes
    -----
    A share of G's mean diagonal is added to it, which draws the weights toward W₀ and not toward
    zero: keeping all groups has loss 0.
    """
    scale = _mean_diagonal(gram)
    if scale <= 0:
        raise InputError(f"{reader.layer.name} sees no input that varies")
    gram, rows = _drawn_back(gram), reader.rows
    rest = np.setdiff1d(np.arange(len(gram)), rows)
    across = gram[np.ix_(rest, rows)]
    own = gram[np.ix_(rows, rows)] - across.T @ np.linalg.solve(gram[np.ix_(rest, rest)], across)
    own = (own + own.T) / 2
    cross = own @ weights[rows]
    constant = 0.5 * float(np.vdot(weights[rows], cross))
    return LayerProblem(own, cross, constant, square(_SHRINKAGE * scale, 1.0), reader.block)


def whole_weights(
    gram: np.ndarray, weights: np.ndarray, reader: Reader, own: np.ndarray
) -> np.ndarray:
    """All weights (D, O) of a layer when those of its problem's rows are ``own`` (J·b, O).

    The others are refitted to them: V_r = W_r + G_rr⁻¹ G_ro (W_o − V_o). Other parameters as in
    :func:`layer_problem`.
    """
    rest = np.setdiff1d(np.arange(len(gram)), reader.rows)
    gram, new = _drawn_back(gram), weights.copy()
    missing = weights[reader.rows] - own
    new[reader.rows] = own
    across = gram[np.ix_(rest, reader.rows)]
    new[rest] += np.linalg.solve(gram[np.ix_(rest, rest)], across @ missing)
    return new


def _mean_diagonal(gram: np.ndarray) -> float:
    return float(np.trace(gram)) / len(gram)


def _drawn_back(gram: np.ndarray) -> np.ndarray:
    """G with the ridge that draws the weights toward the dense ones."""
    return gram + _RIDGE * _mean_diagonal(gram) * np.eye(len(gram))


def reader_weights(network: nn.Module, layer: Layer) -> np.ndarray:
    """A layer's weights (D, O), times the scale of the norm behind it."""
    weights = network.get_submodule(layer.name).weight.detach().flatten(1).double()
    if layer.norm is not None:
        weights = weights * scale_of(network.get_submodule(layer.norm)).double().detach()[:, None]
    return weights.T.cpu().numpy()


@contextmanager
def reading_less(
    network: nn.Module, weights: Mapping[Layer, tuple[np.ndarray, np.ndarray]]
) -> Iterator[None]:
    """Within the context some layers have other weights.

    Parameters
    ----------
    weights : mapping
        By layer the weights (D, O), in the units of :func:`reader_weights`, and the mean (D,) of
        its inputs: its intercept is changed so that the mean output stays.
    """
    with ExitStack() as stack:
        for layer, (own, mean) in weights.items():
            stack.enter_context(_with_weights(network, layer, own, mean))
        yield


@contextmanager
@torch.no_grad()
def _with_weights(
    network: nn.Module, layer: Layer, weights: np.ndarray, mean: np.ndarray
) -> Iterator[None]:
    module = network.get_submodule(layer.name)
    norm = network.get_submodule(layer.norm) if layer.norm else None
    scale = 1.0 if norm is None else scale_of(norm).double().cpu().numpy()
    before = module.weight.detach().flatten(1).double().cpu().numpy().T
    new = weights / np.where(np.abs(scale) < 1e-12, 1e-12, scale)
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
