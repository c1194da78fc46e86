"""Random pruning: the baseline that every score has to beat."""

from __future__ import annotations

from typing import Literal

import numpy as np

from formulations.arrays import FloatArray
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method


class Settings(MethodConfig):
    """Random groups."""

    name: Literal["random"] = "random"


class Random(Method[Settings]):
    """Scores drawn uniformly with the run's seed."""

    def scores(self) -> FloatArray:
        """(groups,) numbers in [0, 1)."""
        return np.random.default_rng(self.task.seed).random(self.task.groups.count)


METHOD = Random
