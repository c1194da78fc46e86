"""Bernoulli gates on the channels and residual blocks of a network, and its expected cost."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mipprune.cost import Cost
from mipprune.groups import Groups, module_of


class Gates:
    """Multiplies the outputs of a network's layers and branches by gates, one set an image.

    A channel's gate acts behind its BatchNorm where it has one, else behind its layer; a block's
    gate at the end of its residual branch.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
    units, blocks : bool
        Whether channels and blocks have gates.

    Attributes
    ----------
    count : int
        Number of gates: of the channels, (groups,), then of the blocks.
    theta : (count,) Tensor
        Their probabilities, 1 at first; what a pass in evaluation mode multiplies by.
    values : (images, count) Tensor
        What the next pass in training mode multiplies by; its gradient is ∂L/∂ξ.
    """

    def __init__(self, network: nn.Module, groups: Groups, units: bool, blocks: bool):
        device = next(network.parameters()).device
        names = list(groups.blocks) if blocks else []
        self.groups = groups.count if units else 0
        self.count = self.groups + len(names)
        self.theta = torch.ones(self.count, device=device)
        self.values = self.theta[None]
        self._hooks = []
        of_units = {}
        if units:
            for member in groups.scales():
                of_units[module_of(member.tensor)] = member.group
        of_blocks = {groups.branches[name][-1]: i for i, name in enumerate(names, self.groups)}
        for name, module in network.named_modules():
            group, block = of_units.get(name), of_blocks.get(name)
            if group is not None:
                index = torch.from_numpy(np.where(group < 0, self.count, group)).to(device)
                self._hooks.append(module.register_forward_hook(self._multiply(index)))
            if block is not None:
                index = torch.tensor([block], device=device)
                self._hooks.append(module.register_forward_hook(self._multiply(index)))

    def _multiply(self, index: torch.Tensor):
        def hook(module, inputs, output):
            values = self.values if module.training else self.theta[None]
            values = torch.cat([values, values.new_ones(len(values), 1)], dim=1)  # ungrouped: 1
            values = values[:, index]
            return output * values.view(*values.shape, *[1] * (output.dim() - 2))

        return hook

    def remove(self) -> None:
        """Take the gates out of the network."""
        for hook in self._hooks:
            hook.remove()


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

    def __init__(self, cost: Cost, unit: str, dense: int):
        quantity, groups = cost.quantity(unit), cost.groups
        self._coefficient = torch.from_numpy(quantity.coefficient / dense).double()
        self._fixed = [
            torch.from_numpy(f).double() for f in (quantity.fixed_rows, quantity.fixed_columns)
        ]
        self._owned = [
            torch.from_numpy(o).double() for o in (quantity.owned_rows, quantity.owned_columns)
        ]
        # where one group is on both sides of a layer, its gate is squared
        self._both = (self._owned[0] * self._owned[1]).sum(dim=1)
        self._both = self._owned[0] * self._owned[1] if bool(self._both.any()) else None
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


def sample(theta: torch.Tensor, images: int, generator: torch.Generator) -> torch.Tensor:
    """Independent Bernoulli(θ) gates for every image, (images, gates), of 0 and 1.

    Drawn on the CPU, so that they are the same on every device.
    """
    drawn = torch.rand(images, len(theta), generator=generator)
    return (drawn < theta.cpu()).to(theta)
