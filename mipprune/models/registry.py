"""Networks from an architecture: plain data that a checkpoint stores as JSON.

An architecture is a dictionary with ``name``, ``shape`` (channels, height, width), ``classes``, the
model's own options and ``widths``, the output channels of every layer by name. :func:`describe`
reads the widths off a network, so a pruned network is rebuilt by ``build(describe(network))``.
Networks of other packages (:mod:`mipprune.models.external`, and those that packages add) have
``shapes`` instead of widths, those of all their tensors. Which models there are:
:mod:`mipprune.models.catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from formulations.errors import InputError
from mipprune.models.catalogue import find
from mipprune.models.external import resize
from mipprune.models.parts import ResidualBlock, ZeroPadShortcut

Architecture = dict[str, Any]


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights; it remembers the dictionary: :func:`architecture_of`.

    Raises
    ------
    InputError
        Unknown name or option, widths that do not fit together.
    """
    given = dict(architecture)
    name = given.pop("name", None)
    model = find(name)
    unknown = set(given) - {"shape", "classes", model.sizes, *model.options}
    if unknown:
        wrong, right = ", ".join(sorted(unknown)), ", ".join(model.options)
        raise InputError(f"model {name} has no option {wrong}: it takes {right or 'none'}")
    if model.own:
        network = model.build(name, **given)
    else:
        network = model.build(name, **{k: v for k, v in given.items() if k != model.sizes})
        if model.sizes in given:
            resize(network, given[model.sizes], name)
    vars(network)["architecture"] = {"name": name, **given}
    return network


def architecture_of(network: nn.Module) -> Architecture:
    """What a network was built from.

    Raises
    ------
    InputError
        If it was not built by :func:`build`.
    """
    if "architecture" not in vars(network):
        raise InputError(f"a {type(network).__name__} was not built from an architecture")
    return vars(network)["architecture"]


def describe(network: nn.Module) -> Architecture:
    """The network's architecture with the widths that its layers have now.

    A removed residual branch has width 0 for its inner convolutions and the block's own, which
    follows from the shortcut, for the last one. Whether weights were pretrained is left out: that
    is how a network began.
    """
    architecture = {k: v for k, v in architecture_of(network).items() if k != "pretrained"}
    if find(architecture["name"]).sizes == "shapes":
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        return {**architecture, "shapes": shapes}
    widths: dict[str, int] = {}
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
