"""What a network is worth and what it costs: accuracy, MACs, parameters, bytes, latency."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipprune.analysis.latency import milliseconds
from mipprune.config.schema import EvalConfig
from mipprune.data.registry import Data, load
from mipprune.distributed.ranks import Ranks
from mipprune.runs import checkpoint
from mipprune.runs.networks import check_fits, make_network, pick_device
from mipprune.structure.cost import count_macs, count_params
from mipprune.structure.links import count_nonzero

LATENCY_BATCH = 64
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
    return network(images.contiguous(memory_format=torch.channels_last)).argmax(1)


@torch.inference_mode()
def latency_ms(network: nn.Module, shape: Sequence[int]) -> float:
    """Median milliseconds of a forward pass of a batch of ``LATENCY_BATCH`` images."""
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


def count(network: nn.Module, shape: Sequence[int], sparse: bool = False) -> dict[str, int]:
    """``macs`` and ``params`` of a network; of its weights other than zero if it is sparse."""
    if sparse:
        return count_nonzero(network, shape)
    return {"macs": count_macs(network, shape), "params": count_params(network)}


def measure(
    network: nn.Module, data: Data, file_bytes: int, sparse: bool = False, ranks: Ranks = _ALONE
) -> dict[str, Any]:
    """accuracy (%), macs, params, bytes (of the model file), latency_ms of a network.

    Of a sparse network, MACs and parameters other than zero count; file and latency are those of
    its dense tensors.
    """
    return {
        "accuracy": accuracy(network, data, ranks),
        **count(network, data.shape, sparse),
        "bytes": file_bytes,
        "latency_ms": latency_ms(network, data.shape),
    }


def open_weights(config: EvalConfig) -> tuple[nn.Module, Data]:
    """The configured model with the weights of ``init``, and its data, on the device."""
    device = pick_device(config.device)
    data = load(**config.data.source(), device=device)
    return make_network(config, data).to(device), data


def open_checkpoint(
    folder: Path, config: EvalConfig, own_data: bool
) -> tuple[nn.Module, Data, Path]:
    """A checkpoint's network and the data it was trained on, on the device, and its own folder.

    Parameters
    ----------
    folder : Path
        A run (its ``pruned`` checkpoint, or else ``last``) or a checkpoint.
    config : EvalConfig
        Device; data if not ``own_data``.
    """
    folder = checkpoint.find(folder, "pruned", "last")
    device = pick_device(config.device)
    network, trained_on = checkpoint.load(folder)
    source = trained_on if own_data else config.data.source()
    data = load(**source, device=device)
    check_fits(folder, network, data)
    return network.to(device), data, folder


def evaluate_weights(config: EvalConfig) -> dict[str, Any]:
    """Measures of the configured model with the weights of ``init``."""
    network, data = open_weights(config)
    path = Path(config.init)
    path = path / "model.safetensors" if path.is_dir() else path
    return measure(network, data, path.stat().st_size)


def evaluate_checkpoint(folder: Path, config: EvalConfig, own_data: bool) -> dict[str, Any]:
    """Measures of a checkpoint, or of a run's pruned network: see :func:`open_checkpoint`."""
    network, data, folder = open_checkpoint(folder, config, own_data)
    size = (folder / "model.safetensors").stat().st_size
    return measure(network, data, size, checkpoint.sparsity(folder) is not None)
