"""Pruning without training: calibrate, choose, remove, refit; its folder and its result.

    runs/NAME/  config.yaml · dense/ · pruned/ · state/ (while it runs) · result.json

What has been found out about a layer is written as soon as it is known, so that a stopped run goes
on from there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save
from torch import nn

from formulations.errors import InputError
from mipprune.config.prune import PruneConfig
from mipprune.config.schema import BudgetConfig
from mipprune.config.train import Config
from mipprune.data.registry import Data
from mipprune.measures.network import accuracy, measure
from mipprune.oneshot.calibration import Order, find_order
from mipprune.oneshot.choose import Chooser, Settings
from mipprune.oneshot.layer_problems import read_once
from mipprune.oneshot.parallel import check_backend
from mipprune.oneshot.refit import Fit, refit, renew_statistics
from mipprune.oneshot.scores import choose_by_scores
from mipprune.runs import checkpoint
from mipprune.runs.files import write_atomic, write_json
from mipprune.runs.layout import DENSE, PRUNED, RunLayout
from mipprune.runs.networks import open_checkpoint, open_weights
from mipprune.structure.allocation import check_reachable
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.removal import prune_groups, recalibrate
from mipprune.structure.scope import find_structure

# images of a forward pass
_BATCH = 50
# what may differ when a run is resumed: where and how fast, not what
_ELSEWHERE = {"device", "parallel", "jobs"}


def prune_checkpoint(
    folder: Path | None,
    config: PruneConfig,
    *,
    own_data: bool = True,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Prune a trained network to a budget; the content of ``result.json``.

    Parameters
    ----------
    folder : Path or None
        A run or checkpoint; None for the configured model with the weights of ``init``.
    config : PruneConfig
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
    trained_on = config.data.source()
    if folder is None:
        network, data = open_weights(config)
    else:
        network, data, trained_on, folder = open_checkpoint(folder, config, own_data)
    return _Run(network, data, folder, trained_on, config, resume, report).execute()


def finetune(result: dict[str, Any], config: PruneConfig, epochs: int) -> dict[str, Any]:
    """Train the pruned network of a result on, removing nothing more; the training's result."""
    from mipprune.training.run import train

    pruned = RunLayout(Path(result["folder"])).pruned
    data = checkpoint.load(pruned)[1]
    words = {
        "name": f"{Path(result['folder']).name}-finetuned",
        "runs": config.runs,
        "seed": config.seed,
        "device": config.device,
        "init": str(pruned),
        "recalibrate": 0,
        "data": {**data, "batch": config.data.batch},
        "method": {"name": "magnitude"},
        "budget": {"macs": 1.0},
        "regularize": {"epochs": 0},
        "finetune": {"epochs": epochs, "lr": 0.01},
    }
    return train(Config.model_validate(words))


def find_candidates(
    network: nn.Module, shape: tuple[int, ...], protect: Sequence[str], candidates: str
) -> tuple[Groups, Cost, Order]:
    """The groups to choose from, what the network costs for them, and its layers in order.

    Parameters
    ----------
    network : nn.Module
    shape : (channels, height, width)
        Of an image.
    protect : sequence of str
        As in :func:`mipprune.structure.scope.find_structure`.
    candidates : {"all", "inner"}
        As in :class:`mipprune.config.prune.PruneConfig`.

    Raises
    ------
    InputError
        If there is nothing to prune.
    """
    groups, cost = find_structure(network, shape, "channel", protect)
    if candidates == "inner":
        inner = read_once(groups)
        if not inner.any():
            raise InputError(
                "candidates=inner: the network has no prunable groups, each of its channels is "
                "read by several layers: set candidates=all"
            )
        groups = groups.restrict(inner)
        cost = Cost(network, groups, shape)
    return groups, cost, find_order(network, shape)


