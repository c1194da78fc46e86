"""What a network is worth and what it costs: accuracy, MACs, parameters, bytes, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mipprune.cost import count_macs, count_params
from mipprune.data import Data

LATENCY_BATCH = 64
_WARM_UP, _TIMED = 5, 30


@torch.inference_mode()
def accuracy(network: nn.Module, data: Data) -> float:
    """Share of the test images classified correctly, in percent."""
    training = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.test.labels.device)
    for images, labels in data.test_batches():
        correct += (network(images).argmax(1) == labels).sum()
    network.train(training)
    return 100 * int(correct) / len(data.test)


@torch.inference_mode()
def latency_ms(network: nn.Module, shape: Sequence[int]) -> float:
    """Median milliseconds of a forward pass of a batch of ``LATENCY_BATCH`` images."""
    device = next(network.parameters()).device
    images = torch.zeros(LATENCY_BATCH, *shape, device=device)
    training = network.training
    network.eval()
    seconds = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.perf_counter()
        network(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    network.train(training)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def measure(network: nn.Module, data: Data, file_bytes: int) -> dict[str, Any]:
    """accuracy (%), macs, params, bytes (of the model file), latency_ms of a network."""
    return {
        "accuracy": accuracy(network, data),
        "macs": count_macs(network, data.shape),
        "params": count_params(network),
        "bytes": file_bytes,
        "latency_ms": latency_ms(network, data.shape),
    }
