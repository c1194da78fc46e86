"""The state of a training beside the network, as tensors and JSON.

Optimizer, method, masks, averaged weights and random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mipprune.structure.links import Masks
from mipprune.training.loop import Subject


def pack(
    subject: Subject, method: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Take the state out of what is trained.

    Parameters
    ----------
    subject : Subject
    method : mapping
        The method's :meth:`~mipprune.methods.base.Method.state_dict`, empty without one.

    Returns
    -------
    tensors : dict
        By ``part/…/name``.
    plain : dict
        The plain values.
    """
    names: dict[torch.Tensor, str] = {
        parameter: name for name, parameter in subject.network.named_parameters()
    }
    tensors = {
        f"optimizer/{key}/{names[parameter]}": value
        for parameter, entries in subject.optimizer.state.items()
        for key, value in entries.items()
        if torch.is_tensor(value)
    }
    tensors |= {f"method/{key}": v for key, v in method.items() if torch.is_tensor(v)}
    if subject.masks:
        tensors |= {f"mask/{name}": mask for name, mask in subject.masks.keep.items()}
    if subject.average:
        tensors |= {f"average/{n}": t for n, t in subject.average.state_dict().items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    settings = subject.optimizer.param_groups[0]
    return tensors, {
        # flags such as fused are the device's, which may be another one when the run goes on
        "optimizer": {k: v for k, v in settings.items() if type(v) in (int, float)},
        "method": {key: v for key, v in method.items() if not torch.is_tensor(v)},
    }


def unpack(
    subject: Subject, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Put all of :func:`pack` but the method's state into a subject; the method's state.

    Parameters
    ----------
    subject : Subject
        Like the one that was packed: with an average if that had one.
    tensors, plain : mappings
        What :func:`pack` returned.
    """
    parameters = dict(subject.network.named_parameters())
    method: dict[str, Any] = dict(plain["method"])
    keep: dict[str, torch.Tensor] = {}
    average: dict[str, torch.Tensor] = {}
    for path, tensor in tensors.items():
        part, _, rest = path.partition("/")
        if part == "optimizer":
            key, _, name = rest.partition("/")
            subject.optimizer.state[parameters[name]][key] = tensor
        elif part == "method":
            method[rest] = tensor
        elif part == "average":
            average[rest] = tensor
        elif part == "mask":
            keep[rest] = tensor
    lay_out(subject.optimizer)
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    for group in subject.optimizer.param_groups:
        group.update(plain["optimizer"])
    if keep:
        subject.masks = Masks(subject.network, keep)
    if average and subject.average:
        subject.average.load_state_dict(average)
    return method


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Bring the optimizer's tensors to the device and the memory format of their weights.

    A fused optimizer refuses others.
    """
    for weight, entries in optimizer.state.items():
        for key, value in entries.items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                entries[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
