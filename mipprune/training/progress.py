"""What a user sees of a run, and its metrics: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.text

from mipprune.training.loop import Place

# Numbers of an epoch that the line on the terminal has room for, and what they are called there.
_SHOWN = {
    "loss": ("loss", 1.0),
    "accuracy": ("accuracy", 1.0),
    "macs_above_threshold": ("kept MACs %", 100.0),
    "expected_macs": ("kept MACs %", 100.0),
    "zero": ("groups at zero %", 100.0),
    "kept_macs": ("kept MACs %", 100.0),
}


class _ImagesPerSecond(rich.progress.ProgressColumn):
    def __init__(self, batch: int):
        super().__init__()
        self._batch = batch

    def render(self, task) -> rich.text.Text:
        return rich.text.Text(f"{(task.speed or 0) * self._batch:,.0f} images/s")


class Silent:
    """The verbs of :class:`Progress`, for the ranks that do not write."""

    def __init__(self, folder: Path, steps: int, batch: int):
        pass

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error) -> None:
        pass

    def advance(self, place: Place, loss: float | None) -> None:
        """See :meth:`Progress.advance`."""

    def say(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """See :meth:`Progress.say`."""

    def state(self) -> dict[str, Any]:
        """See :meth:`Progress.state`."""
        return {}

    def go_on(self, state: dict[str, Any], steps: int) -> None:
        """See :meth:`Progress.go_on`."""


class Progress:
    """A progress bar on a terminal, and one line of metrics an epoch.

    Parameters
    ----------
    folder : Path
        Run folder; files are opened with the first line, so that it may not exist yet.
    steps : int
        Training steps in all.
    batch : int
        Images of a step.
    """

    def __init__(self, folder: Path, steps: int, batch: int):
        self._metrics, self._board = folder / "metrics.jsonl", folder / "tensorboard"
        self._writer, self._lines = None, 0
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            _ImagesPerSecond(batch),
            rich.progress.TimeRemainingColumn(),
            console=rich.console.Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("training", total=steps)
        self._epoch = ""

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()
        if self._writer:
            self._writer.close()

    def advance(self, place: Place, loss: float | None) -> None:
        """One training step done; the epoch's mean loss so far, where it was looked at."""
        self._bar.advance(self._task)
        if loss is not None and not self._bar.disable:
            now = f"{place.phase} {place.epoch + 1}  loss {loss:.4g}"
            self._bar.update(self._task, description=f"{now}  {self._epoch}")

    def say(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """Record one line of numbers."""
        line = {"phase": phase, "epoch": epoch, "time": time.time(), **numbers}
        with open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the next checkpoint, which says how much is here, is safe too
        self._lines += 1
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._board, purge_step=self._lines)
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(f"{phase}/{name}", value, self._lines)
        shown = {}
        for name, (title, factor) in _SHOWN.items():
            if numbers.get(name) is not None:
                shown[title] = f"{title} {factor * numbers[name]:.4g}"
        self._epoch = "  ".join(text for title, text in shown.items() if title != "loss")
        said = f"{phase} {epoch}  {'  '.join(shown.values())}"
        if self._bar.disable:
            print(said, file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, description=said)

    def state(self) -> dict[str, Any]:
        """What :meth:`go_on` needs: how much of the metrics belongs to this moment."""
        size = self._metrics.stat().st_size if self._metrics.exists() else 0
        return {"lines": self._lines, "bytes": size}

    def go_on(self, state: dict[str, Any], steps: int) -> None:
        """Go on after so many steps; lines that a killed process wrote later are taken back."""
        self._lines = state["lines"]
        if self._metrics.exists() and self._metrics.stat().st_size > state["bytes"]:
            os.truncate(self._metrics, state["bytes"])
        self._bar.update(self._task, completed=steps)
