"""Wide residual networks for small images, with pre-activation.

Zagoruyko & Komodakis 2016 (arXiv 1605.07146), table 1: WRN-d-k has depth d = 6n + 4 and three
stages of n blocks, k times as wide as those of a ResNet (16, 32, 64).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock, Widths, conv, initialise, joined

MODELS = {"wrn-16-4": ("width",), "wrn-28-10": ("width",), "wrn-40-2": ("width",)}
# a pattern of further names, and their options
FURTHER = (r"wrn-\d{1,4}-\d{1,3}", ("width",))


class PreActivationBlock(ResidualBlock):
    """BatchNorm and ReLU before each of two 3×3 convolutions (He et al. 2016b).

    A projection, where there is one, starts behind the first ReLU as the branch does: bn1 is then
    no part of the branch.
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, projection: bool
    ) -> None:
        branch = ("conv1", "bn2", "conv2")
        super().__init__(
            {"conv1": inner, "conv2": outputs}, branch if projection else ("bn1", *branch)
        )
        if projection or self.branch:
            self.bn1 = nn.BatchNorm2d(inputs)
        if self.branch:
            self.conv1, self.bn2 = conv(inputs, inner, 3, stride), nn.BatchNorm2d(inner)
            self.conv2 = conv(inner, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if projection else None

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`ResidualBlock.bypass`."""
        return x if self.shortcut is None else self.shortcut(F.relu(self.bn1(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        if self.shortcut is None:
            return x + self._residual(F.relu(self.bn1(x))) if self.branch else x
        x = F.relu(self.bn1(x))
        return self.shortcut(x) + self._residual(x) if self.branch else self.shortcut(x)

    def _residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.bn2(self.conv1(x))))


class WideResNet(nn.Module):
    """Three stages of (depth − 4)/6 pre-activation blocks.

    Parameters
    ----------
    depth : int
        6n + 4.
    factor : int
        k: how many times wider the stages are than 16, 32, 64.
    shape : (channels, height, width)
        Of an image.
    classes : int
    width : int
        Channels of the first convolution; the stages have 1, 2 and 4 times k as many.
    widths : mapping
        Output channels by convolution name where they differ from that; a width 0 of a block's
        conv1 leaves out its branch.

    Raises
    ------
    InputError
        If the depth is not 6n + 4, or the widths do not fit together.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int,
        factor: int,
        shape: Sequence[int],
        classes: int,
        width: int = 16,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or factor < 1:
            raise InputError(
                f"a Wide ResNet is wrn-DEPTH-FACTOR with depth 6n + 4 (10, 16, 22, …) "
                f"and a factor from 1: not wrn-{depth}-{factor}"
            )
        widths = dict(widths or {})
        channels = widths.get("conv1", width)
        self.conv1 = conv(shape[0], channels, 3)
        for stage in (1, 2, 3):
            blocks = []
            plain = width * factor * 2 ** (stage - 1)
            for index in range((depth - 4) // 6):
                name = f"layer{stage}.{index}"
                inner = widths.get(f"{name}.conv1", plain)
                outputs = widths.get(f"{name}.conv2", plain)
                projection = index == 0 and (stage > 1 or factor > 1)
                shortcut = widths.get(f"{name}.shortcut", outputs) if projection else channels
                outputs = joined(name, inner, outputs, shortcut)
                stride = 2 if index == 0 and stage > 1 else 1
                blocks.append(PreActivationBlock(channels, inner, outputs, stride, projection))
                channels = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    depth, factor = map(int, name.split("-")[1:])
    return WideResNet(depth, factor, shape, classes, **options)
