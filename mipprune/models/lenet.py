"""LeNet-5 in Caffe's form, as the pruning literature uses it (LeCun et al. 1998; Han et al. 2015).

Its sister LeNet-300-100 is a :class:`mipprune.models.mlp.MLP`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import Widths

MODELS = {"lenet-5": ()}


# Below this side, 5×5 convolutions without padding leave less than a pixel for the poolings.
_UNPADDED = 16


class LeNet5(nn.Module):
    """Two 5×5 convolutions of 20 and 50 channels with max pooling, a hidden layer of 500 units.

    Parameters
    ----------
    shape : (channels, height, width)
        Of an image, at least 4×4. The convolutions are without padding (28×28: 431 080 parameters),
        on images with a side below 16 with a padding that keeps the map's size.
    classes : int
    widths : mapping
        Outputs by layer name (``conv1``, ``conv2``, ``fc1``) where they differ from that.
    """

    def __init__(self, shape: Sequence[int], classes: int, widths: Widths | None = None) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < 4:
            raise InputError(f"lenet-5 takes images of at least 4×4: not {sides[0]}×{sides[1]}")
        padding = 0 if min(sides) >= _UNPADDED else 2
        widths = {"conv1": 20, "conv2": 50, "fc1": 500, **(widths or {})}
        self.conv1 = nn.Conv2d(channels, widths["conv1"], 5, padding=padding)
        self.conv2 = nn.Conv2d(widths["conv1"], widths["conv2"], 5, padding=padding)
        for _ in range(2):
            sides = [(side + 2 * padding - 4) // 2 for side in sides]
        self.fc1 = nn.Linear(widths["conv2"] * sides[0] * sides[1], widths["fc1"])
        self.fc2 = nn.Linear(widths["fc1"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images to (N, classes) logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    return LeNet5(shape, classes, **options)
