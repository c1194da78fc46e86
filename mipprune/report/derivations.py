"""A derivation on the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from formulations import plugins
from formulations.symbolic.catalogue import CATALOGUE, ENTRY_POINTS, find
from formulations.symbolic.checks import Check
from formulations.symbolic.derivation import Derivation
from formulations.symbolic.description import statements, symbols
from mipprune.report.tables import console

_PICTURE_WEIGHTS = 4  # of the group that is drawn, all equal


def print_derivation(derivation: Derivation) -> None:
    """The mathematics, statement by statement."""
    out = console()
    out.print(symbols(derivation), highlight=False, markup=False)
    for statement in statements(derivation):
        # a formula is wider than it may be broken
        out.print("\n" + statement.text(), highlight=False, markup=False, soft_wrap=True)


def print_checks(checks: Sequence[Check]) -> None:
    """What was compared, the largest error, and the point of a failure."""
    table = Table("check", "largest error", "tolerance", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    for check in checks:
        table.add_row(
            check.name,
            f"{check.error:.1e}",
            f"{check.tolerance:.0e}",
            "passed" if check.passed else f"FAILED at {check.point}",
        )
    console().print(table)


def print_catalogue() -> None:
    """The terms that ship, and those that other packages add."""
    table = Table("name", "φ(r)", "with", "")
    for name, (phi, options, remark) in CATALOGUE.items():
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        table.add_row(name, phi, shown or "–", remark)
    for name in plugins.names(ENTRY_POINTS):
        table.add_row(name, str(find(name).phi), "–", "of another package")
    console().print(table)


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
    from mipprune.report.pictures import plt

    if derivation.block_price is None:
        term = derivation.term()
    else:
        term = derivation.nested(np.zeros(1, int))
    direction = np.full(_PICTURE_WEIGHTS, _PICTURE_WEIGHTS**-0.5)
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
    left.plot(s, slope * s * np.sqrt(_PICTURE_WEIGHTS), color="#b9b9b9", label="ℓ1", ls=":")
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
    figure.savefig(path, dpi=150)
    plt.close(figure)


def as_json(derivation: Derivation, checks: Sequence[Check]) -> dict[str, Any]:
    """What ``mipprune derive --json`` writes."""
    return {
        "phi": str(derivation.phi),
        "symbols": symbols(derivation),
        "statements": [
            {"name": s.name, "expression": str(s.expression), "remark": s.remark}
            for s in statements(derivation)
        ],
        "checks": [
            {
                "name": check.name,
                "error": check.error,
                "tolerance": check.tolerance,
                "passed": check.passed,
                "point": check.point,
            }
            for check in checks
        ],
    }
