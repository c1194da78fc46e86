"""Residual networks: the CIFAR form (depth 6n+2) and the ImageNet form (18, 34, 50).

He et al. 2016, sections 4.1 and 4.2. Every convolution's width can be given by name, which is how a
pruned network is rebuilt. Parameter names are those of the published weights: of
github.com/akamaster/pytorch_resnet_cifar10 for CIFAR, of torchvision for ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError

Widths = Mapping[str, int]


class ZeroPadShortcut(nn.Module):
    """Shortcut "A": subsample by 2 and pad the channels with zeros, ``low`` below, ``high`` above.

    In a full network low = high; after pruning each side has lost its own channels.
    """

    def __init__(self, low: int, high: int):
        super().__init__()
        if low < 0 or high < 0:
            raise InputError(f"a zero-padding shortcut cannot pad by {low} and {high} channels")
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, low + C + high, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.low, self.high))

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, outputs, 3), nn.BatchNorm2d(outputs)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class CifarBlock(BasicBlock):
    """Basic block whose shortcut is the identity, a zero padding (A) or a projection (B)."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, shortcut: nn.Module):
        super().__init__(inputs, inner, outputs, stride)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


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
        shortcut, by its name, the channels padded below.

    Raises
    ------
    InputError
        If the depth is not 6n + 2, or the widths do not fit together.
    """

    def __init__(self, depth, shape, classes, shortcut="B", width=16, widths: Widths | None = None):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, …): not {depth}")
        if shortcut not in ("A", "B"):
            raise InputError(f"shortcut must be A (zero padding) or B (projection): not {shortcut}")
        widths = dict(widths or {})
        channels = widths.get("conv1", width)
        self.conv1, self.bn1 = _conv(shape[0], channels, 3), nn.BatchNorm2d(channels)
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
                    path = ZeroPadShortcut(low, outputs - channels - low)
                elif first:
                    path = nn.Sequential(
                        nn.Conv2d(channels, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
                    )
                elif outputs != channels:
                    raise InputError(f"{name} adds {outputs} channels to {channels}")
                blocks.append(CifarBlock(channels, inner, outputs, 2 if first else 1, path))
                channels = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ImageNetBasicBlock(BasicBlock):
    """Basic block with torchvision's names."""

    def __init__(self, inputs, inner, outputs, stride, downsample: nn.Module | None):
        super().__init__(inputs, inner, outputs, stride)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.residual(x) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride, as in torchvision), 1×1 convolutions and a shortcut."""

    def __init__(self, inputs, inner: tuple[int, int], outputs, stride, downsample):
        super().__init__()
        first, second = inner
        self.conv1, self.bn1 = _conv(inputs, first, 1), nn.BatchNorm2d(first)
        self.conv2, self.bn2 = _conv(first, second, 3, stride), nn.BatchNorm2d(second)
        self.conv3, self.bn3 = _conv(second, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ImageNetResNet(nn.Module):
    """ResNet-18, 34 or 50 with torchvision's names. Parameters as :class:`CifarResNet`."""

    def __init__(self, depth, shape, classes, width=64, widths: Widths | None = None):
        super().__init__()
        if depth not in _IMAGENET_BLOCKS:
            raise InputError(f"an ImageNet ResNet has depth 18, 34 or 50: not {depth}")
        widths = dict(widths or {})
        channels = widths.get("conv1", width)
        self.conv1 = nn.Conv2d(shape[0], channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        expansion = 4 if depth == 50 else 1
        last = "conv3" if depth == 50 else "conv2"
        for stage, count in enumerate(_IMAGENET_BLOCKS[depth], start=1):
            blocks = []
            plain = width * 2 ** (stage - 1)
            for index in range(count):
                name = f"layer{stage}.{index}"
                outputs = widths.get(f"{name}.{last}", plain * expansion)
                stride = 2 if stage > 1 and index == 0 else 1
                downsample = None
                if index == 0 and (stage > 1 or depth == 50):
                    downsample = nn.Sequential(
                        nn.Conv2d(channels, outputs, 1, stride, bias=False),
                        nn.BatchNorm2d(outputs),
                    )
                elif outputs != channels:
                    raise InputError(f"{name} adds {outputs} channels to {channels}")
                inner = widths.get(f"{name}.conv1", plain)
                if depth == 50:
                    pair = (inner, widths.get(f"{name}.conv2", plain))
                    blocks.append(Bottleneck(channels, pair, outputs, stride, downsample))
                else:
                    blocks.append(ImageNetBasicBlock(channels, inner, outputs, stride, downsample))
                channels = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _initialise(model: nn.Module) -> None:
    """He initialisation of the convolutions (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
