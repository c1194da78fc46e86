"""A run's phases, from the first step to the result.

    reference    without init, if asked for: a dense twin, as long as all other phases together
    pretrain     the network as it is
    regularize   with the method; at the end removal
    finetune     what is left

Every phase is entered, trained and left; :mod:`mipprune.runs.folder` keeps what a stopped run
needs to go on anywhere in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from formulations.arrays import BoolArray
from mipprune.config.schema import PhaseConfig
from mipprune.config.train import Config
from mipprune.distributed.ranks import Ranks
from mipprune.measures.network import accuracy, count, measure
from mipprune.runs.folder import RunFolder
from mipprune.runs.layout import DENSE, PRUNED, REGULARIZED
from mipprune.runs.result import TrainResult
from mipprune.structure.cost import Cost
from mipprune.structure.groups import find_groups
from mipprune.structure.links import Masks, masks_of, sparsity
from mipprune.structure.removal import Removal, prune_groups, prune_optimizer, recalibrate
from mipprune.training import state
from mipprune.training.loop import Place, Subject, train_epoch
from mipprune.training.monitor import (
    Diverged,
    Guard,
    NonFiniteSearch,
    describe,
    steps_between_looks,
)
from mipprune.training.progress import LOG, NoProgress, Progress, RunProgress
from mipprune.training.setup import PHASES, Setup


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to be told of on a run's way; it may raise to end the run there.

    Attributes
    ----------
    after_step : callable
        Told of the place and of what is trained after every training step, before anything looks
        at either.
    after_save : callable
        Told of the run after every checkpoint of its state.
    look_every : int or None
        Steps between two looks at the loss and at signals; None: as many as cost nothing.
    """

    after_step: Callable[[Place, Subject], None] = lambda place, subject: None
    after_save: Callable[[Run], None] = lambda run: None
    look_every: int | None = None


NO_HOOKS = Hooks()


