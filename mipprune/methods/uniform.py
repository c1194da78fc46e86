"""Uniform width: the same share of every layer's channels, by L2 norm within the layer."""

from __future__ import annotations

from typing import Literal

from torch_pruning.pruner.importance import GroupMagnitudeImportance

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.methods.shared.scores import group_importance
from mipprune.structure.allocation import uniform
from mipprune.structure.cost import Cost


class Settings(MethodConfig):
    """Uniform width."""

    name: Literal["uniform"] = "uniform"


class Uniform(Method[Settings]):
    """Which channels stay follows from their norm, how many from the budget."""

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        if not isinstance(task.cost, Cost):
            raise InputError("method=uniform is about layers' widths: granularity=link has none")
        self._cost = task.cost

    def scores(self) -> FloatArray:
        """torch-pruning's group magnitude."""
        return group_importance(self.task, GroupMagnitudeImportance(p=2))

    def select(self) -> BoolArray:
        """The groups to keep, (groups,) bool."""
        budget = self.task.budget
        return uniform(
            self._cost,
            self.scores(),
            *self.budget_target(),
            multiple=budget.multiple,
            floor=budget.floor,
        )


METHOD = Uniform
