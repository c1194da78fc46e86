"""First-order Taylor importance: what the loss would lose without a group, |Σ w·∂L/∂w| (Molchanov
et al. 2019, arXiv 1906.10771).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method
from mipprune.methods.shared.scores import fill_gradients, group_importance, link_values


class Settings(MethodConfig):
    """Taylor importance."""

    name: Literal["taylor"] = "taylor"
    images: int = Field(1024, ge=1, description="training images over which the gradient is taken")


class Taylor(Method):
    """Scores from the gradient at the end of the phase."""

    def scores(self) -> np.ndarray:
        """torch-pruning's group Taylor importance, or |w·∂L/∂w| of single weights."""
        fill_gradients(self.task, self.settings.images)
        try:
            if self.task.granularity == "link":
                return link_values(self.task, lambda weight: (weight * weight.grad).abs())
            from torch_pruning.pruner.importance import GroupTaylorImportance

            return group_importance(self.task, GroupTaylorImportance())
        finally:
            self.task.network.zero_grad(set_to_none=True)


METHOD = Taylor
