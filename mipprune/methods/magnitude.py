"""Magnitude pruning: the groups of least L1 or L2 norm go.

Han et al. 2015, arXiv 1506.02626; of filters Li et al. 2017, arXiv 1608.08710.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from formulations.arrays import FloatArray
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method
from mipprune.methods.shared.scores import group_importance, link_values


class Settings(MethodConfig):
    """Magnitude."""

    name: Literal["magnitude"] = "magnitude"
    norm: Literal[1, 2] = Field(2, description="the norm of a group: L1 or L2")


class Magnitude(Method[Settings]):
    """Scores are norms over a coupled group, relative to the mean of its layer."""

    def scores(self) -> FloatArray:
        """torch-pruning's group magnitude, or |w| of single weights."""
        if self.task.granularity == "link":
            return link_values(self.task, torch.abs)
        return group_importance(self.task, GroupMagnitudeImportance(p=self.settings.norm))


METHOD = Magnitude
