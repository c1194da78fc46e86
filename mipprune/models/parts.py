"""Parts that the convolutional networks share: removable residual blocks, shortcuts, beginnings.

A width of 0 for an inner convolution of a residual block says that the block's branch has been
removed: of the block only the shortcut is left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError

Widths = Mapping[str, int]


class ResidualBlock(nn.Module):
    """A residual branch beside a shortcut; the branch's modules exist unless a width is 0.

    Parameters
    ----------
    widths : mapping
        Output channels of the branch's convolutions, by their names within the block. Also those
        of a removed branch are remembered: the last one is the block's own width.
    branch : tuple of str
        Names of the children that make up the branch, in their order.

    Attributes
    ----------
    branch : tuple of str
        The same names, none once the branch has been removed or where it cannot be.
    """

    def __init__(self, widths: Widths, branch: tuple[str, ...]) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.branch = branch if all(self.widths.values()) else ()

    def bypass(self, x: torch.Tensor) -> torch.Tensor:
        """What the block adds to its branch, for an input of the block."""
        raise NotImplementedError


class ZeroPadShortcut(nn.Module):
    """Shortcut "A": subsample by 2 and pad the channels with zeros, ``low`` below, ``high`` above.

    In a full network low = high; after pruning each side has lost its own channels.
    """

    def __init__(self, inputs: int, low: int, high: int) -> None:
        super().__init__()
        if low < 0 or high < 0:
            raise InputError(f"a zero-padding shortcut cannot pad by {low} and {high} channels")
        self.inputs, self.low, self.high = inputs, low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, low + C + high, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.low, self.high))

    def extra_repr(self) -> str:
        """What its line in a printed network says."""
        return f"{self.inputs}, low={self.low}, high={self.high}"


def joined(name: str, inner: int, branch: int, shortcut: int) -> int:
    """Output width of a residual block: its shortcut's, which its branch must share if it exists.

    Raises
    ------
    InputError
        If the two differ; ``name`` is the block's.
    """
    if inner and branch != shortcut:
        raise InputError(f"{name} adds {branch} channels to {shortcut}")
    return shortcut


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of the map, or divides it by the stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def initialise(model: nn.Module) -> None:
    """He initialisation of the convolutions (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
