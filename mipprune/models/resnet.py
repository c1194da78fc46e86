"""Residual networks: the CIFAR form (depth 6n+2) and the ImageNet form (18, 34, 50).

He et al. 2016, sections 4.1 and 4.2. Every convolution's width can be given by name, which is how a
pruned network is rebuilt; a width 0 inside a block leaves out its residual branch. Parameter names
are those of the published weights: of github.com/akamaster/pytorch_resnet_cifar10 for CIFAR, of
torchvision for ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock, Widths, ZeroPadShortcut, conv, initialise, joined

MODELS = {
    "resnet8": ("shortcut", "width"),
    "resnet14": ("shortcut", "width"),
    "resnet20": ("shortcut", "width"),
    "resnet32": ("shortcut", "width"),
    "resnet44": ("shortcut", "width"),
    "resnet56": ("shortcut", "width"),
    "resnet110": ("shortcut", "width"),
    "resnet18": ("width",),
    "resnet34": ("width",),
    "resnet50": ("width",),
}
IMAGENET = ("resnet18", "resnet34", "resnet50")


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__({"conv1": inner, "conv2": outputs}, ("conv1", "bn1", "conv2", "bn2"))
        if self.branch:
            self.conv1, self.bn1 = conv(inputs, inner, 3, stride), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = conv(inner, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        shortcut = self.bypass(x)
        if not self.branch:
            return F.relu(shortcut)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarBlock(BasicBlock):
    """Basic block whose shortcut is the identity, a zero padding (A) or a projection (B)."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, shortcut: nn.Module
    ) -> None:
        super().__init__(inputs, inner, outputs, stride)
        self.shortcut = shortcut

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`ResidualBlock.bypass`."""
        return self.shortcut(x)


class CifarResNet(nn.Module):
    """ResNet for small images: three stages of (depth − 2)/6 basic blocks.

    Parameters
    ----------
    depth : int
        6n + 2.
    shape : (channels, height, width)
        Of an image.
    classes : int
    shortcut : {"A", "B"}
        Where a stage changes its width: zero padding, or a 1×1 convolution with BatchNorm.
    width : int
        Channels of the first stage; doubled in each further one.
    widths : mapping
        Output channels by convolution name where they differ from that; for a zero-padding
        shortcut, by its name, the channels padded below, and by ``NAME.high`` those above.

    Raises
    ------
    InputError
        If the depth is not 6n + 2, or the widths do not fit together.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        shortcut: str = "B",
        width: int = 16,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, …): not {depth}")
        if shortcut not in ("A", "B"):
            raise InputError(f"shortcut must be A (zero padding) or B (projection): not {shortcut}")
        widths = dict(widths or {})
        channels = widths.get("conv1", width)
        self.conv1, self.bn1 = conv(shape[0], channels, 3), nn.BatchNorm2d(channels)
        for stage in (1, 2, 3):
            blocks = []
            plain = width * 2 ** (stage - 1)
            for index in range((depth - 2) // 6):
                name = f"layer{stage}.{index}"
                outputs = widths.get(f"{name}.conv2", plain)
                inner = widths.get(f"{name}.conv1", plain)
                first = stage > 1 and index == 0
                path: nn.Module = nn.Identity()
                if first and shortcut == "A":
                    low = widths.get(f"{name}.shortcut", (outputs - channels) // 2)
                    high = widths.get(f"{name}.shortcut.high", outputs - channels - low)
                    path = ZeroPadShortcut(channels, low, high)
                    outputs = joined(name, inner, outputs, low + channels + high)
                elif first:
                    projected = widths.get(f"{name}.shortcut.0", outputs)
                    outputs = joined(name, inner, outputs, projected)
                    path = nn.Sequential(
                        nn.Conv2d(channels, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
                    )
                else:
                    outputs = joined(name, inner, outputs, channels)
                blocks.append(CifarBlock(channels, inner, outputs, 2 if first else 1, path))
                channels = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ImageNetBasicBlock(BasicBlock):
    """Basic block with torchvision's names."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__(inputs, inner, outputs, stride)
        self.downsample = downsample

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`ResidualBlock.bypass`."""
        return x if self.downsample is None else self.downsample(x)


class Bottleneck(ResidualBlock):
    """1×1, 3×3 (with the stride, as in torchvision), 1×1 convolutions and a shortcut."""

    def __init__(
        self,
        inputs: int,
        first: int,
        second: int,
        outputs: int,
        stride: int,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__(
            {"conv1": first, "conv2": second, "conv3": outputs},
            ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
        )
        if self.branch:
            self.conv1, self.bn1 = conv(inputs, first, 1), nn.BatchNorm2d(first)
            self.conv2, self.bn2 = conv(first, second, 3, stride), nn.BatchNorm2d(second)
            self.conv3, self.bn3 = conv(second, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`ResidualBlock.bypass`."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        shortcut = self.bypass(x)
        if not self.branch:
            return F.relu(shortcut)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + shortcut)


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ImageNetResNet(nn.Module):
    """ResNet-18, 34 or 50 with torchvision's names. Parameters as :class:`CifarResNet`."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        depth: int,
        shape: Sequence[int],
        classes: int,
        width: int = 64,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        if depth not in _IMAGENET_BLOCKS:
            raise InputError(f"an ImageNet ResNet has depth 18, 34 or 50: not {depth}")
        widths = dict(widths or {})
        channels = widths.get("conv1", width)
        self.conv1 = nn.Conv2d(shape[0], channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        expansion = 4 if depth == 50 else 1
        *convs, last = ("conv1", "conv2", "conv3") if depth == 50 else ("conv1", "conv2")
        block: Callable[..., nn.Module] = Bottleneck if depth == 50 else ImageNetBasicBlock
        for stage, count in enumerate(_IMAGENET_BLOCKS[depth], start=1):
            blocks = []
            plain = width * 2 ** (stage - 1)
            for index in range(count):
                name = f"layer{stage}.{index}"
                outputs = widths.get(f"{name}.{last}", plain * expansion)
                stride = 2 if stage > 1 and index == 0 else 1
                downsample = None
                inner = [widths.get(f"{name}.{conv}", plain) for conv in convs]
                if index == 0 and (stage > 1 or depth == 50):
                    projected = widths.get(f"{name}.downsample.0", outputs)
                    outputs = joined(name, min(inner), outputs, projected)
                    downsample = nn.Sequential(
                        nn.Conv2d(channels, outputs, 1, stride, bias=False),
                        nn.BatchNorm2d(outputs),
                    )
                else:
                    outputs = joined(name, min(inner), outputs, channels)
                blocks.append(block(channels, *inner, outputs, stride, downsample))
                channels = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    depth = int(name.removeprefix("resnet"))
    kind = ImageNetResNet if name in IMAGENET else CifarResNet
    return kind(depth, shape, classes, **options)
