"""How long a call takes: warmed up, several calls in turns, every sample kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from mipprune.runs.result import LATENCY_BATCH

WARM_UP, TIMED = 5, 30
_ROUNDS = 5

Name = TypeVar("Name", bound=Hashable)


def milliseconds(
    calls: Mapping[Name, Callable[[], object]], timed: int = TIMED
) -> dict[Name, list[float]]:
    """Wall-clock times of calls, in milliseconds.

    Each call is warmed up by ``WARM_UP`` calls. Then they take turns in rounds, so that a machine
    that slows down slows all of them down; a turn begins with a call that is not counted, since the
    caches hold what the others left.

    Parameters
    ----------
    calls : mapping of name to callable
        Each must return only when its work is done.
    timed : int
        Samples of each call, at least 1.

    Returns
    -------
    dict
        ``timed`` samples by name.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(_ROUNDS):
        for name, call in calls.items():
            call()
            for _ in range(turn, timed, _ROUNDS):
                start = time.perf_counter()
                call()
                samples[name].append(1000 * (time.perf_counter() - start))
    return samples


@torch.inference_mode()
def latency_ms(network: nn.Module, shape: Sequence[int]) -> float:
    """Median milliseconds of a forward pass of a batch of ``LATENCY_BATCH`` images.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of an image.
    """
    device = next(network.parameters()).device
    images = torch.zeros(LATENCY_BATCH, *shape, device=device)
    training = network.training
    network.eval()

    def forward() -> None:
        network(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    (samples,) = milliseconds({"": forward}).values()
    network.train(training)
    return statistics.median(samples)
