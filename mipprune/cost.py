"""What a network costs: multiply-accumulates and parameters, for any choice of kept groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from formulations.errors import InputError
from mipprune.groups import Groups


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image of ``shape``."""
    positions = _positions(network, shape)
    modules = dict(network.named_modules())
    return sum(int(modules[name].weight.numel()) * count for name, count in positions.items())


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _positions(network: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """How often every layer's weight is applied to one image (output height × width)."""
    positions: dict[str, int] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def record(module, inputs, output, name=name):
                area = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
                positions[name] = positions.get(name, 0) + area

            hooks.append(module.register_forward_hook(record))
    training = network.training
    device = next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, *shape, device=device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return positions


@dataclass(frozen=True)
class _Quantity:
    """Σ_l coefficient_l · rows_l · columns_l, rows and columns the kept sizes of two axes.

    Each side is a fixed count plus, for every group, how many indices it owns there:
    ``fixed`` (L,) and ``owned`` (G, L).
    """

    coefficient: np.ndarray
    fixed_rows: np.ndarray
    owned_rows: np.ndarray
    fixed_columns: np.ndarray
    owned_columns: np.ndarray

    def sizes(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            self.fixed_rows + kept @ self.owned_rows,
            self.fixed_columns + kept @ self.owned_columns,
        )

    def value(self, rows: np.ndarray, columns: np.ndarray) -> int:
        return int(self.coefficient @ (rows * columns))


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
    Widths of consecutive layers multiply, so the cost is bilinear in the kept channels; it equals
    :func:`count_macs` and :func:`count_params` of the pruned network exactly.
    """

    def __init__(self, network: nn.Module, groups: Groups, shape: Sequence[int]):
        self.groups = groups
        positions = _positions(network, shape)
        axes = {(m.tensor, m.axis): m.group for m in groups.members if m.role != "statistic"}
        parameters = dict(network.named_parameters())
        weights = [f"{name}.weight" for name in positions]
        self._quantities = {
            "macs": self._quantity(
                {w: parameters[w] for w in weights}, axes, list(positions.values())
            ),
            "params": self._quantity(parameters, axes, [1] * len(parameters)),
        }
        everything = np.ones(groups.count, int)
        self.dense = {
            name: quantity.value(*quantity.sizes(everything))
            for name, quantity in self._quantities.items()
        }

    def _quantity(self, tensors, axes, times) -> _Quantity:
        coefficient, sides = [], ([], [])
        for (name, tensor), repeat in zip(tensors.items(), times, strict=True):
            for axis in (0, 1):
                size = tensor.shape[axis] if tensor.dim() > axis else 1
                group = axes.get((name, axis), np.full(size, -1))
                owned = np.bincount(group[group >= 0], minlength=self.groups.count)
                sides[axis].append((int((group < 0).sum()), owned))
            coefficient.append(repeat * int(np.prod(tensor.shape[2:], dtype=int)))
        (rows, columns) = sides
        return _Quantity(
            np.array(coefficient),
            np.array([fixed for fixed, _ in rows]),
            np.stack([owned for _, owned in rows], axis=1),
            np.array([fixed for fixed, _ in columns]),
            np.stack([owned for _, owned in columns], axis=1),
        )

    def value(self, kept: np.ndarray, unit: str) -> int:
        """MACs (``unit="macs"``) or parameters (``"params"``) for a (groups,) mask of kept ones."""
        quantity = self._quantities[unit]
        return quantity.value(*quantity.sizes(kept.astype(int)))

    def marginal(self, unit: str) -> np.ndarray:
        """What goes away when one group alone is removed from the full network, (groups,)."""
        q = self._quantities[unit]
        rows, columns = q.sizes(np.ones(self.groups.count, int))
        lost = q.owned_rows * columns + rows * q.owned_columns - q.owned_rows * q.owned_columns
        return lost @ q.coefficient

    def remove_lowest(
        self, scores: np.ndarray, fraction: float, unit: str, tolerance: float = 0.01
    ) -> np.ndarray:
        """Keep the best-scored groups so that the cost meets a budget.

        Groups are removed from the lowest score up, until the cost is within ``tolerance`` below
        ``fraction`` of the dense cost. A group whose removal would overshoot is passed over, and
        so is the last channel of any layer.

        Parameters
        ----------
        scores : (groups,) array
        fraction : float
            In (0, 1]: share of the dense cost to keep.
        unit : {"macs", "params"}
        tolerance : float
            Of the dense cost.

        Returns
        -------
        (groups,) bool array

        Raises
        ------
        InputError
            If the budget is out of (0, 1] or smaller than the smallest network, which is named.
        """
        if not 0 < fraction <= 1:
            raise InputError(f"budget.{unit} is the share to keep, in (0, 1]: it is {fraction:g}")
        smallest = self.smallest(unit)
        if fraction < smallest:
            raise InputError(
                f"budget.{unit}={fraction:g} is unreachable: the smallest network, one channel a "
                f"layer, keeps {smallest:.4f} of the {unit}"
            )
        target = fraction * self.dense[unit]
        slack = tolerance * self.dense[unit]
        kept = _Remaining(self, unit)
        if kept.cost > target:
            for group in np.argsort(scores, kind="stable"):
                kept.try_remove(int(group), at_least=target - slack)
                if kept.cost <= target:
                    break
        if kept.cost > target + slack:
            raise InputError(
                f"budget.{unit}={fraction:g} cannot be met within {tolerance:.0%} by whole "
                f"channels: the nearest choice keeps {kept.cost / self.dense[unit]:.4f}"
            )
        return kept.mask

    def remove_below(self, scores: np.ndarray, threshold: float) -> np.ndarray:
        """Keep the groups with a score above a threshold, (groups,) bool; empty no layer."""
        kept = _Remaining(self, "macs")
        for group in np.argsort(scores, kind="stable"):
            if scores[group] > threshold:
                break
            kept.try_remove(int(group), at_least=0.0)
        return kept.mask

    def smallest(self, unit: str) -> float:
        """Share of the dense cost that the smallest network keeps (one channel a layer)."""
        kept = _Remaining(self, unit)
        for group in range(self.groups.count):
            kept.try_remove(group, at_least=0.0)
        return kept.cost / self.dense[unit]


class _Remaining:
    """Kept groups with their running cost, which never empties a layer."""

    def __init__(self, cost: Cost, unit: str):
        self.quantity = cost._quantities[unit]
        self.mask = np.ones(cost.groups.count, bool)
        self.rows, self.columns = self.quantity.sizes(self.mask.astype(int))
        self.cost = cost.dense[unit]
        params = cost._quantities["params"]
        self.owned = np.concatenate([params.owned_rows, params.owned_columns], axis=1)
        self.left = np.concatenate(params.sizes(self.mask.astype(int)))

    def try_remove(self, group: int, at_least: float) -> None:
        """Remove a group unless a layer would be empty or the cost fall below ``at_least``."""
        left = self.left - self.owned[group]
        if left.min() < 1:
            return
        rows = self.rows - self.quantity.owned_rows[group]
        columns = self.columns - self.quantity.owned_columns[group]
        cost = self.quantity.value(rows, columns)
        if cost >= at_least:
            self.mask[group] = False
            self.left, self.rows, self.columns, self.cost = left, rows, columns, cost
