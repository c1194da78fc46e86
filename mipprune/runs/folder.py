"""The folder that a training run writes to: begun once, gone on with, and nothing in it lost.

What lies where in it says :mod:`mipprune.runs.layout`; what is read from it afterwards,
:mod:`mipprune.runs.record`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from torch import nn

from formulations.errors import InputError
from formulations.output import explain, is_full, write_output
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.schema import RunConfig
from mipprune.config.words import folder_name, is_file
from mipprune.distributed.ranks import Ranks
from mipprune.runs import checkpoint
from mipprune.runs.files import write_json
from mipprune.runs.layout import RunLayout
from mipprune.runs.lock import FolderLock
from mipprune.runs.log import Log
from mipprune.runs.result import RunResult

# Files are compared by what is in them, wherever they lie.
_CONTENTS = {
    "contents.network": "other weights than those that are named now",
    "contents.images": "other training images than those that are named now",
}
# What a run may go on with another value of: where things are and what they run on.
_FREE = {
    "name", "runs", "device", "init", "compile", "checkpoint_steps",
    "data.path", "data.workers", "data.decoder", "source", "parallel", "jobs", *_CONTENTS,
}  # fmt: skip


class RunFolder:
    """A training run's folder; only the first rank writes to it.

    Parameters
    ----------
    config : RunConfig
        Names the folder; all of it is written down, and must be the same when the run goes on.
    ranks : Ranks

    Attributes
    ----------
    path : Path
    layout : RunLayout
        Where its files are.
    lock : FolderLock
        A context in which the folder is worked in; only the first rank takes it.
    """

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self.path = Path(config.runs) / (config.name or "run")
        self.layout = RunLayout(self.path)
        self._config, self._ranks = config, ranks
        self._data = config.data.source()
        self._saved = False
        self._contents: dict[str, Any] = {}
        self.lock = FolderLock(self.path)

    def claim(self, resume: bool) -> bool:
        """Whether the run goes on with what is here, after checking that it may.

        Parameters
        ----------
        resume : bool
            Whether it is asked to. Processes that torchrun starts anew go on in any case.

        A folder without a checkpoint is one of a run that had only begun: resumed, it begins again.

        Raises
        ------
        InputError
            If the folder exists and is not to be resumed, or is to be resumed and does not, or was
            begun with other settings, or has lost its checkpoints, or another process is in it.
        """
        there = self.path.exists()
        resume = resume or (self._ranks.restarted and there)
        if there and not resume:
            raise exists(self.path)
        if resume and not there:
            raise InputError(f"there is no run {self.path} to resume: no checkpoint, no folder")
        if there and self._ranks.first:
            self.lock.take()
        self._saved = checkpoint.any_generation(self.layout.last)
        if self._saved:
            self._check_settings()
        elif self.layout.metrics.exists():
            raise InputError(
                f"{self.path} has metrics but no checkpoint last/ to go on with: choose another "
                "name=NAME"
            )
        self._ranks.barrier()  # all have looked before the first one writes
        return self._saved

    def _check_settings(self) -> None:
        began = configure(type(self._config), read_recipe(str(self.layout.config)))
        check_same(self.path, began.model_dump(), self._config.model_dump())

    def make(self, log: Log) -> None:
        """Begin: the folder, the configuration in it, and what its numbers are."""
        if self._ranks.first:
            begin(self.path, self.lock)
            text = yaml.safe_dump(self._config.model_dump(), sort_keys=False)
            write_output(self.layout.config, text.encode())
            described = {key: {"title": e.title, "unit": e.unit} for key, e in log.items()}
            write_json(self.layout.log, described)

    def starts_from(self, contents: Mapping[str, str]) -> None:
        """Digests of the files that the run starts from, by what they are; to be the same again."""
        self._contents = {"contents": dict(contents)}

    def save_model(
        self, name: str, network: nn.Module, sparsity: Mapping[str, float] | None
    ) -> int:
        """Write a network without its training state; bytes of its tensors' file.

        Parameters
        ----------
        name : str
            Of the checkpoint, one of :mod:`mipprune.runs.layout`.
        network : nn.Module
        sparsity : mapping or None
            As for :func:`mipprune.runs.checkpoint.save`.
        """
        folder = self.path / name
        if self._ranks.first:
            checkpoint.save(folder, network, data=self._data, sparsity=sparsity)
        self._ranks.barrier()
        return checkpoint.file_bytes(folder)

    def save_state(
        self, network: nn.Module, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
    ) -> None:
        """Write ``last/``; the one before stays as ``last.previous/``."""
        if self._ranks.first:
            state = {**plain, **self._contents}
            checkpoint.save_generation(
                self.layout.last, network, data=self._data, tensors=tensors, state=state
            )
            self._saved = True

    def load_state(self) -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, Any]]:
        """Network, tensors and plain values of the newest state that can be read."""
        network, tensors, plain, broken = checkpoint.load_generation(
            self.layout.last, self._config.model.name
        )
        began = {"contents": plain.get("contents", {})}  # older states do not say it
        check_same(self.path, began, self._contents)
        self._ranks.barrier()
        if broken and self._ranks.first:
            place = checkpoint.set_aside(self.layout.last)  # the next one shall not retire it
            print(
                f"mipprune: {broken}; it is now {place}, and the run goes on from the checkpoint "
                "before",
                file=sys.stderr,
            )
        return network, tensors, plain

    def write_result(self, result: RunResult) -> None:
        """Write ``result.json``."""
        if self._ranks.first:
            write_json(self.layout.result, result)

    def write_error(self, error: OSError) -> RuntimeError:
        """What to say when something could not be written, or else the system refused."""
        what = explain(error, self.path)
        if self._saved:
            room = "make room and " if is_full(error) else ""
            return RuntimeError(f"{what}; {self.layout.last} is intact: {room}go on with --resume")
        return RuntimeError(f"{what}; nothing was trained yet")


def begin(folder: Path, lock: FolderLock) -> None:
    """Make a run's folder, unless this process holds it already, and take its lock.

    Raises
    ------
    InputError
        If another process has made it meanwhile.
    """
    if lock.taken:
        return
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise exists(folder) from None
    lock.take()


def exists(folder: Path) -> InputError:
    """What to say of a new run whose folder is there."""
    return InputError(f"{folder} exists: choose another name=NAME, or go on with it by --resume")


def check_same(
    folder: Path,
    began: Mapping[str, Any],
    now: Mapping[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Refuse to go on with a run with other settings, as far as its result follows from them.

    Parameters
    ----------
    folder : Path
        Of the run.
    began, now : mappings
        Settings, section by section. What only older versions knew changes nothing now.
    defaults : mapping
        Of what older versions did not know.

    Raises
    ------
    InputError
        Naming every key that differs, or that the network or the images are others.
    """
    began, now = {**_flat(defaults), **_flat(began)}, _flat(now)
    for key, what in _CONTENTS.items():
        if key in began and began[key] != now.get(key):
            raise InputError(f"{folder} began with {what}: choose another name=NAME")
    differing = [
        f"{key}={began.get(key)}, not {value}"
        for key, value in now.items()
        if key not in _FREE and began.get(key) != value and not _moved(key, began.get(key), value)
    ]
    if differing:
        raise InputError(
            f"{folder} began with {'; '.join(differing)}: resume it with the settings of its "
            "config.yaml, or choose another name=NAME"
        )


def _moved(key: str, began: Any, now: Any) -> bool:
    """Whether the same function of a user's file makes the network, wherever the file lies."""
    return key == "model.name" and all(map(is_file, (began, now))) and (
        folder_name(began) == folder_name(now)
    )  # fmt: skip


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = value
    return flat
