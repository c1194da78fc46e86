"""Pictures: of a run, a comparison, certificates, a valley of the loss, a derivation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from formulations.output import write_output
from formulations.symbolic.derivation import Derivation
from formulations.symbolic.description import symbols
from mipprune.runs.result import RunResult

_GROUP = 4  # weights of the group that is drawn, all equal
_INK, _PALE, _WARM = "#20558a", "#d3dce6", "#c4602d"


def draw_report(
    path: Path, result: RunResult, comparisons: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Draw a run and its comparisons into one picture.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    result : RunResult
        ``result.json`` of a run whose dense network is a trained one.
    comparisons : mapping of str to rows
        Rows of :func:`mipprune.analysis.compare.compare.compare` by problem.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained"
    )
    _draw_layers(left, result)
    _draw_gaps(right, comparisons)
    _write(figure, path)


def draw_certificates(path: Path, found: Mapping[str, Any]) -> None:
    """Draw certificates: of every layer the choice made, the best found, the proved bound.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    found : mapping
        What :func:`mipprune.oneshot.certify.certify_run` returns.
    """
    layers = found["layers"]
    place = range(len(layers))
    figure, axes = plt.subplots(
        figsize=(max(5.0, 2.0 + 0.3 * len(layers)), 4.4), layout="constrained"
    )
    bound, best, made = (
        [100 * row[key] for row in layers] for key in ("bound", "best", "objective")
    )
    height = [b - low for b, low in zip(best, bound, strict=True)]
    axes.bar(place, height, bottom=bound, width=0.7, color=_PALE, label="not decided")
    axes.plot(place, bound, "_", ms=10, mew=2, color=_INK, label="no choice is below")
    axes.plot(place, best, "o", ms=4, color=_INK, label="best choice found")
    axes.plot(place, made, "x", ms=6, mew=2, color=_WARM, label=f"chosen by {found['method']}")
    axes.set_xticks(place, [row["layer"] for row in layers], rotation=90)
    axes.set_ylabel("error of the layer's output, % of its variance")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _write(figure, path)


def draw_comparison(path: Path, found: Mapping[str, Any]) -> None:
    """Draw one comparison: its rows, the bounds of the exact solve over time, the trade-off curves.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    found : mapping
        What :func:`mipprune.analysis.compare.compare.compare` returns; panels without data are left
        out.
    """
    panels = [_draw_rows]
    if len(found["progress"]) > 1:
        panels.append(_draw_progress)
    if found["front"] or found["sweep"]:
        panels.append(_draw_sweep)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 4.5 * len(panels), 4.2), layout="constrained", squeeze=False
    )
    for draw, one in zip(panels, axes[0], strict=True):
        draw(one, found)
        one.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def draw_valley(path: Path, found: Mapping[str, Any]) -> None:
    """Draw a valley: losses over t, shares of eigenvectors.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    found : mapping
        What :func:`mipprune.analysis.valley.valley` returns.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    _draw_paths(left, found)
    _draw_shares(right, found)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path)


