"""A moving average of a network's weights (Polyak & Juditsky 1992), which may shrink with it.

w̄ ← d·w̄ + (1 − d)·w after every step, of parameters and of BatchNorm's running statistics, with
d = min(decay, (1 + t)/(10 + t)) after t steps so that the first average is not that of the initial
weights (TensorFlow's ``num_updates``). Tensors by name instead of torch's ``AveragedModel``, which
is a copy of the module: methods hang hooks into the network, and removal rebuilds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mipprune.surgery import Removal


class MovingAverage:
    """The average of a network's floating-point tensors.

    Parameters
    ----------
    network : nn.Module
        Whose tensors now are where the average begins.
    decay : float
        Between 0 and 1.

    Attributes
    ----------
    updates : int
        Steps averaged.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self._tensors = {name: t.clone() for name, t in _floating(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after an optimizer's step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = _floating(network)
        own = [self._tensors[name] for name in current]
        get_ema_multi_avg_fn(decay)(own, list(current.values()), None)

    def follow(self, removal: Removal) -> None:
        """Go on with the network that is left after a removal."""
        self._tensors = {
            name: removal.slice(name, tensor)
            for name, tensor in self._tensors.items()
            if removal.stays(name)
        }

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Put the average into a network for good."""
        for name, tensor in _floating(network).items():
            tensor.copy_(self._tensors[name])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[nn.Module]:
        """The network with the average in it; afterwards its own tensors are back."""
        own = {name: tensor.clone() for name, tensor in _floating(network).items()}
        self.copy_to(network)
        try:
            yield network
        finally:
            with torch.no_grad():
                for name, tensor in _floating(network).items():
                    tensor.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors by name, and ``updates``."""
        return {**self._tensors, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, onto the devices that the tensors are on now."""
        self.updates = state["updates"]
        self._tensors = {
            name: state[name].to(t.device, copy=True) for name, t in self._tensors.items()
        }


def _floating(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that an average makes sense of: not counters."""
    return {n: t.detach() for n, t in network.state_dict().items() if t.is_floating_point()}
