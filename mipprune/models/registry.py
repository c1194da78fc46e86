"""Networks from an architecture: plain data that a checkpoint stores as JSON.

An architecture is a dictionary with ``name``, ``shape`` (channels, height, width), ``classes``, the
model's own options and ``widths``, the output channels of every layer by name. :func:`describe`
reads the widths off a network, so a pruned network is rebuilt by ``build(describe(network))``.
Networks of other packages (:mod:`mipprune.models.external`, and those that packages add) have
``shapes`` instead of widths, those of all their tensors, and so have those of a user's own file
and of transformers (:mod:`mipprune.models.references`), which say besides what they were made from.
Which models there are: :mod:`mipprune.models.catalogue`.
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


def build(architecture: Mapping[str, Any] | str, **options: Any) -> nn.Module:
    """Build a network with fresh weights; it remembers the dictionary: :func:`architecture_of`.

    Parameters
    ----------
    architecture : mapping or str
        ``name``, ``shape``, ``classes`` and the model's options; or the name alone, which may be
        ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:FUNCTION`` or ``hf:FOLDER``.
    **options
        Besides: ``build("timm:resnet18", shape=(3, 32, 32), classes=10)``.

    Raises
    ------
    InputError
        Unknown name or option, widths that do not fit together.
    """
    first = {"name": architecture} if isinstance(architecture, str) else architecture
    given = {**first, **options}
    name = given.pop("name", None)
    model = find(name)
    for key in ("shape", "classes"):
        if key not in given:
            raise InputError(f"model {name} is built for a {key}: give {key}=")
    if model.options is not None:
        recorded = {"config"} if model.complete else set()
        unknown = set(given) - {"shape", "classes", model.sizes, *model.options, *recorded}
        if unknown:
            wrong, right = ", ".join(sorted(unknown)), ", ".join(model.options)
            raise InputError(f"model {name} has no option {wrong}: it takes {right or 'none'}")
    if model.sizes == "widths":
        network = model.build(name, **given)
        vars(network)["architecture"] = {"name": name, **given}
        return network
    sizes = {key: given.pop(key) for key in (model.sizes,) if key in given}
    network = model.build(name, **given)
    own = vars(network)["architecture"] if model.complete else {"name": name, **given}
    if model.finish:
        model.finish(network, sizes.get("shapes"))
    if "shapes" in sizes:
        resize(network, sizes["shapes"], own["name"])
    vars(network)["architecture"] = {**own, **sizes}
    return network


def architecture_of(network: nn.Module) -> Architecture:
    """What a network was built from.

    Raises
    ------
    InputError
        If it was not built by :func:`build`.
    """
    if "architecture" not in vars(network):
        raise InputError(
            f"a {type(network).__name__} given as a variable cannot be written as a checkpoint, "
            "which names what a network is rebuilt from: put it into a function of a file and pass "
            "model=FILE.py:FUNCTION, or build it by mipprune.build('FILE.py:FUNCTION', …)"
        )
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
