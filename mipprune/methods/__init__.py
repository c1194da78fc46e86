"""Pruning methods: what a training step needs of one. The loop knows no method by name."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Method(Protocol):
    """A pruning method during the regularize phase.

    Attributes
    ----------
    done : bool
        Set by :meth:`adapt` when the method has nothing left to do: the phase ends early.
    """

    done: bool

    def after_backward(self) -> None:
        """Change the gradients, which the loss has just filled."""

    def after_step(self, lr: float) -> None:
        """Act on the weights after the optimizer's step with learning rate ``lr``."""

    def adapt(self) -> None:
        """Called some hundred times over the phase, evenly: adjust the method's own settings."""

    def select(self) -> np.ndarray:
        """The groups to keep, a (groups,) bool array."""

    def log(self) -> dict[str, float]:
        """Numbers worth a line in the metrics."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights: plain numbers and lists."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
