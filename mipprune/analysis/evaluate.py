"""The measures of a configured model or a checkpoint: the command ``mipprune eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mipprune.config.evaluate import EvalConfig
from mipprune.measures.network import measure
from mipprune.runs import checkpoint
from mipprune.runs.networks import open_checkpoint, open_weights


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
