"""A run: pretrain, regularize, remove, fine-tune; its folder, its checkpoints, its result.

    runs/NAME/  config.yaml · metrics.jsonl · tensorboard/ · dense/ · regularized/ · pruned/ · last/
                · result.json

``dense/`` and ``pruned/`` are checkpoints of the two networks that the result compares,
``regularized/`` is the network just before removal; ``last/`` is the newest state with optimizer
and counters, from which a stopped run goes on. There is no "best": without validation images it
would be chosen on the test images.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from formulations.errors import InputError
from mipprune import checkpoint
from mipprune.config import Config, PhaseConfig
from mipprune.cost import Cost
from mipprune.data import load
from mipprune.engine import state
from mipprune.engine.loop import Subject, train_epoch
from mipprune.engine.progress import Progress
from mipprune.evaluate import accuracy, count, measure
from mipprune.granularity import find_structure
from mipprune.groups import find_groups
from mipprune.links import Masks, masks_of, sparsity
from mipprune.methods import Task, create
from mipprune.networks import make_network, pick_device
from mipprune.surgery import Removal, prune, prune_optimizer, recalibrate


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
        self.data = load(**config.data.source(), device=self.device)
        if config.data.batch > self.data.train_size:
            raise InputError(
                f"data.batch={config.data.batch} is more than the {self.data.train_size} images"
            )
        torch.manual_seed(config.seed)
        network = self._place(make_network(config, self.data))
        self._structure(network)
        self._attach(network)  # checks method and budget before anything is written
        self.phase, self.epoch, self.seconds = "pretrain", 0, 0.0
        self.facts: dict[str, Any] = {"layers": {n: len(g) for n, g in self.groups.layers.items()}}
        self.dense: dict[str, Any] = {}

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
            if self.phase == "pretrain":
                self._train_phase(self.config.pretrain)
                self._note_dense()
                self._attach(self.subject.network)
                self._save("regularize", 0)
            if self.phase == "regularize":
                if not self.method.done:
                    self._train_phase(self.config.regularize)
                self._remove()
                self._save("finetune", 0)
            self._train_phase(self.config.finetune)
        return self._finish()

    # ---- phases -------------------------------------------------------------------------------

    def _begin(self):
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text(
            yaml.safe_dump(self.config.model_dump(), sort_keys=False)
        )
        if self.config.reference and not self.config.init:
            self._measure_dense(self._train_reference())
        self._plain(self.subject.network)
        self._save("pretrain", 0)

    def _plain(self, network: nn.Module):
        """Train the network as it is, without the method."""
        self.method.detach()
        self.subject = Subject(network, self._sgd(network))

    def _note_dense(self):
        """Before the method begins: what the pruned network will be compared with."""
        if not self.dense:
            self._measure_dense(self.subject.network)
            if not self.trained:
                self.dense["accuracy"] = None  # these are random weights: nothing to compare with

    def _measure_dense(self, network: nn.Module):
        size = self._save_model("dense", network)
        self.dense = measure(network, self.data, size)
        self.progress.say(phase="dense", epoch=0, **self.dense)

    def _train_reference(self) -> nn.Module:
        """The same initial network trained dense for as many epochs in all: by the regularize
        phase's schedule where it is the only one, else by the fine-tune schedule's shape with the
        learning rate of the first phase."""
        pretrain, regularize = self.config.pretrain, self.config.regularize
        finetune, first = self.config.finetune, pretrain if pretrain.epochs else regularize
        phase = PhaseConfig(
            epochs=pretrain.epochs + regularize.epochs + finetune.epochs,
            lr=first.lr,
            schedule=finetune.schedule if finetune.epochs else regularize.schedule,
            milestones=finetune.milestones if finetune.epochs else regularize.milestones,
            warmup=first.warmup,
        )
        torch.manual_seed(self.config.seed)
        network = self._place(make_network(self.config, self.data))
        twin = Subject(network, self._sgd(network))
        for epoch in range(phase.epochs):
            loss = self._epoch(twin, phase, epoch)
            self.progress.say(phase="reference", epoch=epoch + 1, loss=loss)
        return network

    def _train_phase(self, phase: PhaseConfig):
        subject = self.subject
        for epoch in range(self.epoch, phase.epochs):
            start = time.perf_counter()
            loss = self._epoch(subject, phase, epoch)
            seconds = time.perf_counter() - start
            self.progress.say(
                phase=self.phase,
                epoch=epoch + 1,
                loss=loss,
                accuracy=accuracy(subject.network, self.data),
                images_per_s=self.data.train_size / seconds,
                **(subject.method.log() if subject.method else {}),
            )
            self._save(self.phase, epoch + 1)
            if subject.method and subject.method.done:
                break
        self.epoch = 0

    def _epoch(self, subject: Subject, phase: PhaseConfig, epoch: int) -> float:
        return train_epoch(
            subject,
            self.data,
            phase,
            epoch,
            batch=self.config.data.batch,
            seed=self.config.seed,
            label_smoothing=self.config.optimizer.label_smoothing,
            precision=self.config.precision,
            advance=self.progress.advance,
        )

    def _remove(self):
        """What the method gives up goes, and the method with it."""
        before = accuracy(self.subject.network, self.data)
        self._save_model("regularized", self.subject.network)
        kept = self.method.select()
        facts = self.method.facts()
        if self.config.granularity == "link":
            network = self.subject.network
            masks = Masks(network, masks_of(network, self.groups, kept))
            self.subject = Subject(network, self.subject.optimizer, masks=masks)
            left = self.groups.kept_per_layer(kept)
        else:
            self._shrink(kept)
            self.subject = Subject(self.subject.network, self.subject.optimizer)
            left = {name: len(group) for name, group in self.groups.layers.items()}
        if not isinstance(self.subject.optimizer, torch.optim.SGD):
            self.subject.optimizer = self._sgd(self.subject.network)  # the method's own has done
        if self.config.recalibrate:
            images = self.data.sample(self.config.recalibrate)
            recalibrate(self.subject.network, images.split(self.config.data.batch))
        self.facts = {
            "accuracy_regularized": before,
            "accuracy_removed": accuracy(self.subject.network, self.data),
            "layers": {
                name: [size, left.get(name, 0)] for name, size in self.facts["layers"].items()
            },
            **facts,
        }
        size = count(self.subject.network, self.data.shape, self.sparse)
        self.progress.say(
            phase="remove",
            epoch=0,
            accuracy=self.facts["accuracy_removed"],
            **{unit: size[unit] / self.dense[unit] for unit in size},
        )

    def _shrink(self, kept: np.ndarray):
        """Physical removal: network, optimizer and groups get smaller."""
        network, optimizer = self.subject.network, self.subject.optimizer
        kept = self.groups.settle(kept)
        smaller = self._place(prune(network, self.groups, kept))
        prune_optimizer(optimizer, network, smaller, Removal(self.groups, kept))
        self.subject.network = smaller
        self.groups = self.groups.shrink(kept)
        return kept

    def _remove_on_the_way(self, kept: np.ndarray):
        kept = self._shrink(kept)
        self.cost = Cost(self.subject.network, self.groups, self.data.shape)
        self.method.follow(self._task(self.subject.network), kept)

    def _finish(self) -> dict[str, Any]:
        network = self.subject.network
        size = self._save_model("pruned", network)
        pruned = measure(network, self.data, size, self.sparse)
        target = self.config.budget.target()
        result = {
            "dense": self.dense,
            "pruned": pruned,
            "method": self.config.method.name,
            "granularity": self.config.granularity,
            "seed": self.config.seed,
            "seconds": self._elapsed(),
            "budget": dict([target]) if target else None,
            "kept": {unit: pruned[unit] / self.dense[unit] for unit in ("macs", "params")},
            "device": self._device_name(),
            "folder": str(self.folder),
            **self.facts,
        }
        checkpoint.write_json(self.folder / "result.json", result)
        return result

    # ---- parts --------------------------------------------------------------------------------

    @property
    def sparse(self) -> bool:
        """Whether single weights are pruned: then zeros count as nothing."""
        return self.config.granularity == "link"

    @property
    def trained(self) -> bool:
        """Whether the regularize phase starts from trained weights."""
        return bool(self.config.init) or self.config.pretrain.epochs > 0

    def _place(self, network: nn.Module) -> nn.Module:
        """On the device, in the memory format that its convolutions are fastest in."""
        return network.to(self.device, memory_format=torch.channels_last)

    def _structure(self, network: nn.Module):
        config = self.config
        self.groups, self.cost = find_structure(
            network, self.data.shape, config.granularity, config.protect
        )

    def _task(self, network: nn.Module) -> Task:
        config = self.config
        return Task(
            network,
            self.groups,
            self.cost,
            self.data,
            config.budget,
            config.optimizer,
            granularity=config.granularity,
            steps=config.regularize.epochs * self.data.steps(config.data.batch),
            batch=config.data.batch,
            trained=self.trained,
            seed=config.seed,
            resumed=self.resume,
        )

    def _attach(self, network: nn.Module):
        """The method on the network, as it is now."""
        self.method = create(self.config.method, self._task(network))
        own = self.method.optimizer(network.parameters())
        self.subject = Subject(
            network,
            self._sgd(network) if own is None else own,
            self.method,
            remove=self._remove_on_the_way,
        )

    def _sgd(self, network: nn.Module) -> torch.optim.Optimizer:
        options = self.config.optimizer
        return torch.optim.SGD(
            network.parameters(),
            lr=self.config.regularize.lr,
            momentum=options.momentum,
            nesterov=options.nesterov and options.momentum > 0,
            weight_decay=options.weight_decay,
        )

    def _steps(self) -> int:
        config = self.config
        epochs = config.pretrain.epochs + config.regularize.epochs + config.finetune.epochs
        if self.config.reference and not self.config.init:
            epochs *= 2
        return epochs * self.data.steps(config.data.batch)

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    # ---- saving and resuming --------------------------------------------------------------------

    def _save_model(self, name: str, network: nn.Module) -> int:
        zeros = sparsity(network) if self.sparse and name == "pruned" else None
        checkpoint.save(self.folder / name, network, data=self.config.data.source(), sparsity=zeros)
        return (self.folder / name / "model.safetensors").stat().st_size

    def _save(self, phase: str, epoch: int):
        self.phase, self.epoch = phase, epoch
        method = self.method.state_dict() if phase == "regularize" else {}
        tensors, plain = state.pack(self.subject, method)
        checkpoint.save(
            self.folder / "last",
            self.subject.network,
            data=self.config.data.source(),
            tensors=tensors,
            state={
                "phase": phase,
                "epoch": epoch,
                "seconds": self._elapsed(),
                "dense": self.dense,
                "facts": self.facts,
                "groups": {n: g.tolist() for n, g in self.groups.layers.items()}
                if phase == "regularize" and not self.sparse
                else {},
                **plain,
            },
        )

    def _restore(self):
        folder = self.folder / "last"
        network, _ = checkpoint.load(folder)
        tensors, plain = checkpoint.load_state(folder)
        network = self._place(network)
        self.phase, self.epoch = plain["phase"], plain["epoch"]
        self.seconds, self.dense, self.facts = plain["seconds"], plain["dense"], plain["facts"]
        if self.phase == "regularize":
            if self.sparse:
                self._structure(network)
            else:  # of the network as it is by now: the checks were for the whole one
                groups = find_groups(network, self.data.shape)
                self.groups = groups.numbered_as(plain["groups"])
                self.cost = Cost(network, self.groups, self.data.shape)
            self._attach(network)
            self.method.load_state_dict(state.unpack(self.subject, tensors, plain))
        else:
            self._plain(network)
            state.unpack(self.subject, tensors, plain)
        self.progress.say(phase="resume", epoch=self.epoch)
