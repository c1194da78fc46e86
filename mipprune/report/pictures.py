"""Pictures of a run: kept channels a layer, and the relaxation gap of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt

_INK, _PALE, _WARM = "#20558a", "#d3dce6", "#c4602d"


def draw_report(
    path: Path, result: Mapping[str, Any], comparisons: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Draw a run and its comparisons into one picture.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    result : mapping
        ``result.json`` of a run.
    comparisons : mapping of str to rows
        Rows of :func:`mipprune.compare.compare` by problem.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained"
    )
    _draw_layers(left, result)
    _draw_gaps(right, comparisons)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_layers(axes, result: Mapping[str, Any]) -> None:
    names = list(result["layers"])
    dense = [result["layers"][name][0] for name in names]
    kept = [result["layers"][name][1] for name in names]
    places = range(len(names))
    axes.barh(places, dense, color=_PALE, label="dense")
    axes.barh(places, kept, color=_INK, label="kept")
    for place, (all_, left) in enumerate(zip(dense, kept, strict=True)):
        axes.annotate(
            f"{left}", (all_, place), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("output channels")
    axes.legend(frameon=False, loc="upper right")
    lost = result["dense"]["accuracy"] - result["pruned"]["accuracy"]
    axes.set_title(
        f"{result['kept']['macs']:.0%} of MACs kept, {lost:.2f} points of accuracy lost",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_gaps(axes, comparisons: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    rows = {"big-m-relaxation": _WARM, "perspective-relaxation": _INK, "spr-trained": "#7ba7cf"}
    height = 0.8 / len(rows)
    for shift, (name, colour) in enumerate(rows.items()):
        for place, table in enumerate(comparisons.values()):
            exact = next(row for row in table if row["name"] == "exact")
            row = next(row for row in table if row["name"] == name)
            gap = 100 * (exact["objective"] - row["objective"]) / exact["objective"]
            at = place + (shift - 1) * height
            axes.barh(at, gap, height, color=colour, label=None if place else name)
            axes.annotate(
                f"{gap:.1f} %", (gap, at), (4, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(comparisons)), comparisons, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("relaxation below the exact optimum, %")
    axes.set_title("How tight: the smaller the better", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
