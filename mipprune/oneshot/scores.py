"""Channels chosen by scores of a trained network's weights, without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from mipprune.config.schema import BudgetConfig, OptimizerConfig
from mipprune.data.registry import Data
from mipprune.methods.registry import Task, create, settings_of
from mipprune.methods.shared.scores import group_importance
from mipprune.structure.cost import Cost


def choose_by_scores(
    method: str, network: nn.Module, cost: Cost, data: Data, budget: BudgetConfig, seed: int
) -> np.ndarray:
    """The groups that a score keeps within a budget, (groups,) bool.

    Parameters
    ----------
    method : str
        ``spr-score``: most worth c·y* by the budget's mixed-integer program. All others: the lowest
        scores of all layers go. ``magnitude-l1``, ``magnitude-l2``: norm of a channel's filter
        relative to its layer's mean (Li et al. 2017); ``group-norm``: of everything coupled to it
        (Fang et al. 2023); ``taylor``: |Σ w·∂L/∂w| (Molchanov et al. 2019); ``random``.
    network : nn.Module
    cost : Cost
        With the groups to choose from.
    data : Data
        For the gradients of ``taylor``.
    budget : BudgetConfig
    seed : int
        Of the images of ``taylor`` and of ``random``.
    """
    task = Task(
        *(network, cost.groups, cost, data, budget, OptimizerConfig()),
        granularity="channel",
        steps=0,
        batch=1,
        trained=True,
        seed=seed,
    )
    return _METHODS[method](task)


def _by_name(name: str, **settings) -> Callable[[Task], np.ndarray]:
    return lambda task: create(settings_of(name)(**settings), task).select()


def _filter_norm(p: int) -> Callable[[Task], np.ndarray]:
    def select(task: Task) -> np.ndarray:
        from torch_pruning.pruner.importance import MagnitudeImportance

        importance = MagnitudeImportance(p=p, group_reduction="first", normalizer="mean")
        scores = group_importance(task, importance)
        return create(settings_of("magnitude")(), task).within_budget(scores)

    return select


_METHODS: dict[str, Callable[[Task], np.ndarray]] = {
    "spr-score": _by_name("spr", weights="all"),
    "magnitude-l1": _filter_norm(1),
    "magnitude-l2": _filter_norm(2),
    "group-norm": _by_name("magnitude"),
    "taylor": _by_name("taylor"),
    "random": _by_name("random"),
}