class Run:
    """One training run.

    Parameters
    ----------
    config : Config
    folder : RunFolder
    ranks : Ranks
    resume : bool
        Whether :meth:`execute` goes on with what the folder holds.
    hooks : Hooks, optional

    Attributes
    ----------
    setup : Setup
    data : Data
    network : nn.Module
        At its first weights.
    groups : Groups
    cost : Cost or LinkCost
        Of what is trained, as it is now.
    method : Method
    subject : Subject
        What is trained now.
    place : Place
        Of the last checkpoint, or where the run begins.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        ranks: Ranks,
        resume: bool = False,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.config, self.folder, self.ranks, self.resume = config, folder, ranks, resume
        self.hooks = hooks
        self.setup = Setup(config, ranks)
        self.data = self.setup.data
        self.network = self.setup.network()
        self.groups, self.cost = self.setup.structure(self.network)
        self._attach(self.network)  # checks method and budget before anything is written
        self.method.detach()
        self.folder.starts_from(self.setup.contents(self.network))
        self.place, self.seconds = Place(PHASES[0]), 0.0
        self.facts: dict[str, Any] = {"layers": {n: len(g) for n, g in self.groups.layers.items()}}
        self.dense: dict[str, Any] = {}

    def execute(self) -> TrainResult:
        """Run all that is left; the result. Errors: see :func:`mipprune.training.run.train`."""
        self.started = time.perf_counter()
        # weights on their way to zero pass through numbers with which a CPU is 100 times slower
        torch.set_flush_denormal(True)
        torch.backends.cudnn.benchmark = True
        look_every = self.hooks.look_every or steps_between_looks(self.ranks, self.setup.device)
        try:
            with self._make_progress() as self.progress:
                self.guard = Guard(
                    self.ranks,
                    self.setup.device,
                    self.progress.advance,
                    self._save,
                    save_every=self.config.checkpoint_steps,
                    look_every=look_every,
                )
                with self.guard.listening():
                    return self._execute()
        except Diverged as error:
            raise self._diagnosis(error) from None
        except OSError as error:
            raise self.folder.write_error(error) from error
        finally:
            torch.set_flush_denormal(False)

    def _make_progress(self) -> Progress:
        if not self.ranks.first:
            return NoProgress()
        steps, log = self.setup.epochs() * self.setup.steps, {**LOG, **self.method.LOG}
        return RunProgress(self.folder.layout, log, steps, self.config.data.batch)

    def _execute(self) -> TrainResult:
        if self.resume:
            self._restore()
        else:
            self.folder.make(self.method.LOG)
            self._enter(PHASES[0])
        for phase in PHASES[PHASES.index(self.place.phase) :]:
            if phase != self.place.phase:
                self._enter(phase)
            self._train_phase(self.setup.schedule(phase))
            self._leave(phase)
        return self._finish()

    # ---- phases -------------------------------------------------------------------------------

    def _enter(self, phase: str) -> None:
        if phase == "pretrain":
            self.network = self.setup.network()  # a reference has trained it
        if phase in ("reference", "pretrain"):
            self.subject = self.setup.plain(self.network)
        elif phase == "regularize":
            self._attach(self.subject.network)
        self._save(Place(phase))

    def _leave(self, phase: str) -> None:
        if self.subject.average:
            self.subject.average.copy_to(self.subject.network)
        if phase == "reference" and self.setup.schedule(phase).epochs:
            self._measure_dense(self.subject.network)
        elif phase == "pretrain" and not self.dense:
            self._measure_dense(self.subject.network)
            if not self.setup.trained:
                self.dense["accuracy"] = None  # these are random weights: nothing to compare with
        elif phase == "regularize":
            self._remove()

    def _attach(self, network: nn.Module) -> None:
        """The method on the network, as it is now."""
        self.subject, self.method = self.setup.regularized(
            *(network, self.groups, self.cost, self._remove_on_the_way, self.resume)
        )

    def _measure_dense(self, network: nn.Module) -> None:
        size = self._save_model(DENSE, network)
        self.dense = dict(measure(network, self.data, size, ranks=self.ranks))
        self.progress.record(phase="dense", epoch=0, **self.dense)

    def _train_phase(self, phase: PhaseConfig) -> None:
        while self.place.epoch < phase.epochs and not (
            self.subject.method and self.subject.method.done
        ):
            start, before = time.perf_counter(), self.place.step
            place = self._epoch(phase, self.guard)
            self.guard.check(place, self.subject.network, weights=True)
            subject = self.subject
            seen = subject.average.network if subject.average else subject.network
            self.ranks.align(subject.network)
            if subject.average:
                self.ranks.align(seen)
            seconds = time.perf_counter() - start
            images = (place.step - before) * self.config.data.batch
            self.progress.record(
                phase=place.phase,
                epoch=place.epoch + 1,
                loss=self._mean_loss(place) / place.step,
                accuracy=accuracy(seen, self.data, self.ranks),
                images_per_s=images / seconds,
                **(subject.method.log() if subject.method else {}),
            )
            self._save(Place(place.phase, place.epoch + 1))
            self.guard.heed(self.place)

    def _epoch(self, phase: PhaseConfig, watch: Callable[[Place, Subject], None]) -> Place:
        def watched(place: Place, subject: Subject) -> None:
            self.hooks.after_step(place, subject)
            watch(place, subject)

        return train_epoch(
            self.subject,
            self.data,
            phase,
            self.place,
            batch=self.config.data.batch,
            mixup=self.config.data.mixup,
            seed=self.config.seed,
            ranks=self.ranks,
            watch=watched,
        )

    def _remove(self) -> None:
        """What the method gives up goes, and the method with it."""
        before = accuracy(self.subject.network, self.data, self.ranks)
        self._save_model(REGULARIZED, self.subject.network)
        kept = self.ranks.mask_of_first(self.method.select(), self.setup.device)
        facts = self.method.facts()
        masks = None
        if self.config.granularity == "link":
            masks = Masks(self.subject.network, masks_of(self.subject.network, self.groups, kept))
            left = self.groups.kept_per_layer(kept)
        else:
            self._shrink(kept)
            left = {name: len(group) for name, group in self.groups.layers.items()}
        self.method.detach()
        network, optimizer = self.subject.network, self.subject.optimizer
        if self.config.recalibrate:
            images = self.data.sample(self.config.recalibrate)
            recalibrate(network, images.split(self.config.data.batch))
        # a method's own optimizer has done
        plain = optimizer if isinstance(optimizer, torch.optim.SGD) else None
        self.subject = self.setup.plain(network, plain, masks)
        network = self.subject.network
        self.facts = {
            "accuracy_regularized": before,
            "accuracy_removed": accuracy(network, self.data, self.ranks),
            "layers": {
                name: [size, left.get(name, 0)] for name, size in self.facts["layers"].items()
            },
            **facts,
        }
        size = count(network, self.data.shape, self.setup.sparse)
        self.progress.record(
            phase="remove",
            epoch=0,
            accuracy=self.facts["accuracy_removed"],
            **{f"kept_{unit}": size[unit] / self.dense[unit] for unit in size},
        )

    def _shrink(self, kept: BoolArray) -> BoolArray:
        """Physical removal: network, optimizer and groups get smaller."""
        network = self.subject.network
        kept = self.groups.settle(kept)
        smaller = self.setup.on_device(prune_groups(network, self.groups, kept))
        prune_optimizer(self.subject.optimizer, network, smaller, Removal(self.groups, kept))
        state.lay_out(self.subject.optimizer)
        self.groups = self.groups.shrink(kept)
        self.subject.network = smaller
        return kept

    def _remove_on_the_way(self, kept: BoolArray) -> None:
        kept = self._shrink(self.ranks.mask_of_first(kept, self.setup.device))
        network = self.subject.network
        self.cost = Cost(network, self.groups, self.data.shape)
        network = self.setup.synchronised(network)
        self.method.follow(self.setup.task(network, self.groups, self.cost, self.resume), kept)
        self.subject.replace(network)

    def _finish(self) -> TrainResult:
        network = self.subject.network
        size = self._save_model(PRUNED, network)
        pruned = measure(network, self.data, size, self.setup.sparse, self.ranks)
        target = self.config.budget.target()
        kept = {
            "macs": pruned["macs"] / self.dense["macs"],
            "params": pruned["params"] / self.dense["params"],
        }
        found = {
            "dense": self.dense,
            "pruned": pruned,
            "method": self.config.method.name,
            "granularity": self.config.granularity,
            "seed": self.config.seed,
            "seconds": self._elapsed(),
            "budget": dict([target]) if target else None,
            "kept": kept,
            "device": self.setup.device_name(),
            "folder": str(self.folder.path),
            **self.facts,
        }
        result = cast(TrainResult, found)  # and beside it, what the method says of itself
        self.folder.write_result(result)
        self.ranks.barrier()
        return result

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    # ---- saving and resuming --------------------------------------------------------------------

    def _save_model(self, name: str, network: nn.Module) -> int:
        zeros = sparsity(network) if self.setup.sparse and name == PRUNED else None
        return self.folder.save_model(name, network, zeros)

    def _save(self, place: Place) -> None:
        self.place = replace(place, loss=self._mean_loss(place))
        method = self.method.state_dict() if place.phase == "regularize" else {}
        tensors, plain = state.pack(self.subject, method)
        numbered = place.phase == "regularize" and not self.setup.sparse
        layers = self.groups.layers if numbered else {}
        self.folder.save_state(
            self.subject.network,
            tensors,
            {
                **vars(self.place),
                "seconds": self._elapsed(),
                "dense": self.dense,
                "facts": self.facts,
                "groups": {name: group.tolist() for name, group in layers.items()},
                "progress": self.progress.state(),
                **plain,
            },
        )
        self.hooks.after_save(self)

    def _mean_loss(self, place: Place) -> float:
        return float(
            self.ranks.mean_(torch.as_tensor(place.loss, device=self.setup.device).clone())
        )

    def _restore(self) -> None:
        network, tensors, plain = self.folder.load_state()
        network = self.setup.on_device(network)
        self.place = Place(**{key: plain[key] for key in ("phase", "epoch", "step", "loss")})
        self.seconds, self.dense, self.facts = plain["seconds"], plain["dense"], plain["facts"]
        if self.place.phase == "regularize":
            if self.setup.sparse:
                self.groups, self.cost = self.setup.structure(network)
            else:  # of the network as it is by now: the checks were for the whole one
                groups = find_groups(network, self.data.shape)
                self.groups = groups.numbered_as(plain["groups"])
                self.cost = Cost(network, self.groups, self.data.shape)
            self._attach(network)
            self.method.load_state_dict(state.unpack(self.subject, tensors, plain))
        else:
            self.subject = self.setup.plain(network)
            state.unpack(self.subject, tensors, plain)
        done = self.setup.epochs(PHASES[: PHASES.index(self.place.phase)]) + self.place.epoch
        steps = self.setup.steps
        self.progress.restore(plain["progress"], done * steps + self.place.step)
        self.progress.record(phase="resume", epoch=self.place.epoch)

    def _diagnosis(self, error: Diverged) -> RuntimeError:
        """Which step and layer it was: found by a replay from the last checkpoint."""
        self.resume = True
        self.setup.eager()  # a search looks at numbers in between: a CUDA graph has no in between
        self.progress = NoProgress()
        self._restore()
        good, phase = describe(self.place), self.setup.schedule(self.place.phase)
        search = NonFiniteSearch(self.subject.network)
        try:
            self._epoch(phase, search)
        except Diverged as found:
            where = f"at {describe(found.place)}: {found.where} is not finite"
        else:
            where = f"by {describe(error.place)}; a replay of these steps was finite"
        finally:
            search.close()
        return RuntimeError(
            f"training diverged {where}; {self.folder.path} is intact at {good}: lower the "
            f"learning rate ({phase.lr:g}) or the method's strength in a new run, or --resume"
        )
