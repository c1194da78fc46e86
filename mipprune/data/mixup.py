"""Mixup: images and labels in pairs (Zhang, Cisse, Dauphin, Lopez-Paz 2018, arXiv 1710.09412).

x̃ = λ·x + (1 − λ)·x′ and ỹ = λ·y + (1 − λ)·y′ with λ ~ Beta(α, α), one λ for a batch as in the
authors' code. Their pairs are a random permutation of the batch; here they are neighbours, which
are as random (the batch is shuffled) and are the same whatever the number of processes, as long as
each has an even number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional as F

from mipprune.data.base import Batch, Draw, stream


def mixed(
    batches: Iterable[Batch], classes: int, alpha: float, seed: int, epoch: int, start: int = 0
) -> Iterator[Batch]:
    """An epoch's batches with mixup.

    Parameters
    ----------
    batches : iterable of (images, labels)
        Of :meth:`mipprune.data.base.Data.train_batches`.
    classes : int
    alpha : float
        Of the Beta distribution, above 0.
    seed, epoch, start : int
        Those of the batches: λ of a step follows from them.

    Yields
    ------
    images : (N, C, H, W) float
    targets : (N, classes) float32
        Probabilities, as torch's cross_entropy takes them.
    """
    for step, (images, labels) in enumerate(batches, start):
        share = float(stream(Draw.MIXUP, seed, epoch, step).beta(alpha, alpha))
        yield mix(images, labels, classes, share)


def mix(images: torch.Tensor, labels: torch.Tensor, classes: int, share: float) -> Batch:
    """Every image with its neighbour, 2k with 2k + 1: λ = ``share`` of its own. See :func:`mixed`.

    The last of an odd number stays as it is.
    """
    count = len(labels)
    partner = (torch.arange(count, device=labels.device) ^ 1).clamp_(max=count - 1)
    targets = F.one_hot(labels, classes).float()
    return (
        torch.lerp(images[partner], images, share),
        torch.lerp(targets[partner], targets, share),
    )
