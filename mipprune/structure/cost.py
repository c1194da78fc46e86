"""What a network costs: multiply-accumulates and parameters, for any choice of kept groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, IntArray
from formulations.budget.problem import BilinearCost
from mipprune.structure.groups import Groups, module_of


class CostModel(Protocol):
    """What a network costs as a function of the kept groups.

    Attributes
    ----------
    groups : Groups
    dense : mapping of str to int
        ``"macs"`` and ``"params"`` with all groups.
    """

    groups: Groups
    dense: Mapping[str, int]

    def value(self, kept: BoolArray, unit: str) -> int:
        """Return the MACs or parameters for a (groups,) mask of kept ones."""

    def marginal(self, unit: str) -> IntArray:
        """Return what goes away when one group alone leaves the full network, (groups,)."""


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of the image.
    """
    times = positions(network, shape)
    modules = dict(network.named_modules())
    return sum(int(modules[name].weight.numel()) * count for name, count in times.items())


def count_params(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def positions(network: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """How often every layer's weight is applied to one image, by name: output height × width.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of the image.
    """
    times: dict[str, int] = {}

    def counting(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            channels = output.shape[1 if isinstance(module, nn.Conv2d) else -1]
            times[name] = times.get(name, 0) + output[0].numel() // channels

        return count

    hooks = [
        module.register_forward_hook(counting(name))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    training = network.training
    like = next(network.parameters())
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return times


class Cost:
    """MACs or parameters of a network as a function of the kept groups.

    Parameters
    ----------
    network : nn.Module
    groups : Groups
    shape : (channels, height, width)
        Of an input image.

    Notes
    -----
    Widths of consecutive layers multiply, so the cost is bilinear in the kept channels, less the
    last norms of dead branches; it equals :func:`count_macs` and :func:`count_params` of the pruned
    network exactly.
    """

    def __init__(self, network: nn.Module, groups: Groups, shape: Sequence[int]) -> None:
        self.groups = groups
        times = positions(network, shape)
        axes = {(m.tensor, m.axis): m.group for m in groups.members if m.role != "statistic"}
        parameters = dict(network.named_parameters())
        weights = [f"{name}.weight" for name in times]
        self._quantities = {
            "macs": self._quantity({w: parameters[w] for w in weights}, axes, list(times.values())),
            "params": self._quantity(parameters, axes, [1] * len(parameters)),
        }
        # the module of every term of the sums
        self._modules = {
            "macs": [module_of(name) for name in weights],
            "params": [module_of(name) for name in parameters],
        }
        everything = np.ones(groups.count, int)
        self.dense: Mapping[str, int] = {
            name: quantity.value(everything) for name, quantity in self._quantities.items()
        }

    def _quantity(
        self,
        tensors: Mapping[str, torch.Tensor],
        axes: Mapping[tuple[str, int | None], IntArray],
        times: Sequence[int],
    ) -> BilinearCost:
        """Σ over tensors of how often each is applied × its entries, by rows and columns kept."""
        coefficient: list[int] = []
        sides: tuple[list[tuple[int, IntArray]], list[tuple[int, IntArray]]] = ([], [])
        for (name, tensor), repeat in zip(tensors.items(), times, strict=True):
            for axis in (0, 1):
                size = tensor.shape[axis] if tensor.dim() > axis else 1
                group = axes.get((name, axis), np.full(size, -1))
                owned = np.bincount(group[group >= 0], minlength=self.groups.count)
                sides[axis].append((int((group < 0).sum()), owned))
            coefficient.append(repeat * int(np.prod(tensor.shape[2:], dtype=int)))
        rows, columns = sides
        return BilinearCost(
            np.array(coefficient),
            np.array([fixed for fixed, _ in rows]),
            np.stack([owned for _, owned in rows], axis=1),
            np.array([fixed for fixed, _ in columns]),
            np.stack([owned for _, owned in columns], axis=1),
        )

    def quantity(self, unit: str, emptied: Iterable[str] = ()) -> BilinearCost:
        """The cost as a function of the groups, each a class of one channel.

        Parameters
        ----------
        unit : {"macs", "params"}
        emptied : iterable of str
            Names of blocks whose branch counts as removed.
        """
        quantity = self._quantities[unit]
        dead = {module for name in emptied for module in self.groups.branches[name]}
        if not dead:
            return quantity
        return quantity.layers(np.array([name not in dead for name in self._modules[unit]]))

    def modules(self, unit: str) -> list[str]:
        """The module of every term of the sum that :meth:`quantity` is, in its order."""
        return self._modules[unit]

    def value(self, kept: BoolArray, unit: str) -> int:
        """MACs (``unit="macs"``) or parameters (``"params"``) for a (groups,) mask of kept ones."""
        kept = self.groups.settle(kept)
        return self.quantity(unit, self.groups.emptied(kept)).value(kept.astype(int))

    def marginal(self, unit: str) -> IntArray:
        """What goes away when one group alone is removed from the full network, (groups,).

        Without the rest of a branch that has no other channel.
        """
        q = self._quantities[unit]
        rows, columns = q.sizes(np.ones(self.groups.count, int))
        lost = q.owned_rows * columns + rows * q.owned_columns - q.owned_rows * q.owned_columns
        return lost @ q.coefficient
