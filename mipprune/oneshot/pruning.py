"""Pruning without training, the pipeline: calibrate, choose, remove, refit; and what comes of it.

Both ``mipprune prune`` and :func:`mipprune.oneshot.api.prune` are this.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save
from torch import nn

from formulations.arrays import BoolArray
from formulations.errors import InputError
from formulations.output import write_output
from mipprune.config.prune import PruneConfig
from mipprune.config.schema import BudgetConfig, DataConfig
from mipprune.data.base import Data
from mipprune.measures.latency import latency_ms
from mipprune.oneshot.calibration import batches_of
from mipprune.oneshot.certify import Certificate
from mipprune.oneshot.choose import ChoiceSettings, Chooser
from mipprune.oneshot.forward_order import Layer
from mipprune.oneshot.parallel import check_backend
from mipprune.oneshot.refit import LayerFit, refit, renew_statistics
from mipprune.oneshot.scores import choose_by_scores
from mipprune.oneshot.sites import find_candidates
from mipprune.runs import checkpoint
from mipprune.runs.files import intermediate, write_json
from mipprune.runs.layout import DENSE, PRUNED, RunLayout
from mipprune.structure.allocation import check_reachable
from mipprune.structure.removal import prune_groups, recalibrate

_FITTED = "refit-{}.safetensors"  # a layer's tensors
Report = Callable[[str], None]


def silent(line: str) -> None:
    """Nobody is told."""


# ---- what comes of it ---------------------------------------------------------------------------


class Change(NamedTuple):
    """A cost before and after."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """What is left of it."""
        return self.after / self.before


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen of the inputs of a layer, and what is proved of it.

    Attributes
    ----------
    layer : str
        The layer that reads them, or the first of several and how many there are besides.
    readers : tuple of str
        All of them.
    groups, kept : int
        Groups of inputs, and how many of them were kept.
    error, bound : float
        Error of the readers' outputs after their best refit, and what no choice of as many groups
        is below, as shares of the outputs' variance.
    gap : float
        Between the two, relative.
    nodes : int
        Of the branch and bound.
    seconds : float
    status : {"tree", "root", "trivial"}
        What the bound comes from: see :class:`mipprune.oneshot.certify.Certificate`.
    """

    layer: str
    readers: tuple[str, ...]
    groups: int
    kept: int
    error: float
    bound: float
    gap: float
    nodes: int
    seconds: float
    status: str

    def as_json(self) -> dict[str, Any]:
        """The row of ``result.json``, where the error is called ``objective``."""
        row = {"objective" if k == "error" else k: v for k, v in asdict(self).items()}
        return row | {"readers": list(self.readers)}


@dataclass(frozen=True)
class LayerRefit:
    """What the refit of a layer did.

    Attributes
    ----------
    layer : str
    ridge : float
        ρ as a share of G's mean diagonal: see :mod:`mipprune.oneshot.refit`.
    before, after : float
        Error of the layer's outputs on calibration rows, as a share of the targets' variance.
    """

    layer: str
    ridge: float
    before: float
    after: float


