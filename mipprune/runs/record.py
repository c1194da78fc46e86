"""A run as its folder tells it, finished or not: what a report is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from formulations.errors import InputError
from mipprune.runs.files import read_json, read_text
from mipprune.runs.layout import RunLayout
from mipprune.runs.log import Log, LogEntry

_MARKS = ("dense", "remove", "resume")  # lines that say what happened between epochs
_AWAY = "restore it from a copy, or move it away to go without"
_NOT_METHOD = {"phase", "epoch", "time", "loss", "accuracy", "images_per_s"}

Line = Mapping[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class RunRecord:
    """What one run's files say; those that it does not have (yet) are empty or None.

    Attributes
    ----------
    path : Path
    config : dict
        ``config.yaml``; ``config_text`` as it stands there.
    lines : tuple of dict
        ``metrics.jsonl``.
    result : dict or None
        ``result.json``, of a finished run.
    log : Log or None
        ``log.json``: what the method's numbers are. None of a run that wrote none down.
    certificate : tuple of dict or None
        Rows of ``certificate.json``: layer, groups, kept, objective, bound, gap, method.
    """

    path: Path
    config: Mapping[str, Any]
    config_text: str
    lines: tuple[Line, ...]
    result: Mapping[str, Any] | None
    log: Log | None
    certificate: tuple[Mapping[str, Any], ...] | None

    def section(self, name: str) -> Mapping[str, Any]:
        """A part of the configuration, empty if it is not there."""
        found = self.config.get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def method(self) -> str:
        """Name of the pruning method."""
        return str((self.result or {}).get("method") or self.section("method").get("name") or "–")


@dataclass(frozen=True)
class Timeline:
    """A run's numbers over the epochs of all its phases, one after the other.

    Attributes
    ----------
    phases : tuple of (name, first, last)
        Epochs counted from the run's beginning; the first is where the phase before it ended.
    series : dict of str to points
        By the number's name: (epoch, value).
    reference : points
        Training loss of the dense network that was trained beside it.
    removal : (epoch, accuracy) or None
        After physical removal, before fine-tuning.
    """

    phases: tuple[tuple[str, int, int], ...] = ()
    series: Mapping[str, Points] = field(default_factory=dict)
    reference: Points = field(default_factory=list)
    removal: tuple[float, float] | None = None

    @property
    def method_numbers(self) -> dict[str, Points]:
        """Those series that the method reports of itself."""
        return {key: points for key, points in self.series.items() if key not in _NOT_METHOD}


def read_run(path: Path) -> RunRecord:
    """Read a run's folder.

    Raises
    ------
    InputError
        If it is none, or one of its files cannot be read.
    """
    if not path.is_dir():
        raise InputError(f"no run at {path}")
    layout = RunLayout(path)
    config, result = layout.config, layout.result
    if not config.exists() and not result.exists():
        raise InputError(f"no run at {path}: it has neither {config.name} nor {result.name}")
    text = _text(config) or ""
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{config} is not a mapping in YAML: {_AWAY}")
    return RunRecord(
        path,
        settings,
        text,
        _lines(layout.metrics),
        _mapping(result),
        _log(layout.log),
        _certificate(layout.certificate),
    )


def timeline(lines: Sequence[Line]) -> Timeline:
    """Put a run's metrics on one axis of epochs.

    An epoch that a resumed run repeated counts once, as it went the last time.
    """
    epochs: dict[str, dict[int, Line]] = {}
    removed: Line | None = None
    after: list[str] = []
    for line in lines:
        phase = line["phase"]
        if phase == "remove":
            removed, after = line, list(epochs)
        elif phase not in _MARKS:
            epochs.setdefault(phase, {})[line["epoch"]] = line
    reference = epochs.pop("reference", {})
    series: dict[str, Points] = {}
    accuracy = removed.get("accuracy") if removed else None
    phases: list[tuple[str, int, int]] = []
    start, removal = 0, None if accuracy is None else (0, accuracy)
    for phase, found in epochs.items():
        for epoch in sorted(found):
            for key, value in found[epoch].items():
                if key not in ("phase", "epoch", "time") and isinstance(value, int | float):
                    series.setdefault(key, []).append((start + epoch, value))
        end = start + max(found)
        phases.append((phase, start, end))
        if accuracy is not None and phase in after:
            removal = (end, accuracy)  # that of the last phase before it stays
        start = end
    return Timeline(
        tuple(phases),
        series,
        [(epoch, line["loss"]) for epoch, line in sorted(reference.items())],
        removal,
    )


def read_result(run: Path) -> dict[str, Any] | None:
    """``result.json`` of a run's folder; None of a run that has not ended.

    Raises
    ------
    InputError
        If there is one that cannot be read.
    """
    return _mapping(RunLayout(run).result)


def _text(path: Path) -> str | None:
    try:
        return read_text(path, _AWAY)
    except FileNotFoundError:
        return None


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, _AWAY)
    except FileNotFoundError:
        return None


def _lines(path: Path) -> tuple[Line, ...]:
    """Lines of metrics; the last one may be half written."""
    text = _text(path) or ""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
            found.append({**value, "phase": str(value["phase"]), "epoch": int(value["epoch"])})
        except (ValueError, TypeError, KeyError):
            if number == text.count("\n") + 1:
                break  # no newline yet: the run is writing it, or was killed
            raise InputError(f"{path}, line {number}, is no line of metrics: {_AWAY}") from None
    return tuple(found)


def _log(path: Path) -> Log | None:
    value = _mapping(path)
    if value is None:
        return None
    try:
        return {
            key: LogEntry(str(entry["title"]), str(entry["unit"])) for key, entry in value.items()
        }
    except (KeyError, TypeError):
        raise InputError(f"{path} lacks titles or units of numbers: {_AWAY}") from None


def _certificate(path: Path) -> tuple[Mapping[str, Any], ...] | None:
    value = _mapping(path)
    if value is None:
        return None
    rows = value.get("layers")
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "layer" in r for r in rows):
        raise InputError(f"{path} holds no certificates, a list of layers: {_AWAY}")
    return tuple(rows)
