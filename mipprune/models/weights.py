"""Weights of a network: from files of tensors, or from a mapping, every tensor or none.

A module may say the version of its tensors, and read older ones in ways of its own: torch keeps the
versions beside a state dictionary, in ``_metadata``, which a plain mapping loses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from formulations.errors import InputError


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


def assign_weights(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: str,
    versions: Mapping[str, int] | None = None,
) -> None:
    """Copy tensors by name into a network, every one or none.

    Tensors of a part that the network goes without, such as the auxiliary classifiers of
    torchvision's GoogLeNet, are left out.

    Parameters
    ----------
    network : nn.Module
    tensors : mapping
        With its ``_metadata`` if it is a state dictionary.
    source : str
        Names them in the error.
    versions : mapping, optional
        As :func:`versions_of` said them when the tensors were written.

    Raises
    ------
    InputError
        As :func:`load_weights`.
    """
    own = network.state_dict()
    without = {name for name, part in network._modules.items() if part is None}
    missing = [k for k in own if k not in tensors and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in tensors if k not in own and k.partition(".")[0] not in without]
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
    load_state(network, tensors, versions, strict=False)


def load_state(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    versions: Mapping[str, int] | None = None,
    strict: bool = True,
) -> None:
    """``network.load_state_dict``, with the modules' versions where the mapping has lost them.

    Parameters
    ----------
    network : nn.Module
    tensors : mapping
        Of a network of this kind; with its ``_metadata`` if it is a state dictionary.
    versions : mapping, optional
        As :func:`versions_of` said them; otherwise the network's own.
    strict : bool
        Whether all tensors must be there, and no others.
    """
    state: Any = OrderedDict(tensors)
    metadata = getattr(tensors, "_metadata", None)
    if metadata is None:
        metadata = {name: dict(entry) for name, entry in _metadata(network).items()}
        for name, version in (versions or {}).items():
            metadata.setdefault(name, {})["version"] = version
    state._metadata = metadata
    network.load_state_dict(state, strict=strict)


def versions_of(network: nn.Module) -> dict[str, int]:
    """Versions of a network's modules, by name: those that are not of the kind's torch class."""
    found = {}
    for name, module in network.named_modules():
        kind, version = type(module), module._version
        own: Any = next(k for k in kind.__mro__ if k.__module__.startswith("torch."))
        if isinstance(version, int) and not version == kind._version == own._version:
            found[name] = version
    return found


def _metadata(network: nn.Module) -> Mapping[str, Mapping[str, Any]]:
    return getattr(network.state_dict(), "_metadata", {})
