"""``mipprune prune``: from a checkpoint to a run's folder.

    runs/NAME/  config.yaml · dense/ · pruned/ · state/ (while it runs) · result.json

What has been found out about a layer is written as soon as it is known, so that a stopped run goes
on from there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from torch import nn

from formulations.errors import InputError
from formulations.output import write_output
from mipprune.config.overrides import as_config
from mipprune.config.prune import PruneConfig
from mipprune.config.recipes import read_recipe
from mipprune.config.words import folder_name
from mipprune.data.registry import Data
from mipprune.measures.network import accuracy, measure
from mipprune.models.registry import describe
from mipprune.oneshot.pruning import Pruning
from mipprune.runs import checkpoint
from mipprune.runs.files import write_json
from mipprune.runs.folder import begin, check_same
from mipprune.runs.layout import DENSE, PRUNED, RunLayout
from mipprune.runs.lock import FolderLock
from mipprune.runs.networks import open_checkpoint, open_weights
from mipprune.runs.result import PruneRunResult, TrainResult
from mipprune.training.run import finetune as train_on

# what may differ when a run is resumed: where and how fast, not what
_ELSEWHERE = {"device", "parallel", "jobs"}


def prune_checkpoint(
    folder: Path | None,
    config: PruneConfig | Mapping[str, Any],
    *,
    own_data: bool = True,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> PruneRunResult:
    """Prune a trained network to a budget; the content of ``result.json``.

    Parameters
    ----------
    folder : Path or None
        A run or checkpoint; None for the configured model with the weights of ``init``.
    config : PruneConfig or mapping
    own_data : bool
        Whether a checkpoint's own data set is meant.
    resume : bool
        Go on with the run of this name.
    report : callable
        Told what is being done, layer by layer.

    Raises
    ------
    InputError
        For every wrong input, before anything is written.
    """
    config = as_config(PruneConfig, config, {})
    trained_on = config.data.source()
    if folder is None:
        network, data = open_weights(config)
    else:
        network, data, trained_on, folder = open_checkpoint(folder, config, own_data)
    run = _Run(network, data, folder, trained_on, config, resume)
    with run.lock:
        return run.execute(report)


class _Run:
    """A :class:`Pruning` with a folder: where the network came from, what it is measured to be."""

    def __init__(
        self,
        network: nn.Module,
        data: Data,
        source: Path | None,
        trained_on: dict[str, Any],
        config: PruneConfig,
        resume: bool,
    ) -> None:
        self.data, self.config, self.resume = data, config, resume
        self.source, self.trained_on = source, trained_on
        self.start = time.perf_counter()
        for key, tensor in network.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{key} holds numbers that are not finite: train the network anew")
        self.pruning = Pruning(network, data.shape, config)
        if config.images > data.train_size:
            raise InputError(
                f"images={config.images}: {data.name} has {data.train_size} training images"
            )
        name = config.name or "-".join(
            [
                folder_name(describe(network)["name"]),
                config.method,
                f"{self.pruning.unit}{self.pruning.share:g}",
            ]
        )
        self.folder = Path(config.runs) / name
        self.layout = RunLayout(self.folder)
        self.lock = FolderLock(self.folder)

    def _claim(self, now: Mapping[str, Any]) -> None:
        """Begin the folder, or go on with it after checking that it may be.

        Older versions had other settings: what they did not know was what its default is.
        """
        if not self.resume:
            begin(self.folder, self.lock)
            return
        if not self.folder.exists():
            raise InputError(f"{self.folder} does not exist: there is nothing to resume")
        self.lock.take()
        if self.layout.config.exists():
            began = read_recipe(str(self.layout.config))
            defaults = PruneConfig.model_validate({}).model_dump(mode="json")
            check_same(self.folder, began, now, defaults)
        elif self.layout.dense.exists():
            raise InputError(
                f"{self.layout.config} is missing: restore it, or choose another name=NAME"
            )

    def _identity(self) -> dict[str, Any]:
        """The settings that make the result, and what it starts from."""
        settings = self.config.model_dump(mode="json", exclude=_ELSEWHERE)
        return {
            **settings,
            "source": None if self.source is None else str(self.source),
            "contents": {
                "network": checkpoint.digest(self.pruning.network),
                "images": self.data.digest(),
            },
        }

    def execute(self, report: Callable[[str], None]) -> PruneRunResult:
        """All of it; the content of ``result.json``."""
        identity, state = self._identity(), self.layout.state
        self._claim(identity)
        state.mkdir(exist_ok=True)
        text = yaml.safe_dump(identity, sort_keys=False)
        write_output(self.layout.config, text.encode())
        report("dense network")
        network = self.pruning.network
        dense = measure(network, self.data, self._save(DENSE, network))
        images = self.data.sample(self.config.images, self.config.seed)
        pruned = self.pruning.execute(images, self.data, state, report)
        found = {
            "dense": dense,
            "pruned": measure(pruned.network, self.data, self._save(PRUNED, pruned.network)),
            "accuracy_removed": accuracy(pruned.removed, self.data),
            **pruned.as_json(),
            "seconds": time.perf_counter() - self.start,
            "folder": str(self.folder),
        }
        result = cast(PruneRunResult, found)
        write_json(self.layout.result, result)
        shutil.rmtree(state)
        return result

    def _save(self, name: str, network: nn.Module) -> int:
        checkpoint.save(self.folder / name, network, data=self.trained_on)
        return checkpoint.file_bytes(self.folder / name)


def finetune(result: PruneRunResult, config: PruneConfig, epochs: int) -> TrainResult:
    """Train the pruned network of a result on, removing nothing more; the training's result.

    Parameters
    ----------
    result : PruneRunResult
    config : PruneConfig
        That it came from: seed, device, images of a batch.
    epochs : int
    """
    folder = Path(result["folder"])
    return train_on(
        RunLayout(folder).pruned,
        epochs,
        name=f"{folder.name}-finetuned",
        runs=config.runs,
        seed=config.seed,
        device=config.device,
        batch=config.data.batch,
    )
