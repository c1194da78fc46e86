"""The training loop: one epoch, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mipprune.config.schema import PhaseConfig
from mipprune.data.mixup import mixed
from mipprune.data.registry import Data
from mipprune.distributed.ranks import Ranks
from mipprune.methods.base import ADAPTATIONS, Method
from mipprune.structure.links import Masks
from mipprune.training.backward import Passes
from mipprune.training.ema import Average


def learning_rate(phase: PhaseConfig, step: int, total: int) -> float:
    """Learning rate of a step (from 0) out of ``total`` in a phase."""
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
        method: Method | None = None,
        masks: Masks | None = None,
        average: Average | None = None,
        remove: Callable[[np.ndarray], None] | None = None,
    ):
        self.optimizer, self._passes = optimizer, passes
        self.method, self.masks, self.average, self.remove = method, masks, average, remove
        self.replace(network)

    def replace(self, network: nn.Module) -> None:
        """Go on with another network, whose weights the optimizer has."""
        self.network = network
        gated = self.method is not None and self.method.changes_forward
        self.gradients = self._passes.of(network, self.method.before_pass if gated else None)


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
    run sees the same images. ``watch`` is called after every step, and may raise to stop.
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
        lr = learning_rate(phase, step, total)
        for group in subject.optimizer.param_groups:
            group["lr"] = lr
        if method:
            method.before_step()
        loss = subject.gradients(images, labels)
        if method:
            method.after_backward()
        subject.optimizer.step()
        if subject.masks:
            subject.masks.apply_()
        if method:
            method.after_step(lr)
            adaptations = (step + 1) * ADAPTATIONS // total - step * ADAPTATIONS // total
            for _ in range(adaptations):
                method.adapt()
            kept = method.survivors() if adaptations else None
            if kept is not None:
                subject.remove(kept)
        if subject.average:
            subject.average.update()
        place = replace(place, step=place.step + 1, loss=place.loss + loss)
        if method and method.done:
            break  # before a checkpoint in mid-epoch: the epoch ends here
        watch(place, subject)
    return place
