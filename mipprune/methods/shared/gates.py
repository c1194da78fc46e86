"""Bernoulli gates on the channels and residual blocks of a network, and its expected cost."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups, module_of


class Gates:
    """Multiplies channels and residual branches of a network by gates, a set for every image.

    A channel's gate acts where the next layers read it, behind the ReLU, whose gradient at 0 would
    say nothing of a closed gate; a block's gate acts at the end of its residual branch.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
    units, blocks : bool
        Whether channels and blocks have gates.

    Attributes
    ----------
    units : int
        Gates of channels, (groups,) or none; those of the blocks follow.
    theta : (gates,) Tensor
        Their probabilities, 1 at first; what a pass in evaluation mode multiplies by.
    values : (images, gates) Tensor
        What the images of the next step are multiplied by; its gradient is ∂L/∂ξ.
    """

    def __init__(self, network: nn.Module, groups: Groups, units: bool, blocks: bool) -> None:
        device = next(network.parameters()).device
        branches = list(groups.branches.values()) if blocks else []
        self.units = groups.count if units else 0
        self.theta = torch.ones(self.units + len(branches), device=device)
        self.values = self.theta[None]
        self._hooks: list[RemovableHandle] = []
        if units:
            for member in groups.members:
                if member.role == "consumer":
                    index = np.where(member.group < 0, len(self.theta), member.group)
                    reader = network.get_submodule(module_of(member.tensor))
                    self._hooks.append(self._gate_input(reader, torch.from_numpy(index).to(device)))
        for number, branch in enumerate(branches, self.units):
            end = network.get_submodule(branch[-1])
            self._hooks.append(self._gate_output(end, torch.tensor([number], device=device)))

    def _gate_input(self, module: nn.Module, index: torch.Tensor) -> RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            return (inputs[0] * self._factor(module, inputs[0], index),)

        return module.register_forward_pre_hook(hook)

    def _gate_output(self, module: nn.Module, index: torch.Tensor) -> RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            return output * self._factor(module, output, index)

        return module.register_forward_hook(hook)

    def _factor(self, module: nn.Module, like: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        values = self._padded if module.training else _pad(self.theta[None])
        values = values[:, index]
        return values.view(*values.shape, *[1] * (like.dim() - 2))

    @property
    def values(self) -> torch.Tensor:
        """What the images of the next step are multiplied by; its gradient is ∂L/∂ξ."""
        return self._values

    @values.setter
    def values(self, values: torch.Tensor) -> None:
        self._values = values
        self.select(slice(None))

    def select(self, images: slice) -> None:
        """Which of the images the next pass in training mode sees."""
        self._padded = _pad(self._values[images])

    def remove(self) -> None:
        """Take the gates out of the network."""
        for hook in self._hooks:
            hook.remove()


def _pad(values: torch.Tensor) -> torch.Tensor:
    """A column of ones behind the gates, for channels of no group."""
    return torch.cat([values, values.new_ones(len(values), 1)], dim=1)


class ExpectedCost:
    """E[MACs] or E[parameters] over independent gates, as a share of the ungated network's.

    Multilinear in the probabilities θ: the expectation of a product of independent gates is the
    product of their θ, and of a square of one gate its θ.

    Parameters
    ----------
    cost : Cost
    unit : {"macs", "params"}
    dense : int
        The cost that counts as 1.
    """

    def __init__(self, cost: Cost, unit: str, dense: int) -> None:
        quantity, groups = cost.quantity(unit), cost.groups
        self._coefficient = torch.from_numpy(quantity.coefficient / dense).double()
        self._fixed = [
            torch.from_numpy(f).double() for f in (quantity.fixed_rows, quantity.fixed_columns)
        ]
        self._owned = [
            torch.from_numpy(o).double() for o in (quantity.owned_rows, quantity.owned_columns)
        ]
        # where one group is on both sides of a layer, its gate is squared
        both = self._owned[0] * self._owned[1]
        self._both = both if bool(both.sum(dim=1).any()) else None
        modules = cost.modules(unit)
        self._branch = torch.tensor(
            [
                next((i for i, b in enumerate(groups.branches.values()) if name in b), -1)
                for name in modules
            ]
        )

    def value(self, units: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """The expectation for θ of the channels, (groups,), and of the blocks, (blocks,)."""
        rows, columns = (
            fixed + units @ owned for fixed, owned in zip(self._fixed, self._owned, strict=True)
        )
        product = rows * columns
        if self._both is not None:
            product = product + (units - units.square()) @ self._both
        alive = torch.cat([blocks, blocks.new_ones(1)])[self._branch]
        return (self._coefficient * product * alive).sum()


def sample(probability: torch.Tensor, images: int, generator: torch.Generator) -> torch.Tensor:
    """Independent Bernoulli gates for every image, (images, gates), of 0 and 1.

    Drawn on the CPU, so that they are the same on every device.
    """
    drawn = torch.rand(images, len(probability), generator=generator)
    return (drawn < probability.cpu()).to(probability)


def difference(
    slopes: torch.Tensor, values: torch.Tensor, probability: torch.Tensor
) -> torch.Tensor:
    """Estimate of E[L | ξ_j = 1] − E[L | ξ_j = 0], the derivative of E[L] in θ_j, (gates,).

    The trapezoidal rule between ξ_j = 0 and 1, exact for a loss that is quadratic in ξ_j:
    ½·E[∂L/∂ξ_j | ξ_j = 0] + ½·E[∂L/∂ξ_j | ξ_j = 1]. The plain E[∂L/∂ξ_j] vanishes at every
    minimum over the weights with open gates: it cannot tell what a channel is worth.

    Parameters
    ----------
    slopes : (images, gates) Tensor
        ∂L_i/∂ξ_ij of every image's own loss, divided by the number of images.
    values : (images, gates) Tensor
        The gates, drawn with ``probability``, (gates,), within (0, 1).
    """
    weight = values / (2 * probability) + (1 - values) / (2 * (1 - probability))
    return (slopes * weight).sum(0)
