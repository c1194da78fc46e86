"""A network of the zoo made smaller by torch-pruning, as its documentation and examples do it.

A ``BasePruner`` with the group L2 norms, global ranking, the layers that make the outputs ignored,
no rounding, and the number of heads of every attention that has the names which its examples know.
Whole heads are removed, as in its examples of BERT and LLaMA; where that never works, dimensions of
heads, as in that of ViT. The attributes of attention that its examples set anew are set anew.
The pruning ratio at which half of the MACs are left is found by bisection.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from zoo_measure import Row, about, difference, macs, one_line, outputs, tensors
from zoo_modules import Inputs
from zoo_networks import Entry, call, inputs, make, outputs_of

BUDGET = 0.5
# share of the MACs at which the bisection ends, and how often it tries
_CLOSE = 0.46
_TRIES = 8
# of these, that fail before any has worked
_FAILURES = 4
SAME = 1e-3
# three maps of an attention, as they are called
_MAPS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
)
_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "nhead")


def run(entry: Entry, say: Callable[[Row], None]) -> None:
    """Prune to half of the MACs and compare; say what is known after every try."""
    network, example = make(entry), inputs(entry, 1)
    row = about(network, example, inputs(entry, 2))
    say(row)
    best: Row = {}
    whole_heads = (True, False) if attentions(network) else (False,)
    for heads in whole_heads:
        for found in _tries(entry, network, row["macs"], heads):
            row["tries"] = row.get("tries", 0) + 1
            if "share" not in found:
                row.setdefault("reason", found["reason"])
            elif not best or _better(found, best):
                best = {**found, "whole_heads": heads if len(whole_heads) > 1 else None}
                row |= best
            say(row)
        if best:
            break
    if best:
        row.pop("reason", None)
        say(row)


def _better(found: Row, best: Row) -> bool:
    """The most that is within the budget; else the least."""
    fits, fitted = found["share"] <= BUDGET, best["share"] <= BUDGET
    if fits and fitted:
        return found["share"] > best["share"]
    return fits or (not fitted and found["share"] < best["share"])


def _tries(entry: Entry, network: nn.Module, dense: int, heads: bool) -> Iterator[Row]:
    """What comes of the ratios of a bisection, one after the other."""
    low, high, ratio, failures, worked = 0.0, 1.0, 0.3, 0, False
    for _ in range(_TRIES):
        found = _tried(entry, copy.deepcopy(network), network, dense, ratio, heads)
        yield found
        if "share" not in found:
            failures += 1
            if failures == _FAILURES and not worked:
                return
        else:
            worked = True
            if _CLOSE <= found["share"] <= BUDGET:
                return
        if found.get("share", 0.0) > BUDGET:  # what fails may work with less removed
            low = ratio
        else:
            high = ratio
        ratio = (low + high) / 2


def _tried(
    entry: Entry, network: nn.Module, full: nn.Module, dense: int, ratio: float, heads: bool
) -> Row:
    """What comes of one ratio, for a copy of the full network that it may change."""
    example, fresh = inputs(entry, 1), inputs(entry, 2)
    step = "the pruner"
    try:
        pruner = _pruner(network, outputs_of(entry, network), example, ratio, heads)
        followed = Followed(network, pruner.DG)
        step = "step"
        groups = 0
        for group in pruner.step(interactive=True):
            followed.see(group)
            group.prune()
            groups += 1
        _mend(network, pruner)
        step = "the smaller network"
        found = outputs(network, fresh)
        row = {"ratio": ratio, "share": macs(network, example) / dense, "groups": groups}
    except Exception as error:  # whatever it raises is the row's result
        return {"ratio": ratio, "reason": f"{step}: {one_line(error)}"}
    row["same_shapes"] = [x.shape for x in found] == [x.shape for x in outputs(full, fresh)]
    if row["same_shapes"]:
        masked = copy.deepcopy(full)
        unknown = followed.mask(masked)
        if unknown:
            row["mask_reason"] = unknown
        else:
            row["difference"] = difference(found, outputs(masked, fresh))
    return row


def _pruner(
    network: nn.Module, ignored: Sequence[nn.Module], example: Inputs, ratio: float, heads: bool
) -> tp.pruner.BasePruner:
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    attention = {layer: n for module in attentions(network) for layer, n in _maps(module)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tp.pruner.BasePruner(
            network,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=list(ignored),
            round_to=None,
            # its own defaults are shared by all pruners of a process
            in_channel_groups={},
            out_channel_groups={},
            num_heads=attention,
            prune_num_heads=heads,
            prune_head_dims=not heads,
            head_pruning_ratio=ratio if heads else 0.0,
            # a batch alone would be taken for a sequence of arguments
            forward_fn=call,
            output_transform=tensors,
        )


# ---- attention ----------------------------------------------------------------------------------


def attentions(network: nn.Module) -> list[nn.Module]:
    """Attention modules with maps and heads of names that torch-pruning's examples know."""
    return [module for module in network.modules() if _maps(module)]


