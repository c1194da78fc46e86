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

from mipprune.oneshot.calibration import Layer, Moments, Walk, find_order, pick_positions, rows_of
from mipprune.structure.groups import Groups
from mipprune.structure.removal import Removal

# ρ as shares of G's mean diagonal
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# every so many batches are held out to choose ρ
_HELD_OUT = 5
# scales of a norm below which an output cannot be corrected through it
_TINY_SCALE = 1e-3


@dataclass(frozen=True)
class Fit:
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

    weights: np.ndarray
    intercept: np.ndarray | None
    ridge: float
    before: float
    after: float


@torch.no_grad()
def refit(
    dense: nn.Module,
    pruned: nn.Module,
    groups: Groups,
    kept: np.ndarray,
    images: Sequence[torch.Tensor],
    *,
    positions: int,
    seed: int = 0,
    done: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    report: Callable[[Layer, Fit, dict[str, torch.Tensor]], None] = lambda *_: None,
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
    dense.eval(), pruned.eval()
    shape = tuple(images[0].shape[1:])
    order = find_order(dense, shape)
    removal = Removal(groups, kept)
    present = dict(pruned.named_modules())
    consumers = {m.tensor: m.group for m in groups.members if m.role == "consumer"}
    changed = False
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk((dense, pruned), order, images, Path(folder))
        for layer in order.layers:
            if layer.name not in present:  # of a branch that is gone
                changed = True
                continue
            reads = consumers.get(f"{layer.name}.weight")
            changed = changed or (reads is not None and not removal.alive(reads).all())
            if not changed:
                continue
            if layer.name in done:
                _load(pruned, layer, done[layer.name])
                continue
            walk.enter(layer.unit)
            out = groups.layers.get(layer.name)
            outputs = None if out is None else torch.from_numpy(np.flatnonzero(removal.alive(out)))
            moments = _collect(walk, layer, outputs, positions, seed)
            module = present[layer.name]
            norm = present[layer.norm] if layer.norm else None
            weights = module.weight.double().flatten(1).T.cpu().numpy()
            fitted = fit(moments, weights, has_intercept(pruned, layer))
            tensors = _tensors(module, norm, layer, fitted)
            _load(pruned, layer, tensors)
            report(layer, fitted, tensors)


def has_intercept(network: nn.Module, layer: Layer) -> bool:
    """Whether a constant can be added to a layer's output: in its bias or the norm behind it."""
    if network.get_submodule(layer.name).bias is not None:
        return True
    return bool(layer.norm) and network.get_submodule(layer.norm).running_mean is not None


def _collect(
    walk: Walk, layer: Layer, outputs: torch.Tensor | None, positions: int, seed: int
) -> tuple[Moments, Moments]:
    """Moments of the pruned inputs and the targets, of the images to fit on and those held out."""
    module = walk.networks[1].get_submodule(layer.name)
    generator = torch.Generator().manual_seed(seed)
    sums: list[Moments | None] = [None, None]
    for number, (inputs, made, entries) in enumerate(walk.observe(layer)):
        target = made if outputs is None else _take(made, outputs)
        if layer.closes:
            target = target + _correction(walk, layer, entries, outputs)
        index = pick_positions(module, target, positions, generator)
        part = int(number % _HELD_OUT == _HELD_OUT - 1)
        for x, y in rows_of(module, inputs[1], target, index):
            if sums[part] is None:
                sums[part] = Moments(x.shape[1], y.shape[1], x.device)
            sums[part].add(x, y)
    return sums[0], sums[1] or sums[0]


def _take(output: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    axis = 1 if output.dim() == 4 else output.dim() - 1
    return output.index_select(axis, channels.to(output.device))


def _correction(walk: Walk, layer: Layer, entries, outputs: torch.Tensor | None) -> torch.Tensor:
    """What the shortcut lacks, in units of the layer's output: the dense one's less the pruned."""
    dense, pruned = (network.get_submodule(layer.unit) for network in walk.networks)
    full, own = dense.bypass(entries[0]), pruned.bypass(entries[1])
    missing = (full if outputs is None else _take(full, outputs)) - own
    if layer.norm is None:
        return missing
    scale = scale_of(walk.networks[1].get_submodule(layer.norm))
    inverse = torch.where(scale.abs() < _TINY_SCALE, 0.0, 1 / scale)
    return missing * inverse[:, None, None]


def scale_of(norm: nn.Module) -> torch.Tensor:
    """What a BatchNorm multiplies its inputs by in evaluation mode, (C,)."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale if norm.weight is None else scale * norm.weight


def fit(moments: tuple[Moments, Moments], weights: np.ndarray, intercept: bool) -> Fit:
    """Best weights (D, O) near given ones, the ridge by the error on the second moments' images.

    In torch: NumPy's threads would wait for those that torch's layers have just used.
    """
    start = torch.from_numpy(weights)
    test_gram, test_cross, *_ = _tensor_means(moments[1], intercept)
    gram, cross, *_ = _tensor_means(moments[0], intercept)

    def error(w: torch.Tensor) -> float:
        return float((w * (test_gram @ w - 2 * test_cross)).sum())

    candidates = [(error(start + _step(gram, cross, start, r)), r) for r in RIDGES]
    ridge = min(candidates)[1]
    whole = moments[0] if moments[1] is moments[0] else moments[0] + moments[1]
    gram, cross, square, x, y = _tensor_means(whole, intercept)
    new = start + _step(gram, cross, start, ridge)
    variance = max(float(square.sum()), 1e-300)

    def share(w: torch.Tensor) -> float:
        left = (w * (gram @ w - 2 * cross)).sum() + square.sum()
        return max(0.0, float(left)) / variance

    constant = (y - x @ new).numpy() if intercept else None
    return Fit(new.numpy(), constant, ridge, share(start), share(new))


def _tensor_means(moments: Moments, intercept: bool) -> list[torch.Tensor]:
    return [torch.from_numpy(mean) for mean in moments.means(intercept)]


def _step(
    gram: torch.Tensor, cross: torch.Tensor, weights: torch.Tensor, ridge: float
) -> torch.Tensor:
    """(G + ρ)⁻¹(B − G W₀)."""
    rho = ridge * max(float(gram.trace()) / len(gram), 1e-300)
    factor = torch.linalg.cholesky(gram + rho * torch.eye(len(gram), dtype=gram.dtype))
    return torch.cholesky_solve(cross - gram @ weights, factor)


def _tensors(module, norm, layer: Layer, fitted: Fit) -> dict[str, torch.Tensor]:
    """The tensors of the state dictionary that a fit rewrites."""
    like = module.weight
    new = {f"{layer.name}.weight": torch.from_numpy(fitted.weights.T).reshape(like.shape)}
    if fitted.intercept is not None:
        intercept = torch.from_numpy(fitted.intercept)
        if module.bias is not None:
            new[f"{layer.name}.bias"] = intercept
        else:  # W x + b − μ = W x − (μ − b)
            mean = norm.running_mean.double().cpu()
            new[f"{layer.norm}.running_mean"] = mean - intercept
    return {name: tensor.to(like.dtype).contiguous() for name, tensor in new.items()}


def _load(network: nn.Module, layer: Layer, tensors: Mapping[str, torch.Tensor]) -> None:
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
    sums: dict[nn.Module, list] = {}
    norms = [
        m
        for m in network.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine and m.track_running_stats
    ]

    def look(norm, inputs):
        x = inputs[0].double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count, total, squares = sums.setdefault(norm, [0, 0.0, 0.0])
        sums[norm] = [
            count + x.numel() // x.shape[1],
            total + x.sum(axes),
            squares + x.square().sum(axes),
        ]

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    device = next(network.parameters()).device
    try:
        for images in batches:
            network(images.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, (count, total, squares) in sums.items():
        scale = scale_of(norm).double()
        shift = norm.bias.double() - scale * norm.running_mean
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + scale * mean)
