"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 110  # where the output is no terminal


def console() -> Console:
    """The terminal, or plain lines of a fixed width where the output is none."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def print_measures(networks: Mapping[str, Mapping[str, Any]]) -> None:
    """accuracy, MACs, parameters, file size and latency, one network a row."""
    from mipprune.evaluate import LATENCY_BATCH  # torch, which other tables do without

    table = Table("", "accuracy %", "MACs", "params", "file KiB", f"ms / {LATENCY_BATCH} images")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, m in networks.items():
        table.add_row(
            name,
            "–" if m["accuracy"] is None else f"{m['accuracy']:.2f}",
            f"{m['macs']:,}",
            f"{m['params']:,}",
            f"{m['bytes'] / 1024:,.0f}",
            f"{m['latency_ms']:.2f}",
        )
    console().print(table)


def print_result(result: Mapping[str, Any]) -> None:
    """Dense against pruned, and where the run lies."""
    print_measures({"dense": result["dense"], "pruned": result["pruned"]})
    kept = result["kept"]
    console().print(
        f"kept {kept['macs']:.1%} of MACs, {kept['params']:.1%} of parameters; accuracy after "
        f"removal, before fine-tuning: {result['accuracy_removed']:.2f} %",
        f"\nrun folder: {result['folder']} ({result['seconds']:.0f} s on {result['device']})",
        highlight=False,
    )


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows of a comparison."""
    table = Table(title=title)
    for name in ("", "objective", "bound", "gap %", "kept", "agreement %", "s", "nodes", "status"):
        table.add_column(name, justify="left" if name in ("", "status") else "right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['objective']:.6g}",
            "–" if row["bound"] is None else f"{row['bound']:.6g}",
            f"{100 * row['gap']:.2f}",
            str(row["kept"]),
            f"{100 * row['agreement']:.0f}",
            f"{row['seconds']:.2f}",
            str(row["nodes"]),
            row["status"],
        )
    console().print(table)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what is being worked on; silent elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: None
        return
    with console.status("") as line:
        yield lambda name: line.update(name)
