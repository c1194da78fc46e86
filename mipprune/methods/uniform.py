"""Uniform width: the same share of every layer's channels, by L2 norm within the layer."""

from __future__ import annotations

from typing import Literal

import numpy as np

from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.methods.shared.scores import group_importance
from mipprune.structure.allocation import uniform


class Settings(MethodConfig):
    """Uniform width."""

    name: Literal["uniform"] = "uniform"


class Uniform(Method):
    """Which channels stay follows from their norm, how many from the budget."""

    def __init__(self, settings: Settings, task: Task):
        super().__init__(settings, task)
        if task.granularity == "link":
            raise InputError("method=uniform is about layers' widths: granularity=link has none")

    def scores(self) -> np.ndarray:
        """torch-pruning's group magnitude."""
        from torch_pruning.pruner.importance import GroupMagnitudeImportance

        return group_importance(self.task, GroupMagnitudeImportance(p=2))

    def select(self) -> np.ndarray:
        """The groups to keep, (groups,) bool."""
        return uniform(self.task.cost, self.scores(), *self.target, self.task.budget)


METHOD = Uniform
