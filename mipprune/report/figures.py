"""The charts of a report: a run's curves, its method's numbers, the runs by accuracy and MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mipprune.report.charts import Chart, Mark, Series, line_chart, number, percent, scatter
from mipprune.runs.reading import Points, Timeline

STYLES = tuple(f"s{index}" for index in range(1, 7))
_LARGE, _SMALL = (430, 240), (330, 200)  # view boxes of the curves, of the method's numbers
# What methods report of themselves, by key or by its first word: title, unit.
_NUMBERS = {
    "lam": ("weight λ of the regularizer", "λ"),
    "alpha": ("α of the term", "α"),
    "nu": ("price ν of the cost", "ν"),
    "c": ("constant c of the threshold", "c"),
    "threshold": ("threshold of the weights", "threshold"),
    "penalty": ("penalty", "penalty"),
    "macs_above_threshold": ("MACs above the threshold", "share of the dense MACs"),
    "expected": ("expected cost", "share of the dense network"),
    "regime": ("groups in each regime of the penalty", "share of the groups"),
    "zero": ("groups at zero", "share of the groups"),
    "small_scales": ("BatchNorm weights below 1 % of the largest", "share of them"),
    "groups_outside_box": ("groups corrected into their box", "groups"),
    "groups": ("groups left", "groups"),
    "blocks": ("residual blocks left", "blocks"),
    "open_gates": ("gates neither open nor closed", "gates"),
    "factor": ("penalty factor ρ of the groups", "ρ"),
    "magnitude": ("mean magnitude of the groups", "L1 norm per weight"),
    "stage": ("stage: 0 pick, 1 grow, 2 stabilise", "stage"),
}


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


def method_charts(time: Timeline) -> tuple[list[Chart], dict[str, str]]:
    """A chart for each number that the method reports, or for those with one first word; and the
    numbers that never change.
    """
    constants, families = {}, {}
    for key, points in time.method_numbers.items():
        values = {value for _, value in points}
        if len(values) == 1:
            constants[_title(key)[0]] = number(values.pop())
        elif _drawable(points):
            families.setdefault(_family(key, time.method_numbers), {})[key] = points
    charts = []
    for family, members in families.items():
        title, unit = _title(family)
        series = [
            Series(key.removeprefix(f"{family}_").replace("_", " ") if len(members) > 1 else title,
                   points, STYLES[i % len(STYLES)])
            for i, (key, points) in enumerate(members.items())
        ]  # fmt: skip
        first = min(points[0][0] for points in members.values())
        last = max(points[-1][0] for points in members.values())
        phases = [p for p in time.phases if p[1] < last and p[2] >= first]
        charts.append(line_chart(title[:1].upper() + title[1:], series, x_label="epoch",
                                 y_label=unit, phases=phases, size=_SMALL))  # fmt: skip
    return charts, constants


def _family(key: str, keys: Mapping[str, Points]) -> str:
    """What a number is drawn with: those with the same first word, unless it has its own title."""
    first = key.split("_")[0]
    alone = key in _NUMBERS or sum(other.split("_")[0] == first for other in keys) == 1
    return key if alone else first


def _title(key: str) -> tuple[str, str]:
    words = key.replace("_", " ")
    return _NUMBERS.get(key) or (words, words)


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
    shared: dict[tuple, list[str]] = {}
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
    labels = {"x_label": "MACs of one image, millions", "y_label": "test accuracy, %", "most": 100}
    return [
        {
            "data": data,
            "wide": scatter(f"Accuracy over MACs, {data}", marks, size=(760, 330), **labels),
            "narrow": scatter(f"Accuracy over MACs, {data}", marks, size=(380, 320), **labels),
        }
        for data, marks in found.items()
    ]


def _point(at: tuple[float, float]) -> str:
    return f"{at[1]:.2f} % at {at[0]:.4g} M MACs"


def _drawable(points: Points) -> bool:
    return any(math.isfinite(value) for _, value in points)
