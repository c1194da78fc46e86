"""Charts as plain geometry: what a template has to draw, in the units of an SVG's view box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.ticker import Locator, LogLocator, MaxNLocator

Point = tuple[float, float]
Shape = dict[str, Any]
"""What the template needs to draw one band, line, mark, strip or entry of the legend."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 34, 38  # margins of the plot
_MOST_POINTS = 300  # of a line: more than its pixels show
_MOST_TOOLTIPS = 80
_LOG_FROM = 50  # ratio of values at which an axis becomes logarithmic
_LETTER = 6.2  # mean width of a letter of the labels


@dataclass(frozen=True)
class Series:
    """A line: its name in the legend, its points in order, its style (a CSS class)."""

    name: str
    points: Sequence[Point]
    style: str
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A single point: where, what the tooltip says, its style, a name written beside it."""

    at: Point
    tooltip: str
    style: str
    label: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class Scale:
    """From numbers to places, linear or logarithmic; ``most`` is the largest with a tick."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False
    most: float = math.inf

    def __call__(self, value: float) -> float:
        """The place of a number."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Place and label of about ``count`` round numbers, whole ones if the values are."""
        locator: Locator
        if self.log and self.high / self.low > 30:
            locator = LogLocator(10, numticks=count)
        elif self.log:
            locator = LogLocator(10, subs=(1, 2, 5), numticks=count)
        else:
            locator = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=self.whole)
        high = min(self.high, self.most)
        values = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= high]
        tiny = 1e-9 * (self.high - self.low)  # what a locator leaves of zero
        return [(self(v), number(0.0 if abs(v) < tiny else v)) for v in values]