def _maps(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """The layers that make queries, keys and values, each with its number of heads."""
    heads = _number(module, _HEADS)
    if heads is None:
        return []
    if isinstance(module, nn.MultiheadAttention):
        return [(module, heads)]
    if isinstance(getattr(module, "qkv", None), nn.Linear):
        return [(module.qkv, heads)]
    for names in _MAPS:
        layers = [getattr(module, name, None) for name in names]
        if all(isinstance(layer, nn.Linear) for layer in layers):
            shared = _number(module, ("num_key_value_heads",)) or heads
            return list(zip(layers, (heads, shared, shared), strict=True))
    return []


def _number(module: nn.Module, names: Sequence[str]) -> int | None:
    """An attribute of a module, else of its configuration."""
    for owner in (module, getattr(module, "config", None)):
        for name in names:
            if isinstance(value := getattr(owner, name, None), int):
                return value
    return None


def _mend(network: nn.Module, pruner: tp.pruner.BasePruner) -> None:
    """Set the sizes that attention modules remember, as torch-pruning's examples do."""
    for module in attentions(network):
        layer, _ = _maps(module)[0]
        if isinstance(module, nn.MultiheadAttention):
            module.num_heads = pruner.num_heads[module]
            module.head_dim = module.embed_dim // module.num_heads
            continue
        heads = pruner.num_heads[layer]
        width = layer.out_features // (3 if layer is getattr(module, "qkv", None) else 1)
        new = {
            **dict.fromkeys(_HEADS, heads),
            **dict.fromkeys(_SIZES, width // heads),
            **dict.fromkeys(("attn_dim", "all_head_size", "inner_dim"), width),
        }  # fmt: skip
        if (shared := _number(module, ("num_key_value_heads",))) is not None:
            new["num_key_value_groups"] = heads // shared
        for name, value in new.items():
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, value)


# ---- masks --------------------------------------------------------------------------------------


_LAYERS = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm, nn.Embedding, nn.MultiheadAttention,
)  # fmt: skip


class Followed:
    """Which output channels of which layers of a dense network have been removed so far.

    Indices are those of a network that is getting smaller, so every layer's own are remembered.

    Parameters
    ----------
    network : nn.Module
        That gets smaller.
    graph : tp.DependencyGraph
        By which it does.
    """

    def __init__(self, network: nn.Module, graph: tp.DependencyGraph) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        self._graph = graph
        self._left: dict[str, torch.Tensor] = {}
        self._gone: dict[str, list[torch.Tensor]] = {}
        self._dims: dict[str, int] = {}  # of parameters of no layer
        self._unknown = ""

    def see(self, group: Any) -> None:
        """Remember what a group is about to remove."""
        seen: dict[str, tuple[int, set[int]]] = {}
        for dep, idxs in group:
            target, handler = dep.target.module, dep.handler
            if isinstance(target, nn.Parameter):
                name = self._graph._param_to_name[target]
                self._dims[name] = dep.target.pruning_dim
                seen.setdefault(name, (target.shape[self._dims[name]], set()))[1].update(idxs)
            elif target not in self._names or isinstance(target, nn.PReLU):
                continue  # operations, and a layer that makes nothing of nothing
            elif getattr(handler, "__name__", "").endswith("out_channels"):
                if not isinstance(target, _LAYERS):
                    self._unknown = self._unknown or f"a {type(target).__name__} is pruned"
                    continue
                seen.setdefault(self._names[target], (_channels(target), set()))[1].update(idxs)
        for name, (channels, idxs) in seen.items():
            left = self._left.setdefault(name, torch.arange(channels))
            stays = torch.ones(len(left), dtype=torch.bool)
            stays[sorted(map(int, idxs))] = False
            self._gone.setdefault(name, []).append(left[~stays])
            self._left[name] = left[stays]

    def mask(self, network: nn.Module) -> str:
        """Zero what makes the removed channels in the dense network; say why it cannot be done."""
        parameters = dict(network.named_parameters())
        for name, gone in self._gone.items():
            if self._unknown:
                break
            channels = torch.cat(gone)
            if name in self._dims:
                _zero(parameters[name], self._dims[name], channels)
            else:
                self._unknown = _mask_layer(network.get_submodule(name), channels)
        return self._unknown


def _mask_layer(layer: nn.Module, channels: torch.Tensor) -> str:
    """Zero what makes some output channels of a layer; say why it cannot be done."""
    if isinstance(layer, nn.MultiheadAttention):
        if layer.in_proj_weight is None:
            return "attention with inputs of several widths is pruned"
        each = torch.cat([channels + k * layer.embed_dim for k in range(3)])
        _zero(layer.in_proj_weight, 0, each)
        _zero(layer.in_proj_bias, 0, each)
        layer = layer.out_proj
    axis = 0
    if isinstance(layer, nn.Embedding):
        axis = 1
    elif isinstance(layer, nn.modules.conv._ConvTransposeNd):
        if layer.groups > 1:
            return "a grouped transposed convolution is pruned"
        axis = 1
    _zero(layer.weight, axis, channels)
    _zero(getattr(layer, "bias", None), 0, channels)
    return ""


@torch.no_grad()
def _zero(tensor: torch.Tensor | None, axis: int, channels: torch.Tensor) -> None:
    if tensor is not None:
        tensor.movedim(axis, 0)[channels] = 0


def _channels(layer: nn.Module) -> int:
    for name in ("out_channels", "out_features", "num_features", "num_channels", "embed_dim"):
        if (count := getattr(layer, name, None)) is not None:
            return int(count)
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim
    return layer.normalized_shape[-1]
