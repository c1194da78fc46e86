"""Train and prune, or only train on: what begins a run, or goes on with one.

The phases that it goes through are in :mod:`mipprune.training.phases`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipprune.config.overrides import as_config
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config, named
from mipprune.distributed.ranks import join_ranks
from mipprune.runs import checkpoint
from mipprune.runs.folder import RunFolder
from mipprune.runs.result import TrainResult
from mipprune.training.phases import NO_HOOKS, Hooks, Run

__all__ = ["Hooks", "finetune", "train"]


def train(
    config: Config | Mapping[str, Any] | str,
    resume: bool = False,
    hooks: Hooks = NO_HOOKS,
    **settings: Any,
) -> TrainResult:
    """Train and prune as configured; the content of ``result.json``.

    Parameters
    ----------
    config : Config, mapping or str
        The settings of a run, as a recipe has them, or the name or file of a recipe.
    resume : bool
        Go on with the run of this name from its last checkpoint. Processes that torchrun starts
        anew after a failure do so by themselves.
    hooks : Hooks, optional
    **settings
        In place of those of the recipe or the mapping, sections as mappings:
        ``train("digits-spr", name="half", budget={"macs": 0.5})``.

    Raises
    ------
    InputError
        For every wrong input, before anything is written.
    Interrupted
        After SIGTERM or SIGINT, with the run saved where it was.
    RuntimeError
        If training diverges, or the disk is full; the run's last checkpoint is intact.
    """
    if isinstance(config, str):
        config = named(as_config(Config, read_recipe(config), settings), config)
    else:
        config = as_config(Config, config, settings)
    ranks = join_ranks(config.device)
    folder = RunFolder(config, ranks)
    with folder.lock:
        resume = folder.claim(resume)
        return Run(config, folder, ranks, resume, hooks).execute()


def finetune(
    network: Path,
    epochs: int,
    *,
    name: str,
    runs: str = "runs",
    seed: int = 0,
    device: str = "auto",
    batch: int = 128,
    lr: float = 0.01,
) -> TrainResult:
    """Train a checkpoint's network on as it is, a run of its own: nothing is pruned.

    The result says so by method ``none``; its ``dense`` is the network before, its ``pruned`` the
    network after.

    Parameters
    ----------
    network : Path
        A checkpoint that names the data that it was trained on.
    epochs : int
    name, runs : str
        Of the run, and of the folder in which its folder is made.
    seed : int
    device : str
    batch : int
        Images of a step.
    lr : float
        Learning rate at the start; it falls by a cosine.

    Raises
    ------
    InputError, Interrupted, RuntimeError
        As :func:`train`.
    """
    _, data = checkpoint.load(network)
    settings = {
        "name": name,
        "runs": runs,
        "seed": seed,
        "device": device,
        "init": str(network),
        "recalibrate": 0,
        "data": {**data, "batch": batch},
        "method": {"name": "none"},
        "regularize": {"epochs": 0},
        "finetune": {"epochs": epochs, "lr": lr},
    }
    return train(settings)
