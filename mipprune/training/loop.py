"""The training loop: one epoch, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from formulations.arrays import BoolArray
from mipprune.config.schema import PhaseConfig
from mipprune.data.mixup import mixed
from mipprune.data.registry import Data
from mipprune.distributed.ranks import Ranks
from mipprune.methods.base import ADAPTATIONS, Method
from mipprune.structure.links import Masks
from mipprune.training.backward import Passes
from mipprune.training.ema import Average


def learning_rate(phase: PhaseConfig, step: int, total: int) -> float:
    """Learning rate of a step in a phase.

    Parameters
    ----------
    phase : PhaseConfig
    step, total : int
        The step's number, from 0, and how many the phase has.
    """
    if step < phase.warmup:
        return phase.lr * (step + 1) / phase.warmup
    done = step / max(1, total)
    if phase.schedule == "cosine":
        return phase.lr * 0.5 * (1 + math.cos(math.pi * done))
    if phase.schedule == "step":
        return phase.lr * 0.1 ** sum(done >= milestone for milestone in phase.milestones)
    return phase.lr


class Subject:
    """What is trained. A method may replace network and optimizer by smaller ones on the way.

    Parameters
    ----------
    network : nn.Module
    optimizer : torch.optim.Optimizer
    passes : Passes
        How gradients are come by.
    method : Method, optional
        Of the regularize phase.
    masks : Masks, optional
        Zeros that stay zeros.
    average : Average, optional
        Running mean of the weights.
    remove : callable, optional
        Called with the (groups,) mask of kept groups when the method gives some up for good.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        passes: Passes,
        *,
        method: Method[Any] | None = None,
        masks: Masks | None = None,
        average: Average | None = None,
        remove: Callable[[BoolArray], None] | None = None,
    ) -> None:
        self.optimizer, self._passes = optimizer, passes
        self.method, self.masks, self.average, self._remove = method, masks, average, remove
        self.replace(network)

    def replace(self, network: nn.Module) -> None:
        """Go on with another network, whose weights the optimizer has."""
        self.network, method = network, self.method
        gated = method is not None and method.changes_forward
        self.gradients = self._passes.of(network, method.before_pass if method and gated else None)

    def step(self, images: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """One training step; the mean loss of the images, before it.

        Parameters
        ----------
        images, labels : Tensor
            This rank's part of the batch, as for :meth:`Backward.__call__`.
        lr : float
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.method:
            self.method.before_step()
        loss = self.gradients(images, labels)
        if self.method:
            self.method.after_backward()
        self.optimizer.step()
        if self.masks:
            self.masks.apply_()
        if self.method:
            self.method.after_step(lr)
        return loss

    def adapt(self, times: int) -> None:
        """Let the method adapt itself so many times, and remove what it gives up for good."""
        if self.method is None or times == 0:
            return
        for _ in range(times):
            self.method.adapt()
        kept = self.method.survivors()
        if kept is not None and self._remove is not None:
            self._remove(kept)


@dataclass(frozen=True)
class Place:
    """How far a run has come.

    Attributes
    ----------
    phase : str
    epoch, step : int
        Complete epochs of the phase; steps in the present one.
    loss : float or Tensor
        Sum over the steps of the present epoch, of this rank's images.
    """

    phase: str
    epoch: int = 0
    step: int = 0
    loss: float | torch.Tensor = 0.0


def train_epoch(
    subject: Subject,
    data: Data,
    phase: PhaseConfig,
    place: Place,
    *,
    batch: int,
    mixup: float,
    seed: int,
    ranks: Ranks,
    watch: Callable[[Place, Subject], None],
) -> Place:
    """The rest of an epoch, shorter if the method is done; the place at its end.

    The order and the augmentation of an epoch follow from (seed, epoch) alone, so that a resumed
    run sees the same images.

    Parameters
    ----------
    subject : Subject
    data : Data
    phase : PhaseConfig
    place : Place
        Where to begin.
    batch : int
        Images of a step, of all ranks together.
    mixup : float
        Of :func:`mipprune.data.mixup.mixed`; 0: images are not mixed.
    seed : int
    ranks : Ranks
    watch : callable
        Told of the place after every step; may raise to stop.
    """
    steps, method = data.steps(batch), subject.method
    total = steps * phase.epochs
    subject.network.train()
    batches = data.train_batches(
        batch, seed, place.epoch, start=place.step, rank=ranks.rank, world=ranks.world
    )
    if mixup:
        batches = mixed(batches, data.classes, mixup, seed, place.epoch, place.step)
    for images, labels in batches:
        step = place.epoch * steps + place.step
        loss = subject.step(images, labels, learning_rate(phase, step, total))
        subject.adapt((step + 1) * ADAPTATIONS // total - step * ADAPTATIONS // total)
        if subject.average:
            subject.average.update()
        place = replace(place, step=place.step + 1, loss=place.loss + loss)
        if method and method.done:
            break  # before a checkpoint in mid-epoch: the epoch ends here
        watch(place, subject)
    return place
