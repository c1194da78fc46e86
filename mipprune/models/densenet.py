"""Densely connected networks for small images, plain or with bottlenecks and compression (BC).

Huang et al. 2017 (arXiv 1608.06993), section 3: every layer's few new channels are concatenated to
all those before. Three dense blocks with transitions between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import Widths, conv, initialise

MODELS = {
    "densenet40": ("growth",),
    "densenet40-bc": ("growth",),
    "densenet100-bc": ("growth",),
}


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 3×3 convolution; with an inner width, behind a 1×1 one of the same form."""

    def __init__(self, inputs: int, inner: int | None, outputs: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        if inner is None:
            self.conv1 = conv(inputs, outputs, 3)
        else:
            self.conv1, self.bn2 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
            self.conv2 = conv(inner, outputs, 3)
        self.bottleneck = inner is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        new = self.conv1(F.relu(self.bn1(x)))
        if self.bottleneck:
            new = self.conv2(F.relu(self.bn2(new)))
        return torch.cat([x, new], dim=1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1×1 convolution and an average pooling that rounds up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2, ceil_mode=True)


class DenseNet(nn.Module):
    """Three dense blocks.

    Parameters
    ----------
    depth : int
        3n + 4, with bottlenecks 6n + 4.
    compact : bool
        BC: layers with a 1×1 convolution of 4k channels before, transitions that halve the
        channels and a first convolution of 2k channels. Otherwise the plain form: 16 first channels
        and transitions that keep them all.
    shape : (channels, height, width)
        Of an image. Poolings round up, so that one pixel stays one.
    classes : int
    growth : int
        k, channels that a layer adds.
    widths : mapping
        Output channels by convolution name where they differ from that.

    Raises
    ------
    InputError
        If the depth does not fit three equal blocks.
    """

    dense1: nn.Module
    transition1: nn.Module
    dense2: nn.Module
    transition2: nn.Module
    dense3: nn.Module

    def __init__(
        self,
        depth: int,
        compact: bool,
        shape: Sequence[int],
        classes: int,
        growth: int = 12,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        per_layer = 2 if compact else 1
        if depth < 4 + 3 * per_layer or (depth - 4) % (3 * per_layer):
            raise InputError(f"a DenseNet has depth {3 * per_layer}n + 4: not {depth}")
        widths = dict(widths or {})
        plain = 2 * growth if compact else 16
        channels = widths.get("conv1", plain)
        self.conv1 = conv(shape[0], channels, 3)
        for block in (1, 2, 3):
            layers = []
            for index in range((depth - 4) // (3 * per_layer)):
                name = f"dense{block}.{index}"
                inner = widths.get(f"{name}.conv1", 4 * growth) if compact else None
                new = widths.get(f"{name}.conv{per_layer}", growth)
                layers.append(DenseLayer(channels, inner, new))
                channels, plain = channels + new, plain + growth
            setattr(self, f"dense{block}", nn.Sequential(*layers))
            if block < 3:
                plain = plain // 2 if compact else plain
                outputs = widths.get(f"transition{block}.conv", plain)
                setattr(self, f"transition{block}", Transition(channels, outputs))
                channels = outputs
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = self.transition1(self.dense1(self.conv1(x)))
        x = self.dense3(self.transition2(self.dense2(x)))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    depth, _, form = name.removeprefix("densenet").partition("-")
    return DenseNet(int(depth), form == "bc", shape, classes, **options)
