"""A run: regularize, remove, fine-tune; its folder, its checkpoints, its result.

    runs/NAME/  config.yaml · metrics.jsonl · tensorboard/ · dense/ · last/ · pruned/ · result.json

``dense/`` and ``pruned/`` are checkpoints of the two networks that the result compares; ``last/``
is the newest state with optimizer and counters, from which a stopped run goes on. There is no
"best": without validation images it would be chosen on the test images.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from formulations.errors import InputError
from mipprune import checkpoint
from mipprune.config import Config, PhaseConfig
from mipprune.cost import Cost
from mipprune.data import load
from mipprune.engine.loop import train_epoch
from mipprune.engine.progress import Progress
from mipprune.evaluate import accuracy, measure
from mipprune.groups import find_groups
from mipprune.methods.spr import Spr
from mipprune.networks import make_network, pick_device
from mipprune.surgery import Removal, prune, prune_optimizer, recalibrate

_PHASES = ("regularize", "finetune")


def train(config: Config, resume: bool = False) -> dict[str, Any]:
    """Train and prune as configured; the content of ``result.json``.

    Parameters
    ----------
    config : Config
    resume : bool
        Go on with the run of this name from its last checkpoint.

    Raises
    ------
    InputError
        For every wrong input, before anything is written.
    """
    return Run(config, resume).execute()


class Run:
    """One training run and its folder."""

    def __init__(self, config: Config, resume: bool):
        self.config, self.resume = config, resume
        self.folder = Path(config.runs) / (config.name or "run")
        if self.folder.exists() and not resume:
            raise InputError(
                f"{self.folder} exists: choose another name=NAME, or go on with it by --resume"
            )
        if resume and not (self.folder / "last").exists():
            raise InputError(f"{self.folder} has no checkpoint to resume from")
        self.device = pick_device(config.device)
        self.budget = config.budget.target()
        self.data = load(config.data.name, config.data.path, self.device)
        if config.data.batch > len(self.data.train):
            raise InputError(
                f"data.batch={config.data.batch} is more than the {len(self.data.train)} images"
            )
        torch.manual_seed(config.seed)
        self.network = make_network(config, self.data).to(self.device)
        self.optimizer = self._make_optimizer(self.network)
        # also checks the budget, before anything is written
        self.method = self._make_method()
        self.phase, self.epoch, self.seconds = _PHASES[0], 0, 0.0
        self.dense: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def execute(self) -> dict[str, Any]:
        """Run all phases that are left."""
        self.started = time.perf_counter()
        # weights on their way to zero pass through numbers with which a CPU is 100 times slower
        torch.set_flush_denormal(True)
        try:
            return self._execute()
        finally:
            torch.set_flush_denormal(False)

    def _execute(self) -> dict[str, Any]:
        with Progress(self.folder, self._steps()) as self.progress:
            if self.resume:
                self._restore()
            else:
                self._begin()
            if self.phase == "regularize":
                if not self.method.done:
                    self._train_phase(self.network, self.config.regularize, self.method)
                self._remove()
                self._save("finetune", 0)
            self._train_phase(self.network, self.config.finetune, None)
        return self._finish()

    # ---- phases -------------------------------------------------------------------------------

    def _begin(self):
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text(
            yaml.safe_dump(self.config.model_dump(), sort_keys=False)
        )
        dense = self.network
        trained = bool(self.config.init)
        if not trained and self.config.reference:
            dense = self._train_reference()
            trained = True
        size = self._save_model("dense", dense)
        self.dense = measure(dense, self.data, size)
        if not trained:
            self.dense["accuracy"] = None  # these are random weights: nothing to compare with
        self.progress.say(phase="dense", epoch=0, **self.dense)
        self._save("regularize", 0)

    def _train_reference(self) -> nn.Module:
        """The same initial network trained dense for as many epochs, with the fine-tune schedule's
        shape and the regularize phase's learning rate."""
        regularize, finetune = self.config.regularize, self.config.finetune
        phase = PhaseConfig(
            epochs=regularize.epochs + finetune.epochs,
            lr=regularize.lr,
            schedule=finetune.schedule,
            warmup=regularize.warmup,
        )
        torch.manual_seed(self.config.seed)
        network = make_network(self.config, self.data).to(self.device)
        optimizer = self._make_optimizer(network)
        for epoch in range(phase.epochs):
            loss = self._epoch(network, optimizer, phase, epoch, None)
            self.progress.say(phase="reference", epoch=epoch + 1, loss=loss)
        return network

    def _train_phase(self, network: nn.Module, phase: PhaseConfig, method):
        for epoch in range(self.epoch, phase.epochs):
            loss = self._epoch(network, self.optimizer, phase, epoch, method)
            self.progress.say(
                phase=self.phase,
                epoch=epoch + 1,
                loss=loss,
                accuracy=accuracy(network, self.data),
                **(method.log() if method else {}),
            )
            self._save(self.phase, epoch + 1)
            if method and method.done:
                break
        self.epoch = 0

    def _epoch(self, network, optimizer, phase, epoch, method) -> float:
        return train_epoch(
            network,
            optimizer,
            self.data,
            phase,
            epoch,
            batch=self.config.data.batch,
            seed=self.config.seed,
            label_smoothing=self.config.optimizer.label_smoothing,
            method=method,
            advance=self.progress.advance,
        )

    def _remove(self):
        """Remove the groups that the method gives up, from the network and the optimizer."""
        before = accuracy(self.network, self.data)
        kept = self.method.select()
        smaller = prune(self.network, self.groups, kept)
        removal = Removal(self.groups, kept)
        prune_optimizer(self.optimizer, self.network, smaller, removal)
        if self.config.recalibrate:
            images = self.data.sample(self.config.recalibrate)
            recalibrate(smaller, images.split(self.config.data.batch))
        self.facts = {
            "accuracy_regularized": before,
            "accuracy_removed": accuracy(smaller, self.data),
            "layers": {
                name: [len(group), self.groups.kept_per_layer(kept)[name]]
                for name, group in self.groups.layers.items()
            },
            "bounds": self.method.bounds,
            "lam": self.method.lam,
        }
        self.network = smaller
        self.progress.say(
            phase="remove",
            epoch=0,
            accuracy=self.facts["accuracy_removed"],
            macs=self.cost.value(kept, "macs") / self.cost.dense["macs"],
            params=self.cost.value(kept, "params") / self.cost.dense["params"],
        )

    def _finish(self) -> dict[str, Any]:
        size = self._save_model("pruned", self.network)
        pruned = measure(self.network, self.data, size)
        result = {
            "dense": self.dense,
            "pruned": pruned,
            "method": self.config.method.name,
            "seed": self.config.seed,
            "seconds": self._elapsed(),
            "budget": dict([self.budget]) if self.budget else None,
            "kept": {unit: pruned[unit] / self.dense[unit] for unit in ("macs", "params")},
            "device": self._device_name(),
            "folder": str(self.folder),
            **self.facts,
        }
        checkpoint.write_json(self.folder / "result.json", result)
        return result

    # ---- parts --------------------------------------------------------------------------------

    def _make_method(self) -> Spr:
        self.groups = find_groups(self.network, self.data.shape)
        self.cost = Cost(self.network, self.groups, self.data.shape)
        return Spr(self.config.method, self.network, self.groups, self.cost, self.config.budget)

    def _make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        options = self.config.optimizer
        return torch.optim.SGD(
            network.parameters(),
            lr=self.config.regularize.lr,
            momentum=options.momentum,
            nesterov=options.nesterov and options.momentum > 0,
            weight_decay=options.weight_decay,
        )

    def _steps(self) -> int:
        epochs = self.config.regularize.epochs + self.config.finetune.epochs
        if self.config.reference and not self.config.init:
            epochs *= 2
        return epochs * (len(self.data.train) // self.config.data.batch)

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    # ---- saving and resuming --------------------------------------------------------------------

    def _save_model(self, name: str, network: nn.Module) -> int:
        data = self.config.data.model_dump(include={"name", "path"})
        checkpoint.save(self.folder / name, network, data=data)
        return (self.folder / name / "model.safetensors").stat().st_size

    def _save(self, phase: str, epoch: int):
        self.phase, self.epoch = phase, epoch
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        momentum = {
            names[parameter]: entries["momentum_buffer"]
            for parameter, entries in self.optimizer.state.items()
            if entries.get("momentum_buffer") is not None
        }
        checkpoint.save(
            self.folder / "last",
            self.network,
            data=self.config.data.model_dump(include={"name", "path"}),
            tensors=momentum,
            state={
                "phase": phase,
                "epoch": epoch,
                "seconds": self._elapsed(),
                "dense": self.dense,
                "facts": self.facts,
                "method": self.method.state_dict(),
            },
        )

    def _restore(self):
        folder = self.folder / "last"
        network, _ = checkpoint.load(folder)
        momentum, state = checkpoint.load_state(folder)
        self.network = network.to(self.device)
        self.optimizer = self._make_optimizer(self.network)
        for name, parameter in self.network.named_parameters():
            if name in momentum:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(self.device)
        self.phase, self.epoch = state["phase"], state["epoch"]
        self.seconds, self.dense, self.facts = state["seconds"], state["dense"], state["facts"]
        if self.phase == "regularize":
            self.method = self._make_method()
        self.method.load_state_dict(state["method"])
        self.progress.say(phase="resume", epoch=self.epoch)
