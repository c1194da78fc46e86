"""What a network is worth and what it costs: accuracy, MACs, parameters, bytes, latency."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mipprune.data.registry import Data
from mipprune.distributed.ranks import Ranks
from mipprune.measures.latency import latency_ms
from mipprune.models.references.outputs import logits_of
from mipprune.runs.result import Measures
from mipprune.structure.cost import count_macs, count_params
from mipprune.structure.links import count_nonzero

_ALONE = Ranks()


@torch.inference_mode()
def accuracy(network: nn.Module, data: Data, ranks: Ranks = _ALONE) -> float:
    """Share of the test images classified correctly, in percent; every rank takes its part."""
    training = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    for images, labels in data.test_batches(rank=ranks.rank, world=ranks.world):
        correct += (predict(network, images) == labels).sum()
    network.train(training)
    return 100 * int(ranks.sum_(correct)) / data.test_size


def predict(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N,) int64: the class that a network says of each of the images (N, C, H, W)."""
    # with channels last a convolution takes two thirds of the time on a CPU
    return logits_of(network(images.contiguous(memory_format=torch.channels_last))).argmax(1)


def count(network: nn.Module, shape: Sequence[int], sparse: bool = False) -> dict[str, int]:
    """``macs`` and ``params`` of a network; of its weights other than zero if it is sparse.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of an input image.
    sparse : bool
    """
    if sparse:
        return count_nonzero(network, shape)
    return {"macs": count_macs(network, shape), "params": count_params(network)}


def measure(
    network: nn.Module, data: Data, file_bytes: int, sparse: bool = False, ranks: Ranks = _ALONE
) -> Measures:
    """Measure a network: accuracy (%), macs, params, bytes of the model file, latency_ms.

    Of a sparse network, MACs and parameters other than zero count; file and latency are those of
    its dense tensors.
    """
    size = count(network, data.shape, sparse)
    return {
        "accuracy": accuracy(network, data, ranks),
        "macs": size["macs"],
        "params": size["params"],
        "bytes": file_bytes,
        "latency_ms": latency_ms(network, data.shape),
    }
