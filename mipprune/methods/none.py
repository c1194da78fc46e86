"""No pruning: the network is trained as it is, and all of it stays.

What plain training is called, and what a pruned network is trained on with.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from formulations.arrays import BoolArray
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method


class Settings(MethodConfig):
    """No pruning."""

    name: Literal["none"] = "none"


class Nothing(Method[Settings]):
    """Every group stays, whatever the budget."""

    needs_budget = False

    def select(self) -> BoolArray:
        """All groups, (groups,) bool."""
        return np.ones(self.task.groups.count, bool)


METHOD = Nothing
