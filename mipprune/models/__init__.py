"""Models by name, built from an architecture: plain data that a checkpoint stores as JSON.

An architecture is a dictionary with ``name``, ``shape`` (channels, height, width), ``classes``, the
model's own options and ``widths``, the output channels of every layer by name. :func:`describe`
reads the widths off a network, so a pruned network is rebuilt by ``build(describe(network))``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from formulations.errors import InputError
from mipprune.models.mlp import MLP
from mipprune.models.resnet import CifarResNet, ImageNetResNet, ZeroPadShortcut

Architecture = dict[str, Any]

_IMAGENET_DEPTHS = (18, 34, 50)
IMAGENET = tuple(f"resnet{depth}" for depth in _IMAGENET_DEPTHS)
_BUILDERS = {
    **{f"resnet{d}": (partial(CifarResNet, d), ("shortcut", "width")) for d in (8, 14, 20, 32, 44)},
    **{f"resnet{d}": (partial(CifarResNet, d), ("shortcut", "width")) for d in (56, 110)},
    **{f"resnet{d}": (partial(ImageNetResNet, d), ("width",)) for d in _IMAGENET_DEPTHS},
    "mlp": (MLP, ("hidden",)),
}
NAMES = tuple(_BUILDERS)


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a model takes beside shape, classes and widths."""
    if name not in _BUILDERS:
        raise InputError(f"unknown model {name!r}: one of {', '.join(NAMES)}")
    return _BUILDERS[name][1]


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights; ``network.architecture`` remembers the dictionary.

    Raises
    ------
    InputError
        Unknown name or option, widths that do not fit together.
    """
    given = dict(architecture)
    name = given.pop("name", None)
    options = options_of(name)
    unknown = set(given) - {"shape", "classes", "widths", *options}
    if unknown:
        wrong, right = ", ".join(sorted(unknown)), ", ".join(options)
        raise InputError(f"model {name} has no option {wrong}: it takes {right}")
    network = _BUILDERS[name][0](**given)
    network.architecture = {"name": name, **given}
    return network


def describe(network: nn.Module) -> Architecture:
    """The network's architecture with the widths that its layers have now."""
    widths = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            widths[name] = module.out_channels
        elif isinstance(module, nn.Linear):
            widths[name] = module.out_features
        elif isinstance(module, ZeroPadShortcut):
            widths[name] = module.low
    return {**network.architecture, "widths": widths}


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a ``.safetensors`` file into a network, every tensor or none.

    Raises
    ------
    InputError
        In one line: no such file, not a readable file, or which tensors do not match.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None
    assign_weights(network, tensors, str(path))


def assign_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy tensors by name into a network; ``source`` names them in the error. See load_weights."""
    own = network.state_dict()
    missing = [k for k in own if k not in tensors and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in tensors if k not in own]
    shapes = [
        f"{k} {tuple(tensors[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in tensors and tensors[k].shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit this model: {'; '.join(problems)}")
    network.load_state_dict(dict(tensors), strict=False)
