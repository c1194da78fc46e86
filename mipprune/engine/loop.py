"""The training loop: one epoch, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.config import PhaseConfig
from mipprune.data import Data
from mipprune.links import Masks
from mipprune.methods.base import ADAPTATIONS, Method


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


@dataclass
class Subject:
    """What is trained. A method may replace network and optimizer by smaller ones on the way.

    Attributes
    ----------
    network : nn.Module
    optimizer : torch.optim.Optimizer
    method : Method or None
        Of the regularize phase.
    masks : Masks or None
        Zeros that stay zeros.
    remove : callable or None
        Called with the (groups,) mask of kept groups when the method gives some up for good.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method | None = None
    masks: Masks | None = None
    remove: Callable[[np.ndarray], None] | None = None


def train_epoch(
    subject: Subject,
    data: Data,
    phase: PhaseConfig,
    epoch: int,
    *,
    batch: int,
    seed: int,
    label_smoothing: float,
    precision: str,
    advance: Callable[[], None],
) -> float:
    """One pass over the training images, shorter if the method is done; the mean loss.

    The order and the augmentation of an epoch follow from (seed, epoch) alone, so that a resumed
    run sees the same images.

    Raises
    ------
    InputError
        If the loss is not finite: training has diverged.
    """
    steps = data.steps(batch)
    total = steps * phase.epochs
    losses = torch.zeros((), device=data.device)
    method = subject.method
    subject.network.train()
    for index, (images, labels) in enumerate(data.train_batches(batch, seed, epoch)):
        step = epoch * steps + index
        lr = learning_rate(phase, step, total)
        for group in subject.optimizer.param_groups:
            group["lr"] = lr
        if method:
            method.before_step()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = subject.network(images)
        loss = F.cross_entropy(output.float(), labels, label_smoothing=label_smoothing)
        subject.optimizer.zero_grad(set_to_none=True)
        loss.backward()
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
        losses += loss.detach()
        advance()
        if method and method.done:
            break
    mean = float(losses) / (index + 1)
    if not math.isfinite(mean):
        raise InputError(
            f"training diverged in epoch {epoch + 1} (loss {mean}): "
            f"lower the learning rate ({phase.lr:g}) or the method's strength"
        )
    return mean
