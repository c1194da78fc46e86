"""MobileNetV2 for small images: inverted residuals with depthwise convolutions.

Sandler et al. 2018 (arXiv 1801.04381), table 2, with torchvision's names. On small images the first
convolution and the second stage have stride 1 instead of 2, as is usual on CIFAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.parts import ResidualBlock, Widths, initialise, joined

MODELS = {"mobilenet-v2": ("multiplier",)}


# Expansion t, channels c, blocks n and stride s of every stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST, _LAST = 32, 1280


class InvertedResidual(ResidualBlock):
    """1×1 expansion (unless the factor is 1), 3×3 depthwise, linear 1×1 projection.

    Parameters
    ----------
    inputs, outputs : int
    inner : int
        Channels of the expansion and the depthwise convolution.
    stride : int
    expand, shortcut : bool
        Whether there is an expansion, and an identity beside the branch.
    name : str
        For errors.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        stride: int,
        expand: bool,
        shortcut: bool,
        name: str,
    ) -> None:
        layers = ["conv.0.0", "conv.1.0", "conv.2"] if expand else ["conv.0.0", "conv.1"]
        inner_widths = dict.fromkeys(layers[:-1], inner)
        super().__init__({**inner_widths, layers[-1]: outputs}, ("conv",) if shortcut else ())
        if not shortcut and not all(self.widths.values()):
            raise InputError(f"{name} has no shortcut: its branch cannot be removed")
        if not expand and inner != inputs:
            raise InputError(f"{name} filters {inner} of {inputs} channels")
        self.shortcut = shortcut
        if all(self.widths.values()):
            self.conv = nn.Sequential(
                *([_conv_norm(inputs, inner, 1)] if expand else []),
                _conv_norm(inner, inner, 3, stride, inner),
                nn.Conv2d(inner, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`ResidualBlock.bypass`."""
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H′, W′), smaller by the stride."""
        if not self.shortcut:
            return self.conv(x)
        return x + self.conv(x) if self.branch else x


class MobileNetV2(nn.Module):
    """Seven stages of inverted residuals between two convolutions.

    Parameters
    ----------
    shape : (channels, height, width)
        Of an image.
    classes : int
    multiplier : float
        Factor of all widths, which are rounded to multiples of 8 as in the paper's code.
    widths : mapping
        Output channels by convolution name where they differ from that; a width 0 of a block's
        expansion leaves out its branch.

    Raises
    ------
    InputError
        If the widths do not fit together.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        multiplier: float = 1.0,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        widths = dict(widths or {})
        plain = _round(_FIRST * multiplier)
        channels = widths.get("features.0.0", plain)
        layers: list[nn.Module] = [_conv_norm(shape[0], channels, 3)]
        for factor, base, count, stage_stride in _STAGES:
            for index in range(count):
                name = f"features.{len(layers)}"
                expand, stride = factor > 1, stage_stride if index == 0 else 1
                projection = f"{name}.conv.{2 if expand else 1}"
                inner = widths.get(f"{name}.conv.0.0", plain * factor)
                # whether the full network adds here, not whether widths happen to be equal
                before, plain = plain, _round(base * multiplier)
                shortcut = stride == 1 and before == plain
                outputs = widths.get(projection, plain)
                if shortcut:
                    outputs = joined(name, inner, outputs, channels)
                layers.append(
                    InvertedResidual(channels, inner, outputs, stride, expand, shortcut, name)
                )
                channels = outputs
        plain = _round(_LAST * max(1.0, multiplier))
        last = widths.get(f"features.{len(layers)}.0", plain)
        layers.append(_conv_norm(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) normalised images to (N, classes) logits."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def _round(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and at least 90 % of the number itself."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def build(name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """A network by its name: see :func:`mipprune.models.registry.build`."""
    return MobileNetV2(shape, classes, **options)
