"""Importance scores of groups: torch-pruning's (Fang et al. 2023, arXiv 2301.12900) on ours.

torch-pruning scores the coupled channels of one layer at a time; a group of ours may appear in
several such sets (a stage of a residual network once for every layer that writes to it) and gets
the mean. Single weights are scored as in the papers that introduced each score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from formulations.arrays import FloatArray
from formulations.errors import InputError
from mipprune.methods.base import Task
from mipprune.models.references.outputs import logits_of
from mipprune.structure.tracing import coupled_layers


def group_importance(task: Task, importance: Any) -> FloatArray:
    """Scores of every group by one of ``torch_pruning.importance``'s classes, (groups,).

    Parameters
    ----------
    task : Task
        Of granularity channel, neuron or block.
    importance : torch_pruning.importance.Importance
        Weight gradients, which the Taylor score needs, are those of the network.
    """
    total, seen = np.zeros(task.groups.count), np.zeros(task.groups.count)
    for name, group in coupled_layers(task.network, task.data.shape):
        owner = task.groups.layers.get(name)
        if owner is None or (values := importance(group)) is None:
            continue
        indices = np.asarray(group[0].idxs)
        owner = owner[indices]
        inside = owner >= 0
        np.add.at(total, owner[inside], values.detach().double().numpy()[inside])
        np.add.at(seen, owner[inside], 1)
    if not seen.all():
        raise InputError(f"{type(importance).__name__} has no score for {(seen == 0).sum()} groups")
    return total / seen


def link_values(task: Task, value: Callable[[torch.Tensor], torch.Tensor]) -> FloatArray:
    """``value(weight)`` of every single weight, (groups,), a tensor of the weight's shape."""
    parameters = task.parameters
    parts = [value(parameters[m.tensor]).detach().flatten() for m in task.groups.members]
    return torch.cat(parts).double().cpu().numpy()


def fill_gradients(task: Task, images: int) -> None:
    """Set every parameter's ``grad`` to that of the mean loss over training images.

    In evaluation mode and without augmentation, so that the score belongs to the network as it is.
    """
    network, data = task.network, task.data
    training = network.training
    network.eval()
    network.zero_grad(set_to_none=True)
    inputs, labels = data.examples(images, task.seed)
    for x, y in zip(inputs.split(256), labels.split(256), strict=True):
        loss = F.cross_entropy(logits_of(network(x)), y, reduction="sum") / len(labels)
        loss.backward()
    network.train(training)
