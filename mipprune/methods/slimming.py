"""Network slimming: an L1 penalty on BatchNorm's scales γ, then the channels of least |γ| go.

Liu et al. 2017, arXiv 1708.06519.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from formulations.arrays import FloatArray
from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.penalties.rows import GroupRows
from mipprune.runs.log import Log, LogEntry


class Settings(MethodConfig):
    """Network slimming."""

    name: Literal["slimming"] = "slimming"
    lam: float = Field(1e-4, gt=0, description="λ, weight of the L1 penalty on every |γ|")


class Slimming(Method[Settings]):
    """Subgradient steps, as published."""

    LOG: ClassVar[Log] = {
        "small_scales": LogEntry("BatchNorm weights below 1 % of the largest", "share of them"),
    }

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        if task.granularity == "link":
            raise InputError("method=slimming prunes channels: granularity=link has none")
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        scaled = {f"{n}.weight" for n, m in task.network.named_modules() if isinstance(m, norms)}
        self._members = [m for m in task.groups.producers() if m.tensor in scaled]
        reached = np.zeros(task.groups.count, bool)
        for member in self._members:
            reached[member.group[member.group >= 0]] = True
        if not reached.all():
            raise InputError(
                f"method=slimming needs a BatchNorm behind every channel: {(~reached).sum()} of "
                f"{task.groups.count} groups have none (protect their layers, or another method)"
            )

        self._scales = GroupRows(task.parameters, self._members, task.groups.count)
        self._step = torch.full_like(self._scales.sizes(), settings.lam)

    def after_backward(self) -> None:
        """Add λ·sign(γ) to the gradients of the scales."""
        self._scales.add_to_gradients_(self._step, order=1)

    def scores(self) -> FloatArray:
        """Mean |γ| of a group."""
        return (self._scales.norm(order=1) / self._scales.sizes()).double().cpu().numpy()

    def log(self) -> dict[str, float]:
        """Share of scales below 1 % of the largest."""
        parameters = self.task.parameters
        scales = torch.cat([parameters[m.tensor].detach().abs() for m in self._members])
        return {"small_scales": float((scales < 0.01 * scales.max()).float().mean())}


METHOD = Slimming
