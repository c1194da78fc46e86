"""What the numbers are that a run writes down every epoch: their titles and units.

Whoever reports numbers, a method or the training, describes them in a :data:`Log`: the terminal's
line, TensorBoard and the report read it there, and a run keeps its own in its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LogEntry:
    """One number.

    Attributes
    ----------
    title : str
        What it is. Numbers with the same title are drawn in one chart.
    unit : str
        The quantity of the chart's axis with its unit, such as "share of the groups".
    shown : str
        Its name on the terminal's line of an epoch, where there is room for few; empty: not shown.
    factor : float
        What it is multiplied with there, such as 100 for a share in percent.
    """

    title: str
    unit: str
    shown: str = ""
    factor: float = 1.0


Log = Mapping[str, LogEntry]
"""Descriptions of numbers by their keys."""


def described(log: Log, keys: Iterable[str]) -> dict[str, LogEntry]:
    """The entry of every key; one that the log does not know is described by its own words.

    Of these, keys with the same first word share a title.
    """
    keys = list(keys)
    first = [key.partition("_")[0] for key in keys if key not in log]
    found = {}
    for key in keys:
        word = key.partition("_")[0]
        title = (word if first.count(word) > 1 else key).replace("_", " ")
        found[key] = log.get(key) or LogEntry(title, title)
    return found
