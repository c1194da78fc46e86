"""What the engine needs of a pruning method, and what a method is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from mipprune.config.schema import BudgetConfig, MethodConfig, OptimizerConfig
from mipprune.data.registry import Data
from mipprune.distributed.ranks import Ranks
from mipprune.runs.log import Log
from mipprune.structure.allocation import (
    allocate,
    check_reachable,
    lowest_removed,
)
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.links import LinkCost
from mipprune.structure.widths import WidthOptions

# How often over a phase a method adapts its own settings.
ADAPTATIONS = 100

SettingsT = TypeVar("SettingsT", bound=MethodConfig)


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


class Method(Generic[SettingsT]):
    """A pruning method during the regularize phase. This one changes nothing about training.

    A subclass overrides what it needs; :meth:`scores` is what every one must have, unless it
    overrides :meth:`select`, which asks for them.

    Parameters
    ----------
    settings : MethodConfig
        Of the class that the method's module names ``Settings``.
    task : Task

    Attributes
    ----------
    LOG : Log
        What the numbers of :meth:`log` are, by key.
    needs_budget : bool
        Whether :meth:`select` cannot do without a budget.
    removes_blocks : bool
        Whether ``granularity=block`` means anything to the method.
    changes_forward : bool
        Whether it takes part in the forward pass: see :meth:`before_pass`.
    settings, task
        As given; a task whose network got smaller comes by :meth:`follow`.
    target : (unit, share) or None
        The budget.
    done : bool
        Set when the method has nothing left to do: the phase ends early.

    Raises
    ------
    InputError
        If the budget cannot be met by this network, or the settings do not fit the task.
    """

    LOG: ClassVar[Log] = {}
    needs_budget: ClassVar[bool] = True
    removes_blocks: ClassVar[bool] = False
    changes_forward: ClassVar[bool] = False

    def __init__(self, settings: SettingsT, task: Task) -> None:
        self.settings, self.task, self.done = settings, task, False
        self.target = task.budget.target()
        if task.granularity == "block" and not self.removes_blocks:
            raise InputError(
                f"method={settings.name} removes no whole blocks: spr and complexity do; "
                "set granularity=channel"
            )
        if self.needs_budget:
            self.budget_target()
        if self.target is not None and not task.resumed:
            # an unreachable budget is an error before training, not after
            check_reachable(self.task.cost, *self.target, task.budget)

    # ---- training -----------------------------------------------------------------------------

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own, or None for the configured SGD.

        Asked once, after the method was made. The learning rate is set before every step.
        """
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

    def survivors(self) -> BoolArray | None:
        """The groups left, (groups,) bool, if some are to be removed now, for good, else None.

        Asked after every :meth:`adapt`.
        """
        return None

    def follow(self, task: Task, kept: BoolArray) -> None:
        """Go on with a smaller network.

        Parameters
        ----------
        task : Task
            With the network that is left, its groups, numbered anew in the same order, and cost.
        kept : (groups,) bool array
            Of the groups before, those that are left.
        """
        raise NotImplementedError

    def detach(self) -> None:
        """Take what the method added to the network out of it again."""

    def scores(self) -> FloatArray:
        """How much every group is worth, (groups,), not negative: what :meth:`select` goes by."""
        raise NotImplementedError

    def select(self) -> BoolArray:
        """The groups to keep, (groups,) bool: by default the lowest scores of all layers go."""
        return self.within_budget(self.scores())

    def budget_target(self) -> tuple[str, float]:
        """Unit and share of the budget, which a method that asks for it cannot do without.

        Raises
        ------
        InputError
            Without a budget.
        """
        if self.target is None:
            raise InputError(
                f"method={self.settings.name} needs a budget: budget.macs=SHARE or "
                "budget.params=SHARE"
            )
        return self.target

    def within_budget(self, scores: FloatArray, dense: float | None = None) -> BoolArray:
        """The groups that stay if the lowest scores of all layers go until the budget is met.

        With ``budget.multiple`` or ``budget.floor``, to which a threshold cannot answer, the
        greatest sum of scores instead. The budget is a share of ``dense``, by default of the
        network as it is.
        """
        budget, cost, (unit, share) = self.task.budget, self.task.cost, self.budget_target()
        share *= 1 if dense is None else dense / cost.dense[unit]
        if budget.multiple > 1 or budget.floor > 0:
            limits: WidthOptions = {"multiple": budget.multiple, "floor": budget.floor}
            return allocate(cost, scores, unit, share, **limits)
        return lowest_removed(cost, scores, unit, share)

    # ---- records ------------------------------------------------------------------------------

    def log(self) -> dict[str, float]:
        """Numbers worth a line in the metrics, after every epoch; ``LOG`` says what they are."""
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
