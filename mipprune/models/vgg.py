"""VGG-16 and VGG-19 with BatchNorm for small images.

Simonyan & Zisserman 2015, configurations D and E, with one linear classifier behind a global
average, as is usual on CIFAR; torchvision's names of the convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import Widths, initialise

MODELS = {"vgg16": ("width",), "vgg19": ("width",)}


# Convolutions of each of the five stages and their width in units of the first stage's.
_STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FACTORS = (1, 2, 4, 8, 8)


class VGG(nn.Module):
    """Five stages of 3×3 convolutions, each followed by a 2×2 max pooling.

    Parameters
    ----------
    depth : {16, 19}
    shape : (channels, height, width)
        Of an image. Poolings round up, so that one pixel stays one on images below 32×32.
    classes : int
    width : int
        Channels of the first stage.
    widths : mapping
        Output channels by convolution name where they differ from that.
    """

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        width: int = 64,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        if depth not in _STAGES:
            raise InputError(f"a VGG has depth 16 or 19: not {depth}")
        widths = dict(widths or {})
        channels = shape[0]
        layers: list[nn.Module] = []
        for count, factor in zip(_STAGES[depth], _FACTORS, strict=True):
            for _ in range(count):
                outputs = widths.get(f"features.{len(layers)}", width * factor)
                layers += [
                    nn.Conv2d(channels, outputs, 3, padding=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
                channels = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    return VGG(int(name.removeprefix("vgg")), shape, classes, **options)
