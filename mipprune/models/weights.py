"""Weights of a network: from files of tensors, or from a mapping, every tensor or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
