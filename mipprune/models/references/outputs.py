"""What networks put out: logits alone, or an object that has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from formulations.errors import InputError

# Weights of auxiliary classifiers in the training loss: GoogLeNet has two (Szegedy et al. 2014,
# arXiv 1409.4842, section 5), Inception v3 one; torchvision's names of them.
_ONE, _SEVERAL = 0.4, 0.3
_AUXILIARY = ("aux_logits", "aux_logits1", "aux_logits2")


def logits_of(output: Any) -> torch.Tensor:
    """The logits in what a network puts out.

    Parameters
    ----------
    output : Tensor, object, mapping or tuple
        The logits themselves; something with ``logits``, such as transformers' outputs or
        torchvision's of GoogLeNet in training; a tuple that begins with them.

    Raises
    ------
    InputError
        If there are none.
    """
    if torch.is_tensor(output):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else None
    found = getattr(output, "logits", None) if found is None else found
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if torch.is_tensor(found):
        return found
    raise InputError(
        f"the network puts out a {type(output).__name__}: a tensor of logits is needed, or "
        "something whose `logits` they are"
    )


def auxiliary_of(output: Any) -> list[tuple[float, torch.Tensor]]:
    """The logits of auxiliary classifiers, which some networks have in training, and their weights.

    Parameters
    ----------
    output
        As :func:`logits_of` takes it.

    Returns
    -------
    list of (weight, Tensor)
        0.4 of one classifier as in Inception v3, 0.3 of each of several as in GoogLeNet.
    """
    found = (getattr(output, name, None) for name in _AUXILIARY)
    heads = [head for head in found if isinstance(head, torch.Tensor)]
    return [(_ONE if len(heads) == 1 else _SEVERAL, head) for head in heads]


def only_logits(network: nn.Module) -> nn.Module:
    """A network whose output is a tensor: itself, or one around it.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, with an architecture, on the CPU.
    """
    architecture = vars(network)["architecture"]
    with torch.no_grad():
        output = network(torch.zeros(1, *architecture["shape"]))
    if torch.is_tensor(output):
        return network
    around = _OnlyLogits(network).eval()
    vars(around)["architecture"] = architecture
    return around


class _OnlyLogits(nn.Module):
    """A network without what it puts out beside logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, …) inputs to (N, classes) logits."""
        return logits_of(self.network(images))
