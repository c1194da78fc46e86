"""What the engine needs of a pruning method, and what a method is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.errors import InputError
from mipprune.config.schema import BudgetConfig, MethodConfig, OptimizerConfig
from mipprune.data.registry import Data
from mipprune.distributed.ranks import Ranks
from mipprune.structure.allocation import (
    WidthOptions,
    allocate,
    check_reachable,
    lowest_removed,
)
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.links import LinkCost

# How often over a phase a method adapts its own settings.
ADAPTATIONS = 100


@dataclass
class Task:
    """What a method works on.

    Attributes
    ----------
    network : nn.Module
        At the weights from which the regularize phase starts.
    groups : Groups
        What can be removed: single weights, or groups of coupled channels.
    cost : Cost or LinkCost
        What the network costs for any choice of them.
    data : Data
    budget : BudgetConfig
    optimizer : OptimizerConfig
    granularity : {"link", "neuron", "channel", "block"}
    steps : int
        Training steps of the regularize phase.
    batch : int
        Images of a step.
    trained : bool
        Whether the network's weights are trained ones.
    resumed : bool
        Whether a run goes on: what was checked before it began may have gone by now.
    seed : int
        For everything that a method draws at random.
    ranks : Ranks
        The processes of the run. All hold the same weights; only the gradients that the engine
        has filled are means over all of them.
    """

    network: nn.Module
    groups: Groups
    cost: Cost | LinkCost
    data: Data
    budget: BudgetConfig
    optimizer: OptimizerConfig
    granularity: str
    steps: int
    batch: int
    trained: bool
    seed: int
    resumed: bool = False
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the network by name."""
        return dict(self.network.named_parameters())


class Method:
    """A pruning method during the regularize phase. This one changes nothing about training.

    A subclass overrides what it needs; :meth:`scores` is what every one must have.

    Parameters
    ----------
    settings : MethodConfig
        Of the class that the method's module names ``Settings``.
    task : Task

    Attributes
    ----------
    done : bool
        Set when the method has nothing left to do: the phase ends early.

    Raises
    ------
    InputError
        If the budget cannot be met by this network, or the settings do not fit the task.
    """

    needs_budget = True  # whether select() cannot do without one
    removes_blocks = False  # whether granularity=block means anything to it
    changes_forward = False  # whether it takes part in the forward pass: see before_pass()

    def __init__(self, settings: MethodConfig, task: Task):
        self.settings, self.task, self.done = settings, task, False
        self.target = task.budget.target()
        if task.granularity == "block" and not self.removes_blocks:
            raise InputError(
                f"method={settings.name} removes no whole blocks: spr and complexity do; "
                "set granularity=channel"
            )
        if self.target is None and self.needs_budget:
            raise InputError(
                f"method={settings.name} needs a budget: budget.macs=SHARE or budget.params=SHARE"
            )
        if self.target is not None and not task.resumed:
            # an unreachable budget is an error before training, not after
            check_reachable(self.task.cost, *self.target, task.budget)

    # ---- training -----------------------------------------------------------------------------

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own, or None for the configured SGD."""
        return None

    def before_step(self) -> None:
        """Called before every training step."""

    def before_pass(self, images: slice) -> None:
        """Called before every forward pass, if ``changes_forward``.

        A step has several where its batch is divided; ``images`` are those of the whole batch.
        """

    def after_backward(self) -> None:
        """Change the gradients, which the loss has just filled."""

    def after_step(self, lr: float) -> None:
        """Act on the weights after the optimizer's step with learning rate ``lr``."""

    def adapt(self) -> None:
        """Called ``ADAPTATIONS`` times over the phase, evenly: adjust the method's own settings."""

    # ---- removal ------------------------------------------------------------------------------

    def survivors(self) -> np.ndarray | None:
        """The groups left, (groups,) bool, if some are to be removed now, for good, else None.

        Asked after every :meth:`adapt`.
        """
        return None

    def follow(self, task: Task, kept: np.ndarray) -> None:
        """Go on with a network from which all but the ``kept`` groups were removed."""
        raise NotImplementedError

    def detach(self) -> None:
        """Take what the method added to the network out of it again."""

    def scores(self) -> np.ndarray:
        """How much every group is worth, (groups,), not negative: what :meth:`select` goes by."""
        raise NotImplementedError

    def select(self) -> np.ndarray:
        """The groups to keep, (groups,) bool: by default the lowest scores of all layers go."""
        return self.within_budget(self.scores())

    def within_budget(self, scores: np.ndarray, dense: float | None = None) -> np.ndarray:
        """The groups that stay if the lowest scores of all layers go until the budget is met.

        With ``budget.multiple`` or ``budget.floor``, to which a threshold cannot answer, the
        greatest sum of scores instead. The budget is a share of ``dense``, by default of the
        network as it is.
        """
        budget, cost, (unit, share) = self.task.budget, self.task.cost, self.target
        share *= 1 if dense is None else dense / cost.dense[unit]
        if budget.multiple > 1 or budget.floor > 0:
            limits: WidthOptions = {"multiple": budget.multiple, "floor": budget.floor}
            return allocate(cost, scores, unit, share, **limits)
        return lowest_removed(cost, scores, unit, share)

    # ---- records ------------------------------------------------------------------------------

    def log(self) -> dict[str, float]:
        """Numbers worth a line in the metrics."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What belongs in the run's result beside its measures."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights: tensors, plain numbers, lists."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.done = state["done"]
