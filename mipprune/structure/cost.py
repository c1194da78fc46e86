"""What a network costs: multiply-accumulates and parameters, for any choice of kept groups."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from formulations.budget.problem import BilinearCost
from mipprune.config.schema import BudgetConfig
from mipprune.structure.groups import Groups, module_of


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image of ``shape``."""
    times = positions(network, shape)
    modules = dict(network.named_modules())
    return sum(int(modules[name].weight.numel()) * count for name, count in times.items())


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def positions(network: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """How often every layer's weight is applied to one image (output height × width)."""
    times: dict[str, int] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def record(module, inputs, output, name=name):
                area = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
                times[name] = times.get(name, 0) + area

            hooks.append(module.register_forward_hook(record))
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

    def __init__(self, network: nn.Module, groups: Groups, shape: Sequence[int]):
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
        self.dense = {
            name: quantity.value(everything) for name, quantity in self._quantities.items()
        }

    def _quantity(self, tensors, axes, times) -> BilinearCost:
        coefficient, sides = [], ([], [])
        for (name, tensor), repeat in zip(tensors.items(), times, strict=True):
            for axis in (0, 1):
                size = tensor.shape[axis] if tensor.dim() > axis else 1
                group = axes.get((name, axis), np.full(size, -1))
                owned = np.bincount(group[group >= 0], minlength=self.groups.count)
                sides[axis].append((int((group < 0).sum()), owned))
            coefficient.append(repeat * int(np.prod(tensor.shape[2:], dtype=int)))
        (rows, columns) = sides
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

    def value(self, kept: np.ndarray, unit: str) -> int:
        """MACs (``unit="macs"``) or parameters (``"params"``) for a (groups,) mask of kept ones."""
        kept = self.groups.settle(kept)
        return self.quantity(unit, self.groups.emptied(kept)).value(kept.astype(int))

    def marginal(self, unit: str) -> np.ndarray:
        """What goes away when one group alone is removed from the full network, (groups,).

        Without the rest of a branch that has no other channel.
        """
        q = self._quantities[unit]
        rows, columns = q.sizes(np.ones(self.groups.count, int))
        lost = q.owned_rows * columns + rows * q.owned_columns - q.owned_rows * q.owned_columns
        return lost @ q.coefficient

    def check_reachable(self, unit: str, share: float, budget: BudgetConfig) -> None:
        """Raise an InputError, which names the nearest, if no widths meet the budget."""
        self.allocate(np.zeros(self.groups.count), unit, share, budget)

    def allocate(
        self, worth: np.ndarray, unit: str, share: float, budget: BudgetConfig, dropped=None
    ) -> np.ndarray:
        """Keep the groups of most worth in the budget: see ``structure.allocation.allocate``."""
        from mipprune.structure.allocation import allocate

        return allocate(
            self, worth, unit, share, multiple=budget.multiple, floor=budget.floor, dropped=dropped
        )

    def lowest_removed(self, scores: np.ndarray, unit: str, share: float) -> np.ndarray:
        """Remove the lowest scores of all layers until the budget is met, (groups,) bool.

        The usual global threshold; one channel of every layer stays.
        """
        removed = self._in_order(scores, np.inf)
        budget = share * self.dense[unit]

        def cost(count: int) -> int:
            kept = np.ones(self.groups.count, bool)
            kept[removed[:count]] = False
            return self.value(kept, unit)

        # the cost falls with every removal
        count = bisect_left(range(len(removed)), True, key=lambda n: cost(n) <= budget)
        kept = np.ones(self.groups.count, bool)
        kept[removed[:count]] = False
        return kept

    def remove_below(self, scores: np.ndarray, threshold: float) -> np.ndarray:
        """Keep the groups with a score above a threshold, (groups,) bool; empty no layer."""
        kept = np.ones(self.groups.count, bool)
        kept[self._in_order(scores, threshold)] = False
        return kept

    def _in_order(self, scores: np.ndarray, threshold: float) -> list[int]:
        """Groups up to a threshold, lowest score first, but for the last one of a layer."""
        params = self._quantities["params"]
        owned = np.concatenate([params.owned_rows, params.owned_columns], axis=1)
        left = np.concatenate(params.sizes(np.ones(self.groups.count, int)))
        order = []
        for group in np.argsort(scores, kind="stable"):
            if scores[group] > threshold:
                break
            if (left - owned[group]).min() >= 1:
                order.append(int(group))
                left = left - owned[group]
        return order
