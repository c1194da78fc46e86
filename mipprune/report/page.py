"""One HTML page about runs: it holds everything that it shows and asks for nothing."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from formulations.errors import InputError
from mipprune.report.charts import number, percent
from mipprune.report.figures import STYLES, accuracy_over_macs, curves, method_charts
from mipprune.runs.log import Log
from mipprune.runs.record import RunRecord, timeline

_UNITS = {"macs": "MACs", "params": "parameters"}
_PACKAGES = ("mipprune", "torch", "numpy", "scipy", "highspy")


def render(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """The page as a string of HTML.

    Parameters
    ----------
    runs : sequence of RunRecord
        At least one.
    names : sequence of str
        What each run is called, of :func:`run_names`.
    """
    environment = Environment(
        loader=PackageLoader("mipprune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, finite=_finite)
    methods = list(dict.fromkeys(run.method for run in runs))
    styles = {method: STYLES[i % len(STYLES)] for i, method in enumerate(methods)}
    shown = [_run(run, name) for run, name in zip(runs, names, strict=True)]
    rows = [one["summary"] for one in shown]
    return environment.get_template("page.html").render(
        title=names[0] if len(runs) == 1 else f"{len(runs)} runs",
        runs=shown,
        scatters=accuracy_over_macs(names, rows, styles),
        methods=styles,
        differing=_differing(runs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"Python": platform.python_version(), **{n: _version(n) for n in _PACKAGES}},
        machine=f"{platform.system()} {platform.machine()}",
    )


def run_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the runs' paths, as many as tell them apart."""
    paths = [path.resolve() for path in paths]
    longest = max(len(path.parts) for path in paths)
    for count in range(1, longest + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def summary(run: RunRecord) -> dict[str, Any]:
    """The row of a run in the table of all; None where the run has not got so far.

    MACs and parameters are counts, the size is in bytes, latencies in ms of a batch of 64, the
    accuracies in percent.
    """
    result = run.result or {}
    dense, pruned = _mapping(result.get("dense")), _mapping(result.get("pruned"))
    if not dense:  # measured before the run ended
        dense = next((dict(line) for line in run.lines if line["phase"] == "dense"), {})
    kept = _mapping(result.get("kept"))
    budget = _mapping(result.get("budget")) or {
        unit: share for unit, share in run.section("budget").items()
        if unit in ("macs", "params") and share is not None
    }  # fmt: skip
    return {
        "method": run.method,
        "model": run.section("model").get("name"),
        "data": run.section("data").get("name"),
        "budget": ", ".join(f"{100 * s:g} % of {_UNITS.get(u, u)}" for u, s in budget.items())
        or None,
        "dense": dense,
        "pruned": pruned,
        "kept_macs": kept.get("macs"),
        "kept_params": kept.get("params"),
        "seconds": result.get("seconds"),
        "state": _state(run),
    }


def _run(run: RunRecord, name: str) -> dict[str, Any]:
    """Everything that a run's own section shows."""
    time = timeline(run.lines)
    row = summary(run)
    charts, constants = method_charts(time, _log(run))
    layers = (run.result or {}).get("layers")
    stamps = [line["time"] for line in run.lines if isinstance(line.get("time"), int | float)]
    return {
        "name": name,
        "summary": row,
        "curves": curves(time, row["dense"].get("accuracy")),
        "method_charts": charts,
        "constants": constants,
        "layers": _layers(_mapping(layers)),
        "unit": "weights" if run.config.get("granularity") == "link" else "channels",
        "certificate": _certificate(run.certificate),
        "config": run.config_text,
        "facts": _facts(run, stamps),
    }


def _log(run: RunRecord) -> Log:
    """What the run's numbers are: as it wrote down, else as its method says today."""
    if run.log is not None:
        return run.log
    # with torch, which takes seconds to import: only old runs need it
    from mipprune.methods.registry import log_of  # noqa: PLC0415

    try:
        return log_of(run.method)
    except InputError:  # a method that is not installed here
        return {}


def _state(run: RunRecord) -> str:
    if run.result is not None:
        return "finished"
    epochs = [line for line in run.lines if line["epoch"] > 0]
    if not epochs:
        return "not begun"
    last = epochs[-1]
    planned = run.section(last["phase"]).get("epochs")
    of = f" of {planned}" if planned else ""
    return f"not finished: {last['phase']}, epoch {last['epoch']}{of}"


def _layers(layers: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, sizes in layers.items():
        if isinstance(sizes, Sequence) and len(sizes) == 2 and sizes[0]:
            rows.append({"name": name, "dense": sizes[0], "kept": sizes[1]})
    largest = max((row["dense"] for row in rows), default=1)
    for row in rows:
        row["dense_width"] = 100 * row["dense"] / largest
        row["kept_width"] = 100 * row["kept"] / largest
    return rows


def _certificate(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    if rows is None:
        return None
    fields = ("layer", "method", "groups", "kept", "objective", "bound", "gap")
    shown: list[dict[str, Any]] = [{name: row.get(name) for name in fields} for row in rows]
    gaps = [row["gap"] for row in shown if _finite(row["gap"])]
    largest = max(gaps, default=0.0)
    for row in shown:
        row["width"] = 100 * row["gap"] / largest if largest > 0 and _finite(row["gap"]) else 0
    return {"rows": shown, "largest": largest, "within": sum(gap <= 0.01 for gap in gaps)}


def _differing(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Settings that are not the same in all runs, with the value in each."""
    flat = [_flatten(run.config) for run in runs]
    keys = {key for one in flat for key in one if key not in ("name", "runs")}
    rows = ({"key": key, "values": [one.get(key) for one in flat]} for key in sorted(keys))
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _facts(run: RunRecord, stamps: Sequence[float]) -> dict[str, str]:
    """What is known of where and when the run went."""
    result, found = run.result or {}, {}
    if result.get("device"):
        found["device"] = str(result["device"])
    if stamps:
        first, last = (datetime.fromtimestamp(at, UTC) for at in (min(stamps), max(stamps)))
        found["first and last epoch"] = f"{first:%Y-%m-%d %H:%M} – {last:%Y-%m-%d %H:%M} UTC"
    if result.get("seconds") is not None:
        found["duration"] = f"{result['seconds']:,.0f} s"
    speeds = sorted(line["images_per_s"] for line in run.lines if "images_per_s" in line)
    if speeds:
        found["training speed, median"] = f"{speeds[len(speeds) // 2]:,.0f} images/s"
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "–"