class _Run:
    def __init__(
        self,
        network: nn.Module,
        data: Data,
        source: Path | None,
        trained_on: dict[str, Any],
        config: PruneConfig,
        resume: bool,
        report: Callable[[str], None],
    ):
        self.network, self.data, self.config = network.eval(), data, config
        self.source, self.trained_on = source, trained_on
        self.resume, self.report = resume, report
        self.start = time.perf_counter()
        target = config.budget.target()
        if target is None:
            raise InputError("prune needs a budget: budget.macs=SHARE or budget.params=SHARE")
        self.unit, self.share = target
        check_backend(config.parallel)
        if config.images > data.train_size:
            raise InputError(
                f"images={config.images}: {data.name} has {data.train_size} training images"
            )
        self.groups, self.cost, self.order = find_candidates(
            network, data.shape, config.protect, config.candidates
        )
        check_reachable(self.cost, self.unit, self.share, config.budget)
        name = config.name or "-".join(
            [network.architecture["name"].replace(":", "-"), config.method,
             f"{self.unit}{self.share:g}"]
        )  # fmt: skip
        self.folder = Path(config.runs) / name
        self._check_folder()

    def _check_folder(self):
        if not self.folder.exists():
            if self.resume:
                raise InputError(f"{self.folder} does not exist: there is nothing to resume")
            return
        if not self.resume:
            raise InputError(
                f"{self.folder} exists: choose another name=NAME, or go on with it by --resume"
            )
        file = RunLayout(self.folder).config
        before = yaml.safe_load(file.read_text()) if file.exists() else None
        if before is not None and before != self._identity():
            raise InputError(f"{self.folder} was begun with other settings: see {file}")

    def _identity(self) -> dict[str, Any]:
        """The settings that make the result, and the network it starts from."""
        settings = self.config.model_dump(mode="json", exclude=_ELSEWHERE)
        return {**settings, "source": None if self.source is None else str(self.source)}

    def execute(self) -> dict[str, Any]:
        layout = RunLayout(self.folder)
        self.state = layout.state
        self.state.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(self._identity(), sort_keys=False)
        write_atomic(layout.config, text.encode())
        self.report("dense network")
        dense = measure(self.network, self.data, self._save(DENSE, self.network))
        images = self.data.sample(self.config.images, self.config.seed).cpu()
        batches = list(images.split(_BATCH))
        kept, layers = self._choose(batches)
        smaller = prune_groups(self.network, self.groups, kept).eval()
        removed = accuracy(smaller, self.data)
        fits = self._refit(smaller, kept, batches)
        pruned = measure(smaller, self.data, self._save(PRUNED, smaller))
        left = self.groups.kept_per_layer(kept)
        result = {
            "dense": dense,
            "pruned": pruned,
            "accuracy_removed": removed,
            "method": self.config.method,
            "granularity": "channel",
            "seed": self.config.seed,
            "seconds": time.perf_counter() - self.start,
            "budget": {self.unit: self.share},
            "kept": {unit: pruned[unit] / dense[unit] for unit in ("macs", "params")},
            "device": str(next(smaller.parameters()).device),
            "folder": str(self.folder),
            "layers": {name: [len(g), left[name]] for name, g in self.groups.layers.items()},
            "channels": {
                name: np.flatnonzero(np.append(kept, True)[group]).tolist()
                for name, group in self.groups.layers.items()
            },
            "choices": layers,
            "fits": fits,
        }
        write_json(layout.result, result)
        shutil.rmtree(self.state)
        return result

    def _choose(self, batches) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The (groups,) mask, and by site what is proved of it."""
        config = self.config
        if config.method != "exact":
            self.report(config.method)
            kept = choose_by_scores(
                *(config.method, self.network, self.cost, self.data),
                BudgetConfig(**{**config.budget.model_dump(), self.unit: self.share}),
                config.seed,
            )
            return self.groups.settle(kept), []
        settings = Settings(**{name: getattr(config, name) for name in Settings.__annotations__})
        chooser = Chooser(
            self.network, self.order, self.cost, batches, settings, self.state, self.report
        )
        paths = chooser.paths()
        widths = chooser.widths(paths, self.unit, self.share, config.budget)
        choices = chooser.choices(paths, widths)
        rows = [
            {
                "layer": site.name,
                "readers": [reader.layer.name for reader in site.readers],
                "groups": len(site.groups),
                "kept": int(choice.support.sum()),
                "objective": choice.objective / constant,
                "bound": choice.bound / constant,
                "gap": choice.gap,
                "nodes": choice.nodes,
                "seconds": choice.seconds,
            }
            for site, choice, constant in zip(
                chooser.sites, choices, chooser.constants(), strict=True
            )
        ]
        return chooser.kept(choices), rows

    def _refit(self, smaller: nn.Module, kept: np.ndarray, batches) -> list[dict[str, Any]]:
        config = self.config
        if not config.refit:
            if config.recalibrate:
                device = next(smaller.parameters()).device
                recalibrate(smaller, (images.to(device) for images in batches))
            return []
        file = self.state / "refit.json"
        rows = yaml.safe_load(file.read_text()) if file.exists() else []
        done = {row["layer"]: load_file(self._tensors(row["layer"])) for row in rows}

        def note(layer, fit: Fit, tensors: dict[str, torch.Tensor]) -> None:
            self.report(f"{layer.name}: refit, error {fit.before:.4f} → {fit.after:.4f}")
            cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
            write_atomic(self._tensors(layer.name), save(cpu))
            rows.append(
                {"layer": layer.name, "ridge": fit.ridge, "before": fit.before, "after": fit.after}
            )
            write_json(file, rows)

        refit(
            *(self.network, smaller, self.groups, kept, batches),
            positions=config.positions,
            seed=config.seed,
            done=done,
            report=note,
        )
        if config.recalibrate:
            renew_statistics(smaller, batches)
        return rows

    def _tensors(self, layer: str) -> Path:
        return self.state / f"refit-{layer}.safetensors"

    def _save(self, name: str, network: nn.Module) -> int:
        checkpoint.save(self.folder / name, network, data=self.trained_on)
        return checkpoint.file_bytes(self.folder / name)
