"""Running mean of the weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """Exponential moving average of a network's weights and statistics.

    Parameters
    ----------
    network : nn.Module
    decay : float
        What the mean keeps of itself at a step.

    Attributes
    ----------
    network : nn.Module
        A copy that holds the means.
    """

    def __init__(self, network: nn.Module, decay: float):
        self._of = network
        self._average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
        )

    @property
    def network(self) -> nn.Module:
        """A copy of the network that holds the means."""
        return self._average.module

    def update(self) -> None:
        """After a step."""
        self._average.update_parameters(self._of)

    def state_dict(self) -> dict:
        """The means, and how many steps are in them."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._average.load_state_dict(state)

    def copy_to(self, network: nn.Module) -> None:
        """Give a network the means."""
        network.load_state_dict(self.network.state_dict())