def draw_derivation(path: Path, derivation: Derivation) -> None:
    """Draw the regularizer and its keep-score against ‖w‖₂, beside ℓ1, group lasso and MCP.

    The group has four equal weights. The others get the regularizer's slope at 0, and MCP becomes
    flat at r*.

    Parameters
    ----------
    path : Path
        PNG or SVG, by its ending.
    derivation : Derivation
    """
    if derivation.block_price is None:
        term = derivation.term()
    else:
        term = derivation.nested(np.zeros(1, int))
    direction = np.full(_GROUP, _GROUP**-0.5)
    unit_norm, unit_peak = (float(x[0]) for x in term.measure(direction[None]))
    radius = float(term.radius) / unit_norm
    end = 2.2 * radius if np.isfinite(radius) else 3.0
    if derivation.bounded:
        end = min(end, derivation.bound / unit_peak) if np.isfinite(radius) else (
            derivation.bound / unit_peak
        )  # fmt: skip
    s = np.linspace(0, end, 200)
    rows = s[:, None] * direction
    # one group at a time: nested indicators would share a block
    value, keep = (np.concatenate([f(row[None]) for row in rows]) for f in (term.value, term.keep))
    slope = value[1] / s[1]
    flat = radius if np.isfinite(radius) else end
    mcp = np.where(s < flat, slope * s - slope * s**2 / (2 * flat), slope * flat / 2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    left.plot(s, slope * s * np.sqrt(_GROUP), color="#b9b9b9", label="ℓ1", ls=":")
    left.plot(s, slope * s, color="#8a8a8a", label="group lasso", ls="--")
    left.plot(s, mcp, color="#c4602d", label="MCP", ls="-.")
    left.plot(s, value, color="#20558a", lw=2.2, label="this term")
    left.set_ylim(0, 1.25 * max(value.max(), mcp.max()))
    left.set_ylabel("penalty")
    right.plot(s, np.zeros_like(s), color="#8a8a8a", label="ℓ1, group lasso: no score", ls="--")
    right.plot(s, keep, color="#20558a", lw=3, label="this term")
    right.plot(s, np.minimum(1, s / flat), color="#c4602d", label="MCP", ls="-.")
    right.set_ylim(-0.04, 1.08)
    right.set_ylabel("keep-score y*")
    for axes in (left, right):
        if np.isfinite(radius) and radius <= end:
            axes.axvline(radius, color="#20558a", lw=0.8, alpha=0.5)
            top = (radius, axes.get_ylim()[1])
            axes.annotate("r*", top, (3, -9), textcoords="offset points", fontsize=9)
        axes.set_xlabel("‖w‖₂ of four equal weights")
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"ψ(r) = {derivation.phi},  {symbols(derivation)}", fontsize=10)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    """As PNG or SVG, by the path's ending."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    plt.close(figure)
    write_output(path, content.getbuffer())


def _draw_paths(axes: Axes, found: Mapping[str, Any]) -> None:
    """Training loss along line and curve; dotted, the barrier above the larger end."""
    for name, colour, marker in (("line", _WARM, "o"), ("curve", _INK, "s")):
        path = found[name]
        axes.plot(path["t"], path["loss"], color=colour, marker=marker, markersize=3.5, label=name)
        top = path["barrier"]
        if top["at"] is not None:
            base = max(path["loss"][0], path["loss"][-1])
            axes.vlines(top["at"], base, base + top["height"], colour, "dotted")
    heights = (f"{n} {found[n]['barrier']['height']:.3g}" for n in ("line", "curve"))
    axes.set_title(f"barrier: {', '.join(heights)}", fontsize=10)
    axes.set_xlabel("t, from A (0) to B (1)")
    axes.set_ylabel("training loss")
    axes.set_ylim(bottom=0)
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
    )


def _draw_shares(axes: Axes, found: Mapping[str, Any]) -> None:
    """Share of A − B and of a random direction in every eigenvector, on a logarithmic axis."""
    hessian = found["hessian"]
    places = range(1, len(hessian["shares"]) + 1)
    for shift, key, colour, label in (
        (-0.2, "shares", _INK, "A − B"),
        (0.2, "random_shares", _PALE, "a random direction"),
    ):
        axes.bar([p + shift for p in places], hessian[key], 0.4, color=colour, label=label)
    axes.axhline(
        1 / found["parameters"], color="black", linestyle="--", linewidth=0.8,
        label="1/d, expected of a random direction",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-3 / found["parameters"])
    step = max(1, len(places) // 10)
    labels = [f"{value:.2g}" for value in hessian["eigenvalues"]]
    axes.set_xticks(places[::step], labels[::step], fontsize=8)
    axes.set_xlabel("eigenvalue of the Hessian at B")
    axes.set_ylabel("share of the squared length")
    axes.set_title(
        f"in all {len(places)}: A − B {hessian['share']:.2g}, random {hessian['random_share']:.2g}",
        fontsize=10,
    )
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False
    )


def _draw_rows(axes: Axes, found: Mapping[str, Any]) -> None:
    """Distance of every row's objective to the exact one: relaxations left, heuristics right."""
    exact, *others = found["rows"]
    scale = max(abs(exact["objective"]), 1e-12)
    # as they are printed; the sum makes 0 of −0
    above = [round(100 * (r["objective"] - exact["objective"]) / scale, 2) + 0.0 for r in others]
    for place, (row, share) in enumerate(zip(others, above, strict=True)):
        axes.barh(place, share, color=_INK if row["bound"] is not None else _WARM)
        # beyond the bar's end, on whichever side that is
        side = -1 if share < 0 else 1
        axes.annotate(
            f"{share:+.2f} %", (share, place), (4 * side, 0), textcoords="offset points",
            ha="right" if share < 0 else "left", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.use_sticky_edges = False  # room for the labels
    axes.set_yticks(range(len(others)), [row["name"] for row in others], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    if min(above, default=0.0) >= 0:
        axes.set_xlim(left=0)
    axes.set_xlabel("objective against the exact one, %")
    proved = "optimal" if exact["status"] == "optimal" else f"gap {exact['gap']:.1%}"
    axes.set_title(f"{found['problem']}: exact {exact['objective']:.5g}, {proved}", fontsize=10)


def _draw_progress(axes: Axes, found: Mapping[str, Any]) -> None:
    seconds = [point["seconds"] for point in found["progress"]]
    for name, label, colour in (
        ("objective", "incumbent", _WARM),
        ("bound", "bound", _INK),
    ):
        axes.step(
            seconds, [p[name] for p in found["progress"]], where="post", color=colour, label=label,
            marker="o", markersize=3,
        )  # fmt: skip
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(0, 1.05 * seconds[-1])
    axes.set_xlabel("seconds")
    axes.set_ylabel("objective")
    nodes = found["progress"][-1]["nodes"]
    axes.set_title(f"exact solve, {nodes} node{'s' * (nodes != 1)}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _draw_sweep(axes: Axes, found: Mapping[str, Any]) -> None:
    """Loss against what is kept: the front, and what prices lead to, exact and relaxed."""
    if found["front"]:
        front = sorted((p["kept"], p["loss"]) for p in found["front"])
        axes.plot(*zip(*front, strict=True), label="exact, every number", color=_INK, marker=".")
    unproved = [(p["kept"], p["loss"]) for p in found["front"] if p["status"] != "optimal"]
    if unproved:
        axes.plot(*zip(*unproved, strict=True), "s", color=_INK, mfc="white", label="not proved")
    styles: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("exact", "exact, by prices", {"color": _INK, "marker": "o", "linestyle": ""}),
        ("rounded", "relaxed, y > ½", {"color": _WARM, "marker": "x", "linestyle": ""}),
        ("relaxed", "relaxed, Σ y", {"color": "#7ba7cf", "marker": ".", "linestyle": "--"}),
    )
    for name, label, style in styles if found["sweep"] else ():
        points = sorted((p[f"{name}_kept"], p[f"{name}_loss"]) for p in found["sweep"])
        axes.plot(*zip(*points, strict=True), label=label, markersize=5, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("kept (for the relaxation Σ y)")
    axes.set_ylabel("objective without prices")
    axes.set_title("trade-off", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _draw_layers(axes: Axes, result: RunResult) -> None:
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
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
    )
    title = f"{result['kept']['macs']:.0%} of MACs kept"
    before, after = result["dense"]["accuracy"], result["pruned"]["accuracy"]
    if before is not None and after is not None:
        title += f", {before - after:.2f} points of accuracy lost"
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_gaps(axes: Axes, comparisons: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    rows = {"big-m-relaxation": _WARM, "perspective-relaxation": _INK, "spr-trained": "#7ba7cf"}
    height = 0.8 / len(rows)
    for shift, (name, colour) in enumerate(rows.items()):
        for place, table in enumerate(comparisons.values()):
            row = next(row for row in table if row["name"] == name)
            gap = 100 * row["gap"]
            at = place + (shift - 1) * height
            axes.barh(at, gap, height, color=colour, label=None if place else name)
            axes.annotate(
                f"{gap:.1f} %", (gap, at), (4, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(comparisons)), comparisons, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("bound below the exact optimum, %")
    axes.set_title("How tight: the smaller the better", fontsize=10)
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False
    )
    axes.spines[["top", "right"]].set_visible(False)
