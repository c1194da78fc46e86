"""A multilayer perceptron with ReLU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

MODELS = {"mlp": ("hidden",), "lenet-300-100": ()}


class MLP(nn.Module):
    """Flatten, then linear layers with ReLU between them.

    Parameters
    ----------
    shape : (channels, height, width)
        Of an image.
    classes : int
    hidden : sequence of int
        Units of the hidden layers.
    widths : mapping
        Units by layer name (``layers.0``, …) where they differ from ``hidden``.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        hidden: Sequence[int] = (256, 128),
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        widths = dict(widths or {})
        sizes = [math.prod(shape)]
        sizes += [widths.get(f"layers.{i}", units) for i, units in enumerate(hidden)]
        sizes += [classes]
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images to (N, classes) logits."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    if name == "lenet-300-100":
        return MLP(shape, classes, (300, 100), **options)
    return MLP(shape, classes, **options)
