"""What a run trains with: data, networks, groups, and what is trained in every phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from formulations.arrays import BoolArray
from formulations.errors import InputError
from mipprune.config.schema import PhaseConfig
from mipprune.config.train import Config
from mipprune.data.registry import Data, load
from mipprune.distributed.device import pick_device
from mipprune.distributed.ranks import Ranks
from mipprune.methods.base import Method, Task
from mipprune.methods.registry import create
from mipprune.runs.checkpoint import digest
from mipprune.runs.networks import make_network
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups
from mipprune.structure.links import LinkCost, Masks
from mipprune.structure.scope import find_structure
from mipprune.training.backward import Passes
from mipprune.training.batchnorm import synchronise
from mipprune.training.ema import Average
from mipprune.training.loop import Subject

PHASES = ("reference", "pretrain", "regularize", "finetune")


class Setup:
    """Makes the parts of a run from its configuration.

    Parameters
    ----------
    config : Config
    ranks : Ranks
    data : Data, optional
        Instead of the configured data set.

    Raises
    ------
    InputError
        If the data cannot be had, or a batch cannot be divided among the processes.
    """

    def __init__(self, config: Config, ranks: Ranks, data: Data | None = None) -> None:
        self.config, self.ranks = config, ranks
        self.device = pick_device(config.device)
        self.data = data or load(**config.data.source(), device=self.device)
        self._check_batch()
        self._passes = Passes(
            ranks,
            accumulate=config.accumulate,
            label_smoothing=config.optimizer.label_smoothing,
            precision=config.precision,
            compile=config.compile,
        )

    def _check_batch(self) -> None:
        batch, parts = self.config.data.batch, self.ranks.world * self.config.accumulate
        if batch > self.data.train_size:
            raise InputError(f"data.batch={batch} is more than the {self.data.train_size} images")
        if batch % parts:
            raise InputError(
                f"data.batch={batch} cannot be divided into {self.ranks.world} processes × "
                f"accumulate={self.config.accumulate} equal parts"
            )

    def eager(self) -> None:
        """From now on neither compile nor capture what is trained."""
        self._passes = replace(self._passes, compile=False, graph=False)

    # ---- how long -----------------------------------------------------------------------------

    def schedule(self, phase: str) -> PhaseConfig:
        """Length and learning rates.

        The reference's: those of the regularize phase where it is the only one, else of the shape
        of the fine-tune schedule, from the first phase's rate.
        """
        config = self.config
        configured = {
            "pretrain": config.pretrain,
            "regularize": config.regularize,
            "finetune": config.finetune,
        }
        if phase in configured:
            return configured[phase]
        if not config.reference or config.init:
            return PhaseConfig(epochs=0)
        first = config.pretrain if config.pretrain.epochs else config.regularize
        last = config.finetune if config.finetune.epochs else config.regularize
        epochs = config.pretrain.epochs + config.regularize.epochs + config.finetune.epochs
        return PhaseConfig(
            epochs=epochs,
            lr=first.lr,
            schedule=last.schedule,
            milestones=last.milestones,
            warmup=first.warmup,
        )

    def epochs(self, phases: tuple[str, ...] = PHASES) -> int:
        """Of some phases together."""
        return sum(self.schedule(phase).epochs for phase in phases)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.data.steps(self.config.data.batch)

    @property
    def sparse(self) -> bool:
        """Whether single weights are pruned: then zeros count as nothing."""
        return self.config.granularity == "link"

    @property
    def trained(self) -> bool:
        """Whether the regularize phase starts from trained weights."""
        return bool(self.config.init) or self.config.pretrain.epochs > 0

    # ---- networks -----------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """The network at its first weights."""
        torch.manual_seed(self.config.seed)
        return self.on_device(make_network(self.config, self.data))

    def contents(self, network: nn.Module) -> dict[str, str]:
        """Digests of what the run starts from: images, and weights if there are any.

        Parameters
        ----------
        network : nn.Module
            At its first weights.
        """
        weights = {"network": digest(network)} if self.config.init else {}
        return {"images": self.data.digest(), **weights}

    def on_device(self, network: nn.Module) -> nn.Module:
        """In the memory format that its convolutions are fastest in."""
        # torch's type hints of Module.to leave this argument out
        layout: Any = {"memory_format": torch.channels_last}
        return network.to(self.device, **layout)

    def structure(self, network: nn.Module) -> tuple[Groups, Cost | LinkCost]:
        """Its groups and their cost."""
        config = self.config
        return find_structure(network, self.data.shape, config.granularity, config.protect)

    def synchronised(self, network: nn.Module) -> nn.Module:
        """With BatchNorms over all ranks, if asked for; its parameters stay the same objects."""
        if self.config.sync_batchnorm and self.ranks.world > 1:
            return synchronise(network, self.device)
        return network

    # ---- what is trained ------------------------------------------------------------------------

    def task(
        self, network: nn.Module, groups: Groups, cost: Cost | LinkCost, resumed: bool = False
    ) -> Task:
        """What a method is told of the run.

        Parameters
        ----------
        network, groups, cost
            As they are now.
        resumed : bool
            Whether the run goes on.
        """
        config = self.config
        return Task(
            network,
            groups,
            cost,
            self.data,
            config.budget,
            config.optimizer,
            granularity=config.granularity,
            steps=config.regularize.epochs * self.steps,
            batch=config.data.batch,
            trained=self.trained,
            seed=config.seed,
            resumed=resumed,
            ranks=self.ranks,
        )

    def regularized(
        self,
        network: nn.Module,
        groups: Groups,
        cost: Cost | LinkCost,
        remove: Callable[[BoolArray], None],
        resumed: bool = False,
    ) -> tuple[Subject, Method[Any]]:
        """A network with the method, and the method; ``remove`` as for :class:`Subject`."""
        network = self.synchronised(network)  # first: a method may hook into its modules
        method = create(self.config.method, self.task(network, groups, cost, resumed))
        own = method.optimizer(network.parameters())
        optimizer = self._sgd(network) if own is None else own
        return Subject(network, optimizer, self._passes, method=method, remove=remove), method

    def plain(
        self,
        network: nn.Module,
        optimizer: torch.optim.SGD | None = None,
        masks: Masks | None = None,
    ) -> Subject:
        """A network without the method; a new optimizer if none is given.

        Parameters
        ----------
        network : nn.Module
        optimizer : torch.optim.SGD, optional
            To go on with, its state kept.
        masks : Masks, optional
            Zeros that stay zeros.
        """
        network = self.synchronised(network)
        decay = self.config.optimizer.ema
        return Subject(
            network,
            optimizer or self._sgd(network),
            self._passes,
            masks=masks,
            average=None if decay is None else Average(network, decay),
        )

    def _sgd(self, network: nn.Module) -> torch.optim.SGD:
        options = self.config.optimizer
        return torch.optim.SGD(
            network.parameters(),
            lr=self.config.regularize.lr,
            momentum=options.momentum,
            nesterov=options.nesterov and options.momentum > 0,
            weight_decay=options.weight_decay,
            fused=self.device.type == "cuda",
        )

    def device_name(self) -> str:
        """For the result."""
        ranks = f"{self.ranks.world} × " if self.ranks.world > 1 else ""
        if self.device.type == "cuda":
            return ranks + torch.cuda.get_device_name(self.device)
        return f"{ranks}{self.device.type}, {torch.get_num_threads()} threads"