@dataclass
class Chart:
    """What one SVG shows, ready to be drawn."""

    title: str
    x_label: str
    y_label: str
    width: int
    height: int
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    bands: list[Shape] = field(default_factory=list)
    lines: list[Shape] = field(default_factory=list)
    marks: list[Shape] = field(default_factory=list)
    tooltips: list[Shape] = field(default_factory=list)
    legend: list[Shape] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Left edge of the plot."""
        return _LEFT

    @property
    def right(self) -> int:
        """Right edge of the plot."""
        return self.width - _RIGHT

    @property
    def top(self) -> int:
        """Upper edge of the plot."""
        return _TOP

    @property
    def bottom(self) -> int:
        """Lower edge of the plot."""
        return self.height - _BOTTOM


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    phases: Iterable[tuple[str, float, float]] = (),
    marks: Sequence[Mark] = (),
    most: float = math.inf,
    size: tuple[int, int],
) -> Chart:
    """Lines over a common axis, with the phases of the run behind them.

    Parameters
    ----------
    title, x_label, y_label : str
        The axes' quantities with their units. A logarithmic axis is said to be one.
    series : sequence of Series
        At least one finite value in all. Values that are not finite interrupt the line.
    phases : iterable of (name, first, last), optional
    marks : sequence of Mark, optional
    most : float, optional
        The largest value that there can be.
    size : (width, height)
        Of the view box.
    """
    values = [y for one in series for _, y in one.points if math.isfinite(y)]
    values += [mark.at[1] for mark in marks]
    places = [x for one in series for x, _ in one.points] + [mark.at[0] for mark in marks]
    phases = list(phases)
    places += [x for _, first, last in phases for x in (first, last)]
    log = min(values) > 0 and max(values) > _LOG_FROM * min(values)
    chart = Chart(title, x_label, y_label + (", log scale" if log else ""), *size)
    whole = all(isinstance(value, int) for value in values)
    x = Scale(*_padded(min(places), max(places), 0), chart.left, chart.right, whole=True)
    low, high = _padded(min(values), max(values), 0.06, log)
    y = Scale(low, high, chart.bottom, chart.top, log, whole, most)
    chart.x_ticks, chart.y_ticks = x.ticks(6), y.ticks(5)
    for index, (name, first, last) in enumerate(phases):
        width = x(last) - x(first)
        room = _LETTER * len(name) + 6 <= width
        chart.bands.append(
            {"x": x(first), "width": width, "name": name, "label": name if room else "",
             "odd": index % 2}
        )  # fmt: skip
    for one in series:
        points = [(x(at), y(value) if math.isfinite(value) else math.nan)
                  for at, value in thin(one.points, _MOST_POINTS)]  # fmt: skip
        chart.lines.append({"d": path(points), "style": one.style, "dashed": one.dashed})
        chart.legend.append({"name": one.name, "style": one.style, "dashed": one.dashed})
    chart.tooltips = _tooltips(series, phases, x, chart)
    chart.marks = _place(marks, x, y, chart)
    return chart


def scatter(
    title: str,
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    most: float = math.inf,
    size: tuple[int, int],
) -> Chart:
    """Points by their two quantities, each with its name beside it where there is room.

    Parameters as of :func:`line_chart`.
    """
    chart = Chart(title, x_label, y_label, *size)
    xs, ys = zip(*(mark.at for mark in marks), strict=True)
    x = Scale(*_padded(min(xs), max(xs), 0.08), chart.left, chart.right)
    low, high = _padded(min(ys), max(ys), 0.12)
    y = Scale(low, high, chart.bottom, chart.top, most=most)
    chart.x_ticks, chart.y_ticks = x.ticks(7), y.ticks(6)
    chart.marks = _place(marks, x, y, chart)
    return chart


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about ``most`` of the points, with every peak and every gap of the line.

    Of each of ``most``/2 stretches stay the least and the largest value, and the first that is not
    finite.
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    stretches = most // 2
    edges = [len(points) * k // stretches for k in range(stretches + 1)]
    for first, last in itertools.pairwise(edges):
        finite = [i for i in range(first, last) if math.isfinite(points[i][1])]
        if finite:
            kept |= {
                min(finite, key=lambda i: points[i][1]),
                max(finite, key=lambda i: points[i][1]),
            }
        if len(finite) < last - first:
            kept.add(next(i for i in range(first, last) if not math.isfinite(points[i][1])))
    return [points[i] for i in sorted(kept)]


def path(points: Sequence[Point]) -> str:
    """SVG path data through the points, interrupted where the second coordinate is not finite."""
    words, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            words.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(words)


def number(value: float | None) -> str:
    """A number for people: four digits; millions by M, thousands by k."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if size == 1e4 else size):.4g}{letter}"
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share for people, in percent with a decimal."""
    return "–" if share is None else f"{100 * share:.1f} %"


def _padded(low: float, high: float, share: float, log: bool = False) -> tuple[float, float]:
    """A range with room at both ends; one value alone gets a range around it."""
    if low == high:
        room = abs(low) / 50 or 0.5
        return low - room, high + room
    if log:
        factor = (high / low) ** share
        return low / factor, high * factor
    room = share * (high - low)
    return low - room, high + room


def _tooltips(
    series: Sequence[Series], phases: Sequence[tuple[str, float, float]], x: Scale, chart: Chart
) -> list[Shape]:
    """Strips as high as the plot; each says the values of all the lines at its place."""
    at: dict[float, list[str]] = {}
    for one in series:
        for place, value in one.points:
            at.setdefault(place, []).append(f"{one.name}: {number(value)}")
    places = sorted(at)
    step = math.ceil(len(places) / _MOST_TOOLTIPS)
    places = places[::step]
    centres = [x(place) for place in places]
    edges = [chart.left, *((a + b) / 2 for a, b in itertools.pairwise(centres)),
             chart.right]  # fmt: skip
    strips = []
    for i, place in enumerate(places):
        phase = [f", {name}" for name, first, last in phases if first < place <= last]
        head = f"{chart.x_label} {number(place)}{''.join(phase)}"
        strips.append(
            {"x": edges[i], "width": edges[i + 1] - edges[i], "centre": centres[i],
             "text": "\n".join([head, *at[place]])}
        )  # fmt: skip
    return strips


def _place(
    marks: Sequence[Mark], x: Callable[[float], float], y: Callable[[float], float], chart: Chart
) -> list[Shape]:
    """Marks with their names where these cover neither one another nor a mark."""
    centres = [(x(mark.at[0]), y(mark.at[1])) for mark in marks]
    taken = [(a - 6, b - 6, a + 6, b + 6) for a, b in centres]
    placed = []
    for mark, (a, b) in zip(marks, centres, strict=True):
        width = _LETTER * len(mark.label)
        spots = (
            ("start", a + 9, b + 4), ("end", a - 9, b + 4),
            ("middle", a, b - 10), ("middle", a, b + 18),
        )  # fmt: skip
        label = None
        for anchor, left, base in spots if mark.label else ():
            first = left - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (first, base - 10, first + width, base + 3)
            inside = chart.left <= first and box[2] <= chart.right and chart.top <= box[1]
            if inside and base <= chart.bottom and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                label = {"x": left, "y": base, "anchor": anchor, "text": mark.label}
                break
        placed.append({"x": a, "y": b, "mark": mark, "label": label})
    return placed


def _overlap(one: Sequence[float], two: Sequence[float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
