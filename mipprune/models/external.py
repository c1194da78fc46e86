"""Models of torchvision and timm by name, ``torchvision:resnet50`` or ``timm:resnet18``.

The package builds the full network. A pruned one is rebuilt from plain data alone: the full
network, its convolutions, linear layers and BatchNorms resized to the recorded shapes of their
tensors. A channel counts as removed when it is zero, so activations must map zero to zero (ReLU,
SiLU, GELU and their kin do). Auxiliary classifiers, which torchvision's GoogLeNet and Inception v3
have in training alone, are left out: no channel of a pruned network is there for their sake.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from formulations.errors import InputError
from mipprune.models.weights import load_state

# no name of its own; a pattern of names, and their options
FURTHER = (r"(torchvision|timm):.+", ("pretrained",))
PACKAGES = ("torchvision", "timm")
# a pruned network is rebuilt from the shapes of all its tensors
SIZES = "shapes"
_AUXILIARY = ("aux1", "aux2", "AuxLogits")  # torchvision's names

Shapes = Mapping[str, Sequence[int]]


def build(
    name: str,
    shape: Sequence[int],
    classes: int,
    pretrained: bool = False,
) -> nn.Module:
    """A network of another package.

    Parameters
    ----------
    name : str
        ``package:model``.
    shape : (channels, height, width)
        Of an image.
    classes : int
    pretrained : bool
        Begin with the package's default weights; a classifier of another size begins anew.

    Raises
    ------
    InputError
        If the package cannot be imported, does not know the model or cannot build it so.
    """
    package, _, model = name.partition(":")
    if package == "torchvision" and shape[0] != 3:
        raise InputError(
            f"torchvision's models take images of 3 channels: not of {shape[0]}, as timm's do"
        )
    network = _create(package, model, shape, num_classes=classes)
    if pretrained:
        own = network.state_dict()
        tensors = _create(package, model, shape, pretrained=True).state_dict()
        fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
        load_state(network, fitting, strict=False)
    return network


def finish(network: nn.Module, shapes: Shapes | None) -> None:
    """Leave auxiliary classifiers out as torchvision itself does, unless they have been recorded.

    Parameters
    ----------
    network : nn.Module
        As it was built, of full size.
    shapes : mapping or None
        Of the tensors that have been recorded.
    """
    if getattr(network, "aux_logits", None) is not True:
        return
    heads = [name for name in _AUXILIARY if isinstance(getattr(network, name, None), nn.Module)]
    if not any(key.partition(".")[0] in heads for key in shapes or ()):
        network.aux_logits = False  # type: ignore[assignment]
        for name in heads:
            setattr(network, name, None)


def resize(network: nn.Module, shapes: Shapes, source: str) -> None:
    """Give the layers of a network tensors of other shapes, zero, in place.

    Parameters
    ----------
    network : nn.Module
    shapes : mapping
        Of every tensor of the state dictionary.
    source : str
        Of the shapes, for errors.

    Raises
    ------
    InputError
        If the tensors' names differ, or a layer has to change that is no convolution (dense or
        depthwise), linear layer or BatchNorm.
    """
    own = network.state_dict()
    if set(own) != set(shapes):
        wrong = min(set(own) ^ set(shapes))
        raise InputError(f"the recorded shapes are not those of {source}: see {wrong}")
    changed = [name for name, tensor in own.items() if list(tensor.shape) != list(shapes[name])]
    for name in changed:
        module_name, _, key = name.rpartition(".")
        module, shape = network.get_submodule(module_name), tuple(shapes[name])
        old = getattr(module, key)
        if old.dim() != len(shape) or not _adapt(module, key, shape):
            raise InputError(f"{name} of {source} cannot have the shape {shape}")
        tensor = old.detach().new_zeros(shape)
        setattr(module, key, nn.Parameter(tensor) if isinstance(old, nn.Parameter) else tensor)


def _adapt(module: nn.Module, key: str, shape: tuple[int, ...]) -> bool:
    """Set the sizes that a layer of known kind keeps beside its tensor; whether it is one."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        module.num_features = shape[0]
    elif isinstance(module, nn.Linear) and key == "weight":
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Conv2d) and key == "weight":
        depthwise = module.groups > 1
        if depthwise:
            module.groups = shape[0]
        module.out_channels, module.in_channels = shape[0], shape[0] if depthwise else shape[1]
    else:
        return isinstance(module, (nn.Conv2d, nn.Linear))
    return True


def _create(
    package: str, model: str, shape: Sequence[int], *, pretrained: bool = False, **options: Any
) -> nn.Module:
    try:
        if package == "torchvision":
            models = importlib.import_module("torchvision.models")
            weights = "DEFAULT" if pretrained else None
            create = partial(models.get_model, model, weights=weights)
        else:
            models = importlib.import_module("timm")
            create = partial(models.create_model, model, pretrained=pretrained, in_chans=shape[0])
    except Exception as error:  # a package for another torch fails in ways of its own
        raise InputError(
            f"{package}:{model} needs {package}, which cannot be imported: {_line(error)}"
        ) from None
    try:
        return create(**options)
    except Exception as error:  # as the package likes, down to a download that fails
        raise InputError(f"{package} gives no model {model!r}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
