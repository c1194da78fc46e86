"""Models by name, built from an architecture: plain data that a checkpoint stores as JSON.

An architecture is a dictionary with ``name``, ``shape`` (channels, height, width), ``classes``, the
model's own options and ``widths``, the output channels of every layer by name. :func:`describe`
reads the widths off a network, so a pruned network is rebuilt by ``build(describe(network))``.
Networks of other packages (:mod:`mipprune.models.external`) have ``shapes`` instead of widths,
those of all their tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from formulations.errors import InputError
from mipprune.models.densenet import DenseNet
from mipprune.models.external import PACKAGES, build_foreign
from mipprune.models.lenet import LeNet5
from mipprune.models.mlp import MLP
from mipprune.models.mobilenet import MobileNetV2
from mipprune.models.parts import ResidualBlock, ZeroPadShortcut
from mipprune.models.resnet import CifarResNet, ImageNetResNet
from mipprune.models.vgg import VGG
from mipprune.models.wide_resnet import WideResNet

Architecture = dict[str, Any]

_IMAGENET_DEPTHS = (18, 34, 50)
IMAGENET = tuple(f"resnet{depth}" for depth in _IMAGENET_DEPTHS)
_BUILDERS = {
    **{f"resnet{d}": (partial(CifarResNet, d), ("shortcut", "width")) for d in (8, 14, 20, 32, 44)},
    **{f"resnet{d}": (partial(CifarResNet, d), ("shortcut", "width")) for d in (56, 110)},
    **{f"resnet{d}": (partial(ImageNetResNet, d), ("width",)) for d in _IMAGENET_DEPTHS},
    **{f"vgg{depth}": (partial(VGG, depth), ("width",)) for depth in (16, 19)},
    "densenet40": (partial(DenseNet, 40, False), ("growth",)),
    **{f"densenet{d}-bc": (partial(DenseNet, d, True), ("growth",)) for d in (40, 100)},
    "mobilenet-v2": (MobileNetV2, ("multiplier",)),
    "lenet-5": (LeNet5, ()),
    "lenet-300-100": (partial(MLP, hidden=(300, 100)), ()),
    "mlp": (MLP, ("hidden",)),
}
_WIDE = re.compile(r"wrn-(\d{1,4})-(\d{1,3})")
NAMES = (*_BUILDERS, "wrn-16-4", "wrn-28-10", "wrn-40-2")


def _find(name: str | None) -> tuple[Callable[..., nn.Module], tuple[str, ...]]:
    """What builds a model, and the names of its options."""
    if name in _BUILDERS:
        return _BUILDERS[name]
    wide = _WIDE.fullmatch(str(name))
    if wide:
        return partial(WideResNet, *map(int, wide.groups())), ("width",)
    if str(name).partition(":")[0] in PACKAGES and ":" in name:
        return partial(build_foreign, name), ("pretrained",)
    foreign = ", ".join(f"{package}:NAME" for package in PACKAGES)
    raise InputError(f"unknown model {name!r}: one of {', '.join(NAMES)}, {foreign}")


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a model takes beside shape, classes and widths."""
    return _find(name)[1]


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights; ``network.architecture`` remembers the dictionary.

    Raises
    ------
    InputError
        Unknown name or option, widths that do not fit together.
    """
    given = dict(architecture)
    name = given.pop("name", None)
    builder, options = _find(name)
    sizes = "shapes" if ":" in name else "widths"
    unknown = set(given) - {"shape", "classes", sizes, *options}
    if unknown:
        wrong, right = ", ".join(sorted(unknown)), ", ".join(options)
        raise InputError(f"model {name} has no option {wrong}: it takes {right or 'none'}")
    network = builder(**given)
    network.architecture = {"name": name, **given}
    return network


def describe(network: nn.Module) -> Architecture:
    """The network's architecture with the widths that its layers have now.

    A removed residual branch has width 0 for its inner convolutions and the block's own, which
    follows from the shortcut, for the last one. Whether weights were pretrained is left out: that
    is how a network began.
    """
    architecture = {k: v for k, v in network.architecture.items() if k != "pretrained"}
    if ":" in architecture["name"]:
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        return {**architecture, "shapes": shapes}
    widths = {}
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            widths.update({f"{name}.{layer}": width for layer, width in module.widths.items()})
        elif isinstance(module, nn.Conv2d):
            widths[name] = module.out_channels
        elif isinstance(module, nn.Linear):
            widths[name] = module.out_features
        elif isinstance(module, ZeroPadShortcut):
            widths[name], widths[f"{name}.high"] = module.low, module.high
    return {**architecture, "widths": widths}


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a network, every tensor or none.

    Parameters
    ----------
    network : nn.Module
    path : str or Path
        ``.safetensors``, or a state dictionary as torch.save writes it (``.pth``, ``.pt``), such as
        torchvision's; of the latter nothing but tensors and plain values is unpickled.

    Raises
    ------
    InputError
        In one line: no such file, not a readable file, or which tensors do not match.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    read = _read_pickled if path.suffix in (".pth", ".pt") else _read_safetensors
    assign_weights(network, read(path), str(path))


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None


def _read_pickled(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, all meaning: not weights
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable file of weights alone: {reason}") from None
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise InputError(f"{path} holds no state dictionary: save network.state_dict() alone")
    return found


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
