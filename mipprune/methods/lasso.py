"""Group lasso: λ·Σ √d_j·‖w_j‖₂ in the training loss, then the groups of least norm go.

Yuan & Lin 2006; of filters Wen et al. 2016, arXiv 1608.03665. d_j counts group j's weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from formulations.arrays import FloatArray
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.penalties.rows import GroupRows
from mipprune.runs.log import Log, LogEntry


class Settings(MethodConfig):
    """Group lasso."""

    name: Literal["lasso"] = "lasso"
    lam: float = Field(1e-3, gt=0, description="λ, weight of the penalty")
    weights: Literal["scales", "all"] = Field(
        "all", description="what a group's norm is of, as for spr"
    )


class Lasso(Method[Settings]):
    """Proximal steps of the group lasso (group soft-thresholding): exact zeros."""

    LOG: ClassVar[Log] = {
        "penalty": LogEntry("penalty", "penalty"),
        "zero": LogEntry("groups at zero", "share of the groups", "groups at zero %", 100.0),
    }

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        groups = task.groups
        members = groups.scales() if settings.weights == "scales" else groups.producers()
        self._weights = GroupRows(task.parameters, members, groups.count)
        self._root = self._weights.sizes().sqrt()

    def _norm(self) -> torch.Tensor:
        return self._weights.norm()

    def after_step(self, lr: float) -> None:
        """w_j ← max(0, 1 − lr·λ·√d_j/‖w_j‖)·w_j."""
        norm = self._norm()
        threshold = lr * self.settings.lam * self._root
        factor = torch.clamp(1 - threshold / norm.clamp(min=1e-30), min=0)
        self._weights.scale_(factor)

    def scores(self) -> FloatArray:
        """‖w_j‖/√d_j."""
        return (self._norm() / self._root).double().cpu().numpy()

    def log(self) -> dict[str, float]:
        """The penalty, and the share of groups at zero."""
        norm = self._norm()
        penalty = self.settings.lam * (self._root * norm).sum()
        return {"penalty": float(penalty), "zero": float((norm == 0).float().mean())}


METHOD = Lasso
