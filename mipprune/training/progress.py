"""What a user sees of a run, and its metrics: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import rich.console
import rich.progress
import rich.text

from mipprune.runs.layout import RunLayout
from mipprune.runs.log import Log, LogEntry
from mipprune.training.loop import Place

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# The numbers of the training itself; a method describes its own.
LOG: Log = {
    "loss": LogEntry("training loss", "cross-entropy, nats", "loss"),
    "accuracy": LogEntry("test accuracy", "%", "accuracy"),
    "images_per_s": LogEntry("training speed", "images/s"),
    "kept_macs": LogEntry("MACs kept", "share of the dense MACs", "kept MACs %", 100.0),
    "kept_params": LogEntry("parameters kept", "share of the dense parameters"),
}


class Progress(Protocol):
    """What a run tells of itself, and to whom."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def advance(self, place: Place, loss: float | None) -> None:
        """One training step done; the epoch's mean loss so far, where it was looked at."""

    def record(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """Record one line of numbers."""

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs: how much of the metrics belongs to this moment."""

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """Go on after so many steps; lines that a killed process wrote later are taken back."""


class NoProgress:
    """A :class:`Progress` that tells nobody: of the ranks that do not write, and of a replay."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def advance(self, place: Place, loss: float | None) -> None:
        """See :meth:`Progress.advance`."""

    def record(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """See :meth:`Progress.record`."""

    def state(self) -> dict[str, Any]:
        """See :meth:`Progress.state`."""
        return {}

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """See :meth:`Progress.restore`."""


class _ImagesPerSecond(rich.progress.ProgressColumn):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(f"{(task.speed or 0) * self._batch:,.0f} images/s")


class RunProgress:
    """A progress bar on a terminal, and one line of metrics an epoch.

    Parameters
    ----------
    layout : RunLayout
        Of the run; its files are opened with the first line, so that they may not exist yet.
    log : Log
        What the numbers are, the training's and the method's.
    steps : int
        Training steps in all.
    batch : int
        Images of a step.
    """

    def __init__(self, layout: RunLayout, log: Log, steps: int, batch: int) -> None:
        self._metrics, self._board, self._log = layout.metrics, layout.tensorboard, log
        self._writer: SummaryWriter | None = None
        self._lines = 0
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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._writer:
            self._writer.close()

    def advance(self, place: Place, loss: float | None) -> None:
        """See :meth:`Progress.advance`."""
        self._bar.advance(self._task)
        if loss is not None and not self._bar.disable:
            now = f"{place.phase} {place.epoch + 1}  loss {loss:.4g}"
            self._bar.update(self._task, description=f"{now}  {self._epoch}")

    def record(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """See :meth:`Progress.record`."""
        line = {"phase": phase, "epoch": epoch, "time": time.time(), **numbers}
        with open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the next checkpoint, which says how much is here, is safe too
        self._lines += 1
        self._show_board(phase, numbers)
        shown = self._shown(numbers)
        self._epoch = "  ".join(text for title, text in shown.items() if title != "loss")
        said = f"{phase} {epoch}  {'  '.join(shown.values())}"
        if self._bar.disable:
            print(said, file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, description=said)

    def _show_board(self, phase: str, numbers: dict[str, float | None]) -> None:
        if self._writer is None:
            # takes seconds to import, and a run that is refused never writes a line
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

            self._writer = SummaryWriter(self._board, purge_step=self._lines)
            rows = [f"| {key} | {e.title} | {e.unit} |" for key, e in self._log.items()]
            self._writer.add_text("numbers", "\n".join(["| | | |", "|-|-|-|", *rows]), 0)
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(f"{phase}/{name}", value, self._lines)

    def _shown(self, numbers: dict[str, float | None]) -> dict[str, str]:
        """What the terminal's line has room for, by its name there."""
        found = {}
        for key, entry in self._log.items():
            value = numbers.get(key)
            if entry.shown and value is not None:
                found[entry.shown] = f"{entry.shown} {entry.factor * value:.4g}"
        return found

    def state(self) -> dict[str, Any]:
        """See :meth:`Progress.state`."""
        size = self._metrics.stat().st_size if self._metrics.exists() else 0
        return {"lines": self._lines, "bytes": size}

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """See :meth:`Progress.restore`."""
        self._lines = state["lines"]
        if self._metrics.exists() and self._metrics.stat().st_size > state["bytes"]:
            os.truncate(self._metrics, state["bytes"])
        self._bar.update(self._task, completed=steps)
