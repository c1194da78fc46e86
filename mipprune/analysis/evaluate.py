"""The measures of a configured model or a checkpoint: the command ``mipprune eval``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from formulations.errors import InputError
from mipprune.config.evaluate import EvalConfig
from mipprune.config.overrides import as_config
from mipprune.measures.network import measure
from mipprune.runs import checkpoint
from mipprune.runs.networks import open_checkpoint, open_weights
from mipprune.runs.result import Measures


def evaluate_weights(config: EvalConfig) -> Measures:
    """Measures of the configured model with the weights of ``init``, or those it begins with.

    Raises
    ------
    InputError
        If there are no weights, or they do not fit the model.
    """
    if not config.init and not config.model.may_be_trained():
        raise InputError("give the weights to measure: init=FILE")
    network, data = open_weights(config)
    if config.init:
        path = Path(config.init)
        size = checkpoint.file_bytes(path) if path.is_dir() else path.stat().st_size
    else:
        size = checkpoint.weights_bytes(network)
    return measure(network, data, size)


def evaluate_checkpoint(
    folder: str | Path,
    config: EvalConfig | Mapping[str, Any] | None = None,
    own_data: bool = True,
    **settings: Any,
) -> Measures:
    """Measures of a checkpoint, or of a run's pruned network: see :func:`open_checkpoint`.

    Parameters
    ----------
    folder : str or Path
    config : EvalConfig or mapping, optional
        Device; data if not ``own_data``; ``model``, where the file is now that makes the network.
    own_data : bool
        Whether the data set that the network was trained on is meant.
    **settings
        In place of those of ``config``: ``device="cpu"``.
    """
    opened = open_checkpoint(Path(folder), as_config(EvalConfig, config, settings), own_data)
    sparse = checkpoint.sparsity(opened.folder) is not None
    return measure(opened.network, opened.data, checkpoint.file_bytes(opened.folder), sparse)
