"""Channels chosen by scores of a trained network's weights, without training.

The scores are those of the methods that train (:mod:`mipprune.methods`), asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from formulations.arrays import BoolArray
from formulations.errors import InputError
from mipprune.config.schema import BudgetConfig, OptimizerConfig
from mipprune.data.base import TEST_BATCH, Batch, Data
from mipprune.methods.base import Task
from mipprune.methods.registry import create, settings_of
from mipprune.methods.shared.scores import group_importance
from mipprune.structure.cost import Cost


class Images(Data):
    """Calibration images at hand, perhaps with labels, as the data set that a score asks.

    Parameters
    ----------
    images : (N, C, H, W) tensor
        As the network sees them.
    labels : (N,) int tensor, optional
    device : torch.device
        On which they are wanted.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor | None, device: torch.device
    ) -> None:
        channels = images.shape[1]
        classes = 0 if labels is None else 1 + int(labels.max())
        super().__init__(
            "images", classes, images.shape[1:], (0.0,) * channels, (1.0,) * channels, device
        )
        self.images, self.labels, self.train_size, self.test_size = images, labels, len(images), 0

    def examples(self, count: int, seed: int = 0) -> Batch:
        """See :meth:`mipprune.data.base.Data.examples`."""
        if self.labels is None:
            raise InputError("this score is of the loss: it needs the images' labels")
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(self.train_size, generator=generator)[:count]
        images, labels = self.images[index], self.labels[index]
        return images.to(self.device), labels.to(self.device)

    def train_batches(
        self, size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Nothing is trained on calibration images: there are none."""
        return iter(())

    def test_batches(
        self, size: int = TEST_BATCH, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Nothing is tested on calibration images: there are none."""
        return iter(())


def choose_by_scores(
    method: str, network: nn.Module, cost: Cost, data: Data, budget: BudgetConfig, seed: int
) -> BoolArray:
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
        *(network, cost.groups, cost, data, budget, OptimizerConfig.model_validate({})),
        granularity="channel",
        steps=0,
        batch=1,
        trained=True,
        seed=seed,
    )
    return _METHODS[method](task)


def _by_name(name: str, **settings: str) -> Callable[[Task], BoolArray]:
    return lambda task: create(settings_of(name).model_validate(settings), task).select()


def _filter_norm(p: int) -> Callable[[Task], BoolArray]:
    def select(task: Task) -> BoolArray:
        # slow to load, and nothing else here needs it
        from torch_pruning.pruner.importance import MagnitudeImportance  # noqa: PLC0415

        importance = MagnitudeImportance(p=p, group_reduction="first", normalizer="mean")
        scores = group_importance(task, importance)
        return create(settings_of("magnitude").model_validate({}), task).within_budget(scores)

    return select


_METHODS: dict[str, Callable[[Task], BoolArray]] = {
    "spr-score": _by_name("spr", weights="all"),
    "magnitude-l1": _filter_norm(1),
    "magnitude-l2": _filter_norm(2),
    "group-norm": _by_name("magnitude"),
    "taylor": _by_name("taylor"),
    "random": _by_name("random"),
}
