"""What a user sees of a run, and its metrics: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import rich.console
import rich.progress

# Numbers that the line on the terminal has room for.
_SHOWN = ("loss", "accuracy", "macs_above_threshold", "expected_macs", "zero", "macs")


class Progress:
    """A progress bar on a terminal, and one line of metrics an epoch.

    Parameters
    ----------
    folder : Path
        Run folder; files are opened with the first line, so that it may not exist yet.
    steps : int
        Training steps in all.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder, self._writer, self._count = folder, None, 0
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            console=rich.console.Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("training", total=steps)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()
        if self._writer:
            self._writer.close()

    def advance(self) -> None:
        """One training step done."""
        self._bar.advance(self._task)

    def say(self, *, phase: str, epoch: int, **numbers: float | None) -> None:
        """Record one line of numbers."""
        line = {"phase": phase, "epoch": epoch, "time": time.time(), **numbers}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder / "tensorboard")
        self._count += 1
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(f"{phase}/{name}", value, self._count)
        shown = "  ".join(
            f"{name} {numbers[name]:.4g}" for name in _SHOWN if numbers.get(name) is not None
        )
        self._bar.update(self._task, description=f"{phase} {epoch}  {shown}")
        if self._bar.disable:
            print(f"{phase} {epoch}  {shown}", file=sys.stderr, flush=True)
