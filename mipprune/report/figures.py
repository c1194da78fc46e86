"""The charts of a report: a run's curves, its method's numbers, the runs by accuracy and MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mipprune.report.charts import Chart, Mark, Point, Series, line_chart, number, percent, scatter
from mipprune.runs.log import Log, described
from mipprune.runs.record import Points, Timeline

STYLES = tuple(f"s{index}" for index in range(1, 7))
_LARGE, _SMALL = (430, 240), (330, 200)  # view boxes of the curves, of the method's numbers


def curves(time: Timeline, before: float | None) -> list[Chart]:
    """Loss and accuracy over the epochs, beside those of the dense network.

    Parameters
    ----------
    time : Timeline
    before : float or None
        Test accuracy of the dense network, percent.
    """
    loss = [Series("training loss", time.series.get("loss", []), "s1")]
    if time.reference:
        loss.append(Series("dense reference", time.reference, "quiet", dashed=True))
    accuracy = [Series("test accuracy", time.series.get("accuracy", []), "s1")]
    if before is not None and time.phases:
        last = time.phases[-1][2]
        accuracy.append(Series("dense", [(0, before), (last, before)], "quiet", dashed=True))
    marks = []
    if time.removal:
        epoch, value = time.removal
        said = f"after removal, epoch {epoch}: {value:.2f} %"
        marks = [Mark(time.removal, said, "s2")]
    charts = []
    for title, unit, series, points, most in (
        ("Loss", "cross-entropy, nats", loss, [], math.inf),
        ("Accuracy", "%", accuracy, marks, 100),
    ):
        series = [one for one in series if _drawable(one.points)]
        if series:
            charts.append(
                line_chart(title, series, x_label="epoch", y_label=unit, phases=time.phases,
                           marks=points, most=most, size=_LARGE)
            )  # fmt: skip
    return charts


def method_charts(time: Timeline, log: Log) -> tuple[list[Chart], dict[str, str]]:
    """A chart for the numbers of each title that the method reports; those that never change.

    Parameters
    ----------
    time : Timeline
    log : Log
        What the method's numbers are; one that it does not know is called by its key.

    Returns
    -------
    charts : list of Chart
    constants : dict
        Values of the numbers that never change, by what these are.
    """
    entries = described(log, time.method_numbers)
    constants: dict[str, str] = {}
    charted: dict[str, dict[str, Points]] = {}
    for key, points in time.method_numbers.items():
        values = {value for _, value in points}
        title = entries[key].title
        if len(values) == 1:
            alone = sum(entry.title == title for entry in entries.values()) == 1
            constants[title if alone else key.replace("_", " ")] = number(values.pop())
        elif _drawable(points):
            charted.setdefault(title, {})[key] = points
    charts = []
    for title, members in charted.items():
        names = dict(zip(members, _names(list(members), title), strict=True))
        series = [
            Series(names[key], points, STYLES[i % len(STYLES)])
            for i, (key, points) in enumerate(members.items())
        ]
        first = min(points[0][0] for points in members.values())
        last = max(points[-1][0] for points in members.values())
        phases = [p for p in time.phases if p[1] < last and p[2] >= first]
        unit = entries[next(iter(members))].unit
        charts.append(line_chart(title[:1].upper() + title[1:], series, x_label="epoch",
                                 y_label=unit, phases=phases, size=_SMALL))  # fmt: skip
    return charts, constants


def _names(keys: Sequence[str], title: str) -> list[str]:
    """What the lines of one chart are called: their keys without the first word, if all share it.

    A single line is called by the title.
    """
    if len(keys) == 1:
        return [title]
    first = keys[0].partition("_")[0] + "_"
    shared = first if all(key.startswith(first) for key in keys) else ""
    return [key.removeprefix(shared).replace("_", " ") for key in keys]


def accuracy_over_macs(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], styles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Accuracy over MACs, for each data set; the wide and the narrow drawing of it.

    Runs with the same dense network share its point.

    Parameters
    ----------
    names : sequence of str
        Of the runs.
    rows : sequence of mapping
        Their summaries.
    styles : mapping of str to str
        Style of each method's points.
    """
    found: dict[str, list[Mark]] = {}
    shared: dict[tuple[str, Point], list[str]] = {}
    for name, row in zip(names, rows, strict=True):
        data = str(row["data"] or "–")
        for part in ("dense", "pruned"):
            macs, accuracy = row[part].get("macs"), row[part].get("accuracy")
            if macs is None or accuracy is None:
                continue
            at = (macs / 1e6, accuracy)
            if part == "dense":
                shared.setdefault((data, at), []).append(name)
            else:
                said = f"{name}: {_point(at)}, {percent(row['kept_macs'])} of the dense MACs"
                found.setdefault(data, []).append(Mark(at, said, styles[row["method"]], name))
    for (data, at), of in shared.items():
        mark = Mark(at, f"dense, of {', '.join(of)}: {_point(at)}", "quiet", "dense", hollow=True)
        found.setdefault(data, []).append(mark)

    def drawn(data: str, size: tuple[int, int]) -> Chart:
        return scatter(
            f"Accuracy over MACs, {data}",
            found[data],
            x_label="MACs of one image, millions",
            y_label="test accuracy, %",
            most=100,
            size=size,
        )

    return [
        {"data": data, "wide": drawn(data, (760, 330)), "narrow": drawn(data, (380, 320))}
        for data in found
    ]


def _point(at: Point) -> str:
    return f"{at[1]:.2f} % at {at[0]:.4g} M MACs"


def _drawable(points: Sequence[Point]) -> bool:
    return any(math.isfinite(value) for _, value in points)
