"""Refit of a pruned network, layer by layer: what is left makes up for what is gone.

In the order in which they are applied, every layer gets the weights with which it comes closest, on
calibration images, to the dense network's outputs from the pruned network's own inputs: errors of
earlier layers are corrected by later ones. The last layer of a residual branch aims at the dense
block's output, so that it also makes up for what the shortcut brings along. With the sliced dense
weights W₀, G = E[xxᵀ], B = E[xyᵀ], both central where the layer has an intercept,

    min  ½E‖W x − y‖² + ½ρ·‖W − W₀‖²    ⇒    W = W₀ + (G + ρ)⁻¹(B − G W₀),

ρ chosen on images held out. The intercept goes into the layer's bias or its BatchNorm's mean.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from formulations.arrays import BoolArray, FloatArray
from mipprune.models.parts import ResidualBlock
from mipprune.oneshot.calibration import (
    Moments,
    SegmentedForward,
    pick_positions,
    rows_of,
)
from mipprune.oneshot.forward_order import (
    Layer,
    forward_order,
    has_intercept,
    layer_of,
    norm_of,
    scale_of,
)
from mipprune.structure.groups import Groups
from mipprune.structure.removal import Removal

# ρ as shares of G's mean diagonal
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# every so many batches are held out to choose ρ
_HELD_OUT = 5
# scales of a norm below which an output cannot be corrected through it
_TINY_SCALE = 1e-3


@dataclass(frozen=True)
class LayerFit:
    """New weights of a layer.

    Attributes
    ----------
    weights : (D, O) array
    intercept : (O,) array or None
    ridge : float
        ρ as a share of G's mean diagonal.
    before, after : float
        Mean squared error of the outputs on the calibration rows, with W₀ and with the fit, as a
        share of the targets' variance.
    """

    weights: FloatArray
    intercept: FloatArray | None
    ridge: float
    before: float
    after: float


@torch.no_grad()
def refit(
    dense: nn.Module,
    pruned: nn.Module,
    groups: Groups,
    kept: BoolArray,
    images: Sequence[torch.Tensor],
    *,
    positions: int,
    seed: int = 0,
    done: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    report: Callable[[Layer, LayerFit, dict[str, torch.Tensor]], None] = lambda *_: None,
) -> None:
    """Refit the layers of a pruned network in place.

    Parameters
    ----------
    dense : nn.Module
    pruned : nn.Module
        ``prune_groups(dense, groups, kept)``, on the same device; both are left in evaluation mode.
    groups : Groups
        Of the dense network.
    kept : (groups,) bool array
    images : sequence of tensors
        Normalised calibration images in batches, on the CPU.
    positions : int
        Most positions of an output map that count, drawn anew for every batch.
    seed : int
        Of the positions.
    done : mapping
        By layer, tensors that an interrupted refit reported: taken as they are.
    report : callable
        Called after every layer with its fit and its new tensors.
    """
    done = done or {}
    dense.eval()
    pruned.eval()
    order = forward_order(dense, images[0].shape[1:])
    removal = Removal(groups, kept)
    present = dict(pruned.named_modules())
    consumers = {m.tensor: m.group for m in groups.members if m.role == "consumer"}
    changed = False
    with tempfile.TemporaryDirectory() as folder:
        forward = SegmentedForward((dense, pruned), order, images, Path(folder))
        for layer in order.layers:
            if layer.name not in present:  # of a branch that is gone
                changed = True
                continue
            reads = consumers.get(f"{layer.name}.weight")
            changed = changed or (reads is not None and not removal.alive(reads).all())
            if not changed:
                continue
            if layer.name in done:
                _load(pruned, done[layer.name])
                continue
            forward.enter(layer.segment)
            out = groups.layers.get(layer.name)
            outputs = None if out is None else torch.from_numpy(np.flatnonzero(removal.alive(out)))
            moments = _collect(forward, layer, outputs, positions, seed)
            weights = layer_of(pruned, layer.name).weight.double().flatten(1).T.cpu().numpy()
            fitted = fit(moments, weights, has_intercept(pruned, layer))
            tensors = _tensors(pruned, layer, fitted)
            _load(pruned, tensors)
            report(layer, fitted, tensors)


def _collect(
    forward: SegmentedForward, layer: Layer, outputs: torch.Tensor | None, positions: int, seed: int
) -> tuple[Moments, Moments]:
    """Moments of the pruned inputs and the targets, of the images to fit on and those held out."""
    module = layer_of(forward.networks[1], layer.name)
    generator = torch.Generator().manual_seed(seed)
    count = len(module.weight)
    fitted_on, held_out = (
        Moments(module.weight[0].numel(), count, forward.device) for _ in range(2)
    )
    for number, (inputs, made, entries) in enumerate(forward.observe(layer)):
        target = made if outputs is None else _take(made, outputs)
        if layer.closes:
            target = target + _correction(forward, layer, entries, outputs)
        index = pick_positions(module, target, positions, generator)
        moments = held_out if number % _HELD_OUT == _HELD_OUT - 1 else fitted_on
        for x, y in rows_of(module, inputs[1], target, index):
            moments.add(x, y)
    return fitted_on, held_out if held_out.count else fitted_on


def _take(output: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    axis = 1 if output.dim() == 4 else output.dim() - 1
    return output.index_select(axis, channels.to(output.device))


def _correction(
    forward: SegmentedForward,
    layer: Layer,
    entries: Sequence[torch.Tensor],
    outputs: torch.Tensor | None,
) -> torch.Tensor:
    """What the shortcut lacks, in units of the layer's output: the dense one's less the pruned."""
    full, own = (
        _bypass(network, layer.segment, entry)
        for network, entry in zip(forward.networks, entries, strict=True)
    )
    missing = (full if outputs is None else _take(full, outputs)) - own
    norm = norm_of(forward.networks[1], layer)
    if norm is None:
        return missing
    scale = scale_of(norm)
    inverse = torch.where(scale.abs() < _TINY_SCALE, 0.0, 1 / scale)
    return missing * inverse[:, None, None]


def _bypass(network: nn.Module, block: str, entry: torch.Tensor) -> torch.Tensor:
    module = network.get_submodule(block)
    assert isinstance(module, ResidualBlock), block
    return module.bypass(entry)


def fit(moments: tuple[Moments, Moments], weights: FloatArray, intercept: bool) -> LayerFit:
    """Best weights (D, O) near given ones, the ridge by the error on the second moments' images.

    In torch: NumPy's threads would wait for those that torch's layers have just used.

    Parameters
    ----------
    moments : pair of Moments
        Of the rows to fit on and of those held out; the same ones if none are.
    weights : (D, O) array
        W₀.
    intercept : bool
        Whether a constant is fitted too.
    """
    start = torch.from_numpy(weights)
    test_gram, test_cross, *_ = moments[1].means(intercept)
    gram, cross, *_ = moments[0].means(intercept)

    def error(w: torch.Tensor) -> float:
        return float((w * (test_gram @ w - 2 * test_cross)).sum())

    candidates = [(error(start + _step(gram, cross, start, r)), r) for r in RIDGES]
    ridge = min(candidates)[1]
    whole = moments[0] if moments[1] is moments[0] else moments[0] + moments[1]
    gram, cross, square, x, y = whole.means(intercept)
    new = start + _step(gram, cross, start, ridge)
    variance = max(float(square.sum()), 1e-300)

    def share(w: torch.Tensor) -> float:
        left = (w * (gram @ w - 2 * cross)).sum() + square.sum()
        return max(0.0, float(left)) / variance

    constant = (y - x @ new).numpy() if intercept else None
    return LayerFit(new.numpy(), constant, ridge, share(start), share(new))


def _step(
    gram: torch.Tensor, cross: torch.Tensor, weights: torch.Tensor, ridge: float
) -> torch.Tensor:
    """(G + ρ)⁻¹(B − G W₀)."""
    rho = ridge * max(float(gram.trace()) / len(gram), 1e-300)
    factor = torch.linalg.cholesky(gram + rho * torch.eye(len(gram), dtype=gram.dtype))
    return torch.cholesky_solve(cross - gram @ weights, factor)


def _tensors(network: nn.Module, layer: Layer, fitted: LayerFit) -> dict[str, torch.Tensor]:
    """The tensors of the state dictionary that a fit rewrites."""
    module, norm = layer_of(network, layer.name), norm_of(network, layer)
    like = module.weight
    new = {f"{layer.name}.weight": torch.from_numpy(fitted.weights.T).reshape(like.shape)}
    if fitted.intercept is not None:
        intercept = torch.from_numpy(fitted.intercept)
        if module.bias is not None:
            new[f"{layer.name}.bias"] = intercept
        elif norm is not None and norm.running_mean is not None:  # W x + b − μ = W x − (μ − b)
            mean = norm.running_mean.double().cpu()
            new[f"{layer.norm}.running_mean"] = mean - intercept
    return {name: tensor.to(like.dtype).contiguous() for name, tensor in new.items()}


def _load(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    state = network.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    """Estimate the statistics of every BatchNorm anew and leave what the network computes as it is.

    In evaluation mode a norm is y = s·x + t. With the mean m and the variance v of its inputs on
    the calibration images, running_mean = m, running_var = v, weight = s·√(v + ε) and
    bias = t + s·m say the same; in training mode, where a refitted network would otherwise be
    another one, it then computes the same too, as far as a batch is like the calibration images.
    Norms without weights are left as they are.
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    sums = {norm: _Sums() for norm in norms if norm.affine and norm.track_running_stats}
    hooks = [norm.register_forward_pre_hook(own.add) for norm, own in sums.items()]
    device = next(network.parameters()).device
    try:
        for images in batches:
            network(images.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, own in sums.items():
        if own.count:
            _set_statistics(norm, own)


class _Sums:
    """Sums over what a norm sees, by channel: how many, Σx and Σx²."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.squares = torch.zeros(())

    def add(self, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Take in the inputs of a forward pass: a pre-forward hook."""
        x = inputs[0].double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        self.count += x.numel() // x.shape[1]
        self.total = self.total.to(x) + x.sum(axes)
        self.squares = self.squares.to(x) + x.square().sum(axes)


def _set_statistics(norm: _BatchNorm, sums: _Sums) -> None:
    """Set new statistics, and weight and bias so that the function stays."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = scale_of(norm).double()
    shift = norm.bias.double() - scale * norm.running_mean
    mean = sums.total / sums.count
    variance = (sums.squares / sums.count - mean.square()).clamp_min(0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * mean)
