"""A derivation on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from formulations import plugins
from formulations.symbolic.catalogue import CATALOGUE, ENTRY_POINTS, find
from formulations.symbolic.checks import Check
from formulations.symbolic.derivation import Derivation
from formulations.symbolic.description import statements, symbols
from mipprune.report.tables import console


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
