"""Running mean of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mipprune.models.weights import load_state


class Average:
    """Exponential moving average of a network's weights and statistics.

    Counters, such as BatchNorm's of its batches, are those of the network. Unlike torch's
    ``AveragedModel`` an update never waits for a GPU.

    Parameters
    ----------
    network : nn.Module
        Its parameters and buffers stay the same objects.
    decay : float
        What the mean keeps of itself at a step.

    Attributes
    ----------
    network : nn.Module
        A copy that holds the means.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self._decay, self._steps = decay, 0
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        self._means, self._now = _split(pairs, floating=True)
        self._counters, self._counted = _split(pairs, floating=False)

    @torch.no_grad()
    def update(self) -> None:
        """After a step."""
        if self._steps:
            torch._foreach_lerp_(self._means, self._now, 1 - self._decay)
        else:
            torch._foreach_copy_(self._means, self._now)
        if self._counters:
            torch._foreach_copy_(self._counters, self._counted)
        self._steps += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The means, and how many steps are in them."""
        means = {f"mean.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"steps": torch.tensor(self._steps), **means}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self._steps = int(state["steps"])
        means = {k.removeprefix("mean."): v for k, v in state.items() if k != "steps"}
        load_state(self.network, means)

    def copy_to(self, network: nn.Module) -> None:
        """Give a network the means."""
        network.load_state_dict(self.network.state_dict())


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]


def _split(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], floating: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    chosen = [pair for pair in pairs if pair[0].is_floating_point() == floating]
    return [mean for mean, _ in chosen], [now for _, now in chosen]
