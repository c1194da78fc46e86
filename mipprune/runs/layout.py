"""What lies where in the folder of a run and in that of a checkpoint: names, and nothing else.

    runs/NAME/
        config.yaml         the settings that the run began with
        metrics.jsonl       a line an epoch, and one for every event between them
        log.json            what the method's numbers in these lines are: title and unit of each
        tensorboard/        the same numbers for TensorBoard
        dense/              the network that the result compares with
        regularized/        the network just before removal
        pruned/             the network that the run was for
        last/               the newest state, from which a stopped run goes on
        last.previous/      the one before, for the day on which last/ cannot be read
        last.corrupt/       a state that could not be read
        state/              of a pruning without training, while it runs: what is known already
        result.json         of a finished run
        certificate.json    what ``mipprune certify`` proved of it
        lock                held by the process that works here; left behind it means nothing
        report.html         the page of ``mipprune report``

A checkpoint is a folder too: ``model.safetensors``, ``model.json``, ``SHA256SUMS``; that of a
training's state has ``state.safetensors`` and ``state.json`` beside them. There is no "best"
checkpoint: without validation images it would be chosen on the test images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The checkpoints of a run by name, as :func:`mipprune.runs.checkpoint.find` takes them.
DENSE, REGULARIZED, PRUNED, LAST = "dense", "regularized", "pruned", "last"


@dataclass(frozen=True)
class RunLayout:
    """Where the files of a run are, whether they exist or not.

    Attributes
    ----------
    path : Path
        The run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings, YAML."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Numbers by phase and epoch, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """Title and unit of the method's numbers, JSON."""
        return self.path / "log.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def dense(self) -> Path:
        """Checkpoint: the network that the result compares with."""
        return self.path / DENSE

    @property
    def regularized(self) -> Path:
        """Checkpoint: the network just before removal."""
        return self.path / REGULARIZED

    @property
    def pruned(self) -> Path:
        """Checkpoint: the network that the run was for."""
        return self.path / PRUNED

    @property
    def last(self) -> Path:
        """Checkpoint: the newest state of the training."""
        return self.path / LAST

    @property
    def state(self) -> Path:
        """Folder of what a pruning without training has found so far."""
        return self.path / "state"

    @property
    def result(self) -> Path:
        """Result of a finished run, JSON."""
        return self.path / "result.json"

    @property
    def certificate(self) -> Path:
        """What is proved of the pruned network's layers, JSON."""
        return self.path / "certificate.json"

    @property
    def lock(self) -> Path:
        """What the process that works here holds a lock on."""
        return self.path / "lock"

    @property
    def report(self) -> Path:
        """The HTML page about the run."""
        return self.path / "report.html"

    @property
    def compared(self) -> Path:
        """Checkpoint of the network from which the pruned one was cut, whatever made the run.

        A pruning without training cuts the dense network. A training run cuts the regularized one:
        its dense network may have been trained from scratch beside it.
        """
        return self.regularized if self.regularized.is_dir() else self.dense


@dataclass(frozen=True)
class CheckpointLayout:
    """Where the files of a checkpoint are, whether they exist or not.

    Attributes
    ----------
    path : Path
        The checkpoint's folder.
    """

    path: Path

    @property
    def weights(self) -> Path:
        """The network's tensors."""
        return self.path / "model.safetensors"

    @property
    def model(self) -> Path:
        """The network's architecture with the widths that its layers have now, JSON."""
        return self.path / "model.json"

    @property
    def tensors(self) -> Path:
        """Further tensors of a training's state: optimizer, method, masks."""
        return self.path / "state.safetensors"

    @property
    def state(self) -> Path:
        """Plain values of a training's state: counters, settings of the optimizer, JSON."""
        return self.path / "state.json"

    @property
    def sums(self) -> Path:
        """Checksums of all other files, as ``sha256sum -c`` reads them."""
        return self.path / "SHA256SUMS"

    @property
    def previous(self) -> Path:
        """Folder of the generation before this one."""
        return self.path.parent / f"{self.path.name}.previous"  # also of "."

    @property
    def corrupt(self) -> Path:
        """Where an unreadable generation is set aside."""
        return self.path.with_name(f"{self.path.name}.corrupt")

    @property
    def unfinished(self) -> Path:
        """Where the next generation is written before it is renamed into place."""
        return self.path.with_name(f".{self.path.name}.tmp")
