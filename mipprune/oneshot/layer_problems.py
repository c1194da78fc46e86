"""Layer problems of a network's layers, from calibration images.

All that counts of the images is the Gram matrix G of the rows X that a layer sees: with its weights
W₀ the outputs are X·W₀, so B = G·W₀. In the choice of channels outputs count in units of what reads
them, that is times the scale of the BatchNorm behind.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.stack import Stack
from formulations.output import write_output
from formulations.symbolic.catalogue import square
from mipprune.oneshot.calibration import (
    SegmentedForward,
    batches_of,
    input_means,
    input_moments,
)
from mipprune.oneshot.forward_order import (
    ForwardOrder,
    Layer,
    forward_order,
    has_intercept,
    layer_of,
    norm_of,
    scale_of,
)
from mipprune.oneshot.sites import ReadingLayer, Site
from mipprune.runs.files import intermediate

# Added to G's diagonal, toward the dense weights, as a share of its mean; and φ's own.
_RIDGE, _SHRINKAGE = 1e-4, 1e-6

LayerWeights = Mapping[Layer, tuple[FloatArray, FloatArray]]
"""By layer its weights (D, O), in the units of :func:`reader_weights`, and the mean (D,) of its
inputs."""


def problem_of_layer(
    network: nn.Module,
    name: str,
    images: torch.Tensor,
    *,
    ridge: float = 0.0,
    positions: int | None = None,
    seed: int = 0,
) -> LayerProblem:
    """The layer problem of one layer of a network, on calibration images.

    X are the layer's inputs (im2col) on the images, Y = X·W₀ its outputs without bias, in its own
    units; a group is an input channel, φ = ‖w‖² and the price 1, to be replaced.

    Parameters
    ----------
    network : nn.Module
        Of which the layer sees its inputs; in evaluation mode afterwards.
    name : str
        Of the convolution or linear layer.
    images : (N, C, H, W) tensor
    ridge : float
        What is added to G's diagonal, as a share of its mean: see :func:`layer_problem`.
    positions : int or None
        Most positions of an output map that count, drawn anew for every batch; None for all.
    seed : int
        Of the positions.

    Raises
    ------
    InputError
        If there is no such layer, or its inputs never differ from zero.
    """
    order = forward_order(network.eval(), images.shape[1:])
    layer, module = order.layer(name), layer_of(network, name)
    weights = module.weight.detach().double().flatten(1).T.cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        forward = SegmentedForward((network,), order, batches_of(images), Path(folder))
        gram = input_moments(forward, layer, positions, seed).means(False).gram.numpy()
    reader = ReadingLayer(layer, np.arange(len(gram)), module.weight[0, 0].numel())
    return layer_problem(gram, weights, reader, ridge=ridge, shrinkage=1.0)


def layer_problem(
    gram: FloatArray,
    weights: FloatArray,
    reader: ReadingLayer,
    *,
    ridge: float = _RIDGE,
    shrinkage: float | None = None,
) -> LayerProblem:
    """The problem of reproducing X·W₀ with fewer groups of inputs.

    Parameters
    ----------
    gram : (D, D) array
        E[xxᵀ], central where the layer has an intercept.
    weights : (D, O) array
        W₀, in units of what reads the output.
    reader : ReadingLayer
        All rows but its own are kept, and refitted like them: G and B are what is left when their
        weights are minimised over.
    ridge : float
        Share of G's mean diagonal that is added to it, which draws the weights toward W₀ and not
        toward zero: keeping all groups has loss 0.
    shrinkage : float, optional
        a of φ = a‖w‖²; by default next to nothing. The price is 1.

    Raises
    ------
    InputError
        If the layer sees nothing that varies.
    """
    scale = _mean_diagonal(gram)
    if scale <= 0:
        raise InputError(
            f"{reader.layer.name} sees no input that varies, on these images at least: give more "
            "images=N, or choose by scores of the weights, method=magnitude-l2"
        )
    gram, rows = _drawn_back(gram, ridge), reader.rows
    rest = np.setdiff1d(np.arange(len(gram)), rows)
    across = gram[np.ix_(rest, rows)]
    own = gram[np.ix_(rows, rows)] - across.T @ np.linalg.solve(gram[np.ix_(rest, rest)], across)
    own = (own + own.T) / 2
    cross = own @ weights[rows]
    constant = 0.5 * float(np.vdot(weights[rows], cross))
    term = square(_SHRINKAGE * scale if shrinkage is None else shrinkage, 1.0)
    return LayerProblem(own, cross, constant, term, reader.block)


def whole_weights(
    gram: FloatArray, weights: FloatArray, reader: ReadingLayer, own: FloatArray
) -> FloatArray:
    """All weights (D, O) of a layer when those of its problem's rows are ``own`` (J·b, O).

    The others are refitted to them: V_r = W_r + G_rr⁻¹ G_ro (W_o − V_o). Other parameters as in
    :func:`layer_problem`.
    """
    rest = np.setdiff1d(np.arange(len(gram)), reader.rows)
    gram, new = _drawn_back(gram, _RIDGE), weights.copy()
    missing = weights[reader.rows] - own
    new[reader.rows] = own
    across = gram[np.ix_(rest, reader.rows)]
    new[rest] += np.linalg.solve(gram[np.ix_(rest, rest)], across @ missing)
    return new


def _mean_diagonal(gram: FloatArray) -> float:
    return float(np.trace(gram)) / len(gram)


def _drawn_back(gram: FloatArray, ridge: float) -> FloatArray:
    """G with the ridge that draws the weights toward the dense ones."""
    return gram + ridge * _mean_diagonal(gram) * np.eye(len(gram))


def reader_weights(network: nn.Module, layer: Layer) -> FloatArray:
    """A layer's weights (D, O), times the scale of the norm behind it."""
    weights = layer_of(network, layer.name).weight.detach().flatten(1).double()
    norm = norm_of(network, layer)
    if norm is not None:
        weights = weights * scale_of(norm).double().detach()[:, None]
    return weights.T.cpu().numpy()


