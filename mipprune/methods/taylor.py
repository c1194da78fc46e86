"""First-order Taylor importance: what the loss would lose without a group, |Σ w·∂L/∂w|.

Molchanov et al. 2019, arXiv 1906.10771.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch_pruning.pruner.importance import GroupTaylorImportance

from formulations.arrays import FloatArray
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method
from mipprune.methods.shared.scores import fill_gradients, group_importance, link_values


class Settings(MethodConfig):
    """Taylor importance."""

    name: Literal["taylor"] = "taylor"
    images: int = Field(1024, ge=1, description="training images over which the gradient is taken")


class Taylor(Method[Settings]):
    """Scores from the gradient at the end of the phase."""

    def scores(self) -> FloatArray:
        """torch-pruning's group Taylor importance, or |w·∂L/∂w| of single weights."""
        fill_gradients(self.task, self.settings.images)
        try:
            if self.task.granularity == "link":
                return link_values(self.task, _first_order)
            return group_importance(self.task, GroupTaylorImportance())
        finally:
            self.task.network.zero_grad(set_to_none=True)


def _first_order(weight: torch.Tensor) -> torch.Tensor:
    if weight.grad is None:
        raise RuntimeError("a weight has no gradient: the loss does not depend on it")
    return (weight * weight.grad).abs()


METHOD = Taylor