@dataclass
class PruneResult:
    """A network pruned without training, and the one that it was.

    Attributes
    ----------
    network, dense : nn.Module
        The pruned one, and the one given; in evaluation mode.
    removed : nn.Module
        The pruned one before its refit and before its BatchNorm statistics were renewed.
    kept : dict
        By the name of every prunable layer, which of its output channels are left.
    layers : dict
        By the same names, how many there were and how many are left.
    macs, params : Change
        For one image.
    settings : PruneConfig
        All that the result follows from, with the network and the images.
    shape : (channels, height, width)
        Of an image.
    choices : list of LayerChoice
        Of the exact method, by the layers that read what was chosen from.
    fits : list of LayerRefit
        In the order of the layers.
    seconds : float
    certificate : list of Certificate or None
        The rows of the last :func:`mipprune.oneshot.api.certify`.
    """

    network: nn.Module
    dense: nn.Module
    removed: nn.Module
    kept: dict[str, list[int]]
    layers: dict[str, tuple[int, int]]
    macs: Change
    params: Change
    settings: PruneConfig
    shape: tuple[int, ...]
    choices: list[LayerChoice]
    fits: list[LayerRefit]
    seconds: float
    certificate: list[Certificate] | None = None

    def as_json(self) -> dict[str, Any]:
        """What ``result.json`` says beside the two networks' measures."""
        unit, share = _target(self.settings.budget)
        return {
            "method": self.settings.method,
            "granularity": "channel",
            "seed": self.settings.seed,
            "seconds": self.seconds,
            "budget": {unit: share},
            "kept": {"macs": self.macs.share, "params": self.params.share},
            "device": str(next(self.network.parameters()).device),
            "layers": {name: list(sizes) for name, sizes in self.layers.items()},
            "channels": self.kept,
            "choices": [choice.as_json() for choice in self.choices],
            "fits": [asdict(fit) for fit in self.fits],
        }

    def save(self, folder: str | Path, data: Mapping[str, Any] | None = None) -> None:
        """Write a run folder.

        Of a network that :mod:`mipprune.models` has built: ``dense/`` and ``pruned/``, checkpoints,
        ``config.yaml``, ``result.json`` and, once it is certified, ``certificate.json``, which
        ``mipprune eval``, ``report`` and ``certify`` read. Accuracies are not in it, as nobody has
        measured any.

        Of any other network, ``pruned.safetensors``, the state dictionary, and ``result.json``, of
        which ``channels`` says what was kept: enough to build the smaller network again.

        Parameters
        ----------
        folder : str or Path
            Must not exist.
        data : mapping, optional
            The data set that the network was trained on, such as ``{"name": "digits"}``, for the
            commands that need images. Without it they are told by ``data=NAME``.

        Raises
        ------
        InputError
            If the folder exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder} exists: choose another folder")
        folder.mkdir(parents=True)
        layout = RunLayout(folder)
        found = {DENSE: self._measures(self.dense), PRUNED: self._measures(self.network)}
        if isinstance(getattr(self.dense, "architecture", None), dict):  # of mipprune.models
            config = self.settings.model_dump(mode="json") | {"source": None}
            source = DataConfig.model_validate(dict(data)).source() if data else {}
            write_output(layout.config, yaml.safe_dump(config, sort_keys=False).encode())
            for name, network in ((DENSE, self.dense), (PRUNED, self.network)):
                checkpoint.save(folder / name, network, data=source)
                found[name]["bytes"] = checkpoint.file_bytes(folder / name)
        else:
            state = {name: t.cpu().contiguous() for name, t in self.network.state_dict().items()}
            write_output(folder / "pruned.safetensors", save(state))
        result = {**found, "accuracy_removed": None, **self.as_json(), "folder": str(folder)}
        write_json(layout.result, result)
        if self.certificate is not None:
            rows = [row.as_json() for row in self.certificate]
            write_json(layout.certificate, {"layers": rows})

    def _measures(self, network: nn.Module) -> dict[str, Any]:
        """As :func:`mipprune.measures.network.measure`, but for the accuracy."""
        after = network is self.network
        return {
            "accuracy": None,
            "macs": self.macs.after if after else self.macs.before,
            "params": self.params.after if after else self.params.before,
            "bytes": None,
            "latency_ms": latency_ms(network, self.shape),
        }


# ---- the pipeline -------------------------------------------------------------------------------


class Pruning:
    """One pruning of a network: checked when it is made, done by :meth:`execute`.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode afterwards.
    shape : (channels, height, width)
        Of an image.
    config : PruneConfig

    Raises
    ------
    InputError
        If there is no budget, or none that can be reached, nothing to prune, or no such backend.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], config: PruneConfig) -> None:
        self.network, self.shape, self.config = network.eval(), shape, config
        self.unit, self.share = _target(config.budget)
        check_backend(config.parallel)
        self.groups, self.cost, self.order = find_candidates(
            network, shape, config.protect, config.candidates
        )
        check_reachable(self.cost, self.unit, self.share, config.budget)

    def execute(
        self, images: torch.Tensor, data: Data, state: Path, report: Report = silent
    ) -> PruneResult:
        """Choose, remove, refit.

        Parameters
        ----------
        images : (N, C, H, W) tensor
            For calibration.
        data : Data
            Whose examples the scores of gradients see.
        state : Path
            Folder in which what has been found out of a layer is written as soon as it is known:
            with the same folder, an interrupted call goes on from there.
        report : callable
            Told what is being done.
        """
        start = time.perf_counter()
        batches = batches_of(images)
        kept, choices = self._choose(batches, data, state, report)
        smaller = prune_groups(self.network, self.groups, kept).eval()
        removed = copy.deepcopy(smaller)
        fits = self._refit(smaller, kept, batches, state, report)
        left = self.groups.kept_per_layer(kept)
        return PruneResult(
            network=smaller,
            dense=self.network,
            removed=removed,
            kept={
                name: np.flatnonzero(np.append(kept, True)[group]).tolist()
                for name, group in self.groups.layers.items()
            },
            layers={name: (len(g), left[name]) for name, g in self.groups.layers.items()},
            macs=Change(self.cost.dense["macs"], self.cost.value(kept, "macs")),
            params=Change(self.cost.dense["params"], self.cost.value(kept, "params")),
            settings=self.config,
            shape=self.shape,
            choices=choices,
            fits=fits,
            seconds=time.perf_counter() - start,
        )

    def _choose(
        self, batches: Sequence[torch.Tensor], data: Data, state: Path, report: Report
    ) -> tuple[BoolArray, list[LayerChoice]]:
        """The (groups,) mask, and by site what is proved of it."""
        config = self.config
        if config.method != "exact":
            report(config.method)
            kept = choose_by_scores(
                *(config.method, self.network, self.cost, data),
                BudgetConfig(**{**config.budget.model_dump(), self.unit: self.share}),
                config.seed,
            )
            return self.groups.settle(kept), []
        settings = ChoiceSettings(
            **{name: getattr(config, name) for name in ChoiceSettings.__annotations__}
        )
        chooser = Chooser(self.network, self.order, self.cost, batches, settings, state, report)
        paths = chooser.paths()
        widths = chooser.widths(paths, self.unit, self.share, config.budget)
        choices = chooser.choices(paths, widths)
        rows = [
            LayerChoice(
                layer=site.name,
                readers=tuple(reader.layer.name for reader in site.readers),
                groups=len(site.groups),
                kept=int(choice.support.sum()),
                error=choice.objective / constant,
                bound=choice.bound / constant,
                gap=choice.gap,
                nodes=choice.nodes,
                seconds=choice.seconds,
                status=str(choice.status),
            )
            for site, choice, constant in zip(
                chooser.sites, choices, chooser.constants(), strict=True
            )
        ]
        return chooser.kept(choices), rows

    def _refit(
        self,
        smaller: nn.Module,
        kept: BoolArray,
        batches: Sequence[torch.Tensor],
        state: Path,
        report: Report,
    ) -> list[LayerRefit]:
        config = self.config
        if not config.refit:
            if config.recalibrate:
                device = next(smaller.parameters()).device
                recalibrate(smaller, (images.to(device) for images in batches))
            return []
        file = state / "refit.json"
        rows, done = list[LayerRefit](), {}

        if file.exists():
            with intermediate(file):
                rows = [LayerRefit(**row) for row in json.loads(file.read_text())]
                done = {row.layer: load_file(state / _FITTED.format(row.layer)) for row in rows}

        def note(layer: Layer, fit: LayerFit, tensors: dict[str, torch.Tensor]) -> None:
            report(f"{layer.name}: refit, error {fit.before:.4f} → {fit.after:.4f}")
            cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
            write_output(state / _FITTED.format(layer.name), save(cpu))
            rows.append(LayerRefit(layer.name, fit.ridge, fit.before, fit.after))
            write_json(file, [asdict(row) for row in rows])

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


def _target(budget: BudgetConfig) -> tuple[str, float]:
    """Unit and share of a budget."""
    target = budget.target()
    if target is None:
        raise InputError("prune needs a budget: budget.macs=SHARE or budget.params=SHARE")
    return target