class CalibratedProblems:
    """The layer problems of a network's sites, from moments that are calibrated once, in files.

    A layer may read several classes of groups, and a class may have readers all over the network,
    while a forward pass goes through it once. So every layer's moments are written as they are
    found, and layer problems are made of them when they are asked for: memory holds those of one
    site's readers.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    order : ForwardOrder
    images : sequence of (N, C, H, W) tensors
        Batches, on the CPU.
    folder : Path
        For the moments, of which those of earlier calls are taken, and for activations.
    positions : int
        Most positions of an output map that count, drawn anew for every batch.
    seed : int
        Of the positions.
    report : callable
        Told what is being done.
    """

    def __init__(
        self,
        network: nn.Module,
        order: ForwardOrder,
        images: Sequence[torch.Tensor],
        folder: Path,
        *,
        positions: int,
        seed: int,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.network, self.order, self.images, self.folder = network, order, images, folder
        self.positions, self.seed, self.report = positions, seed, report

    def stacks(self, sites: Sequence[Site]) -> Iterator[Stack]:
        """The layer problems of sites that are in order (``in_order``), one by one."""
        wanted = {reader.layer for site in sites for reader in site.readers}
        scratch = self.folder / "activations"
        scratch.mkdir(parents=True, exist_ok=True)
        forward = SegmentedForward((self.network,), self.order, self.images, scratch)
        waiting = list(sites)
        for layer in self.order.layers:
            if layer in wanted and not self._file(layer).exists():
                self.report(f"{layer.name}: calibration")
                means = input_means(forward, layer, self.positions, self.seed)
                self._write(layer, means.gram.numpy(), means.inputs.numpy())
            while waiting and waiting[0].readers[-1].layer == layer:
                yield self.stack(waiting.pop(0))

    def stack(self, site: Site) -> Stack:
        """The layer problems of a site whose readers have been calibrated."""
        return Stack(
            tuple(
                layer_problem(self._read(r.layer)[0], reader_weights(self.network, r.layer), r)
                for r in site.readers
            )
        )

    def refitted(self, site: Site, stack: Stack, support: BoolArray) -> LayerWeights:
        """A site's readers refitted to a (J,) support: what :func:`reading_less` takes."""
        found = {}
        for reader, problem in zip(site.readers, stack.problems, strict=True):
            gram, mean = self._read(reader.layer)
            dense = reader_weights(self.network, reader.layer)
            found[reader.layer] = whole_weights(gram, dense, reader, refit(problem, support)), mean
        return found

    def _read(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        with intermediate(self._file(layer)), np.load(self._file(layer)) as data:
            return data["gram"], data["mean"]

    def _write(self, layer: Layer, gram: FloatArray, mean: FloatArray) -> None:
        content = io.BytesIO()
        np.savez(content, gram=gram, mean=mean)
        write_output(self._file(layer), content.getbuffer())

    def _file(self, layer: Layer) -> Path:
        return self.folder / f"{layer.name}.npz"


# ---- trials -------------------------------------------------------------------------------------


@contextmanager
def reading_less(network: nn.Module, weights: LayerWeights) -> Iterator[None]:
    """Within the context some layers have other weights.

    Their intercepts are changed so that their mean outputs stay.
    """
    with ExitStack() as stack:
        for layer, (own, mean) in weights.items():
            stack.enter_context(_with_weights(network, layer, own, mean))
        yield


@contextmanager
@torch.no_grad()
def _with_weights(
    network: nn.Module, layer: Layer, weights: FloatArray, mean: FloatArray
) -> Iterator[None]:
    module, norm = layer_of(network, layer.name), norm_of(network, layer)
    scale = np.ones(1) if norm is None else scale_of(norm).double().cpu().numpy()
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
        if moved is not None and kept is not None:
            moved.copy_(kept)
