"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mipprune.runs.result import LATENCY_BATCH, Measures, PruneRunResult, RunResult

RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX Runtime", "program": "torch.export program"}
_WIDTH = 110  # where the output is no terminal


def console() -> Console:
    """The terminal, or plain lines of a fixed width where the output is none."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def print_measures(networks: Mapping[str, Measures]) -> None:
    """Accuracy, MACs, parameters, file size and latency, one network a row."""
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


def print_result(result: RunResult) -> None:
    """Dense against pruned, and where the run lies."""
    print_measures({"dense": result["dense"], "pruned": result["pruned"]})
    kept = result["kept"]
    console().print(
        f"kept {kept['macs']:.1%} of MACs, {kept['params']:.1%} of parameters; accuracy after "
        f"removal, before fine-tuning: {result['accuracy_removed']:.2f} %",
        f"\nrun folder: {result['folder']} ({result['seconds']:.0f} s on {result['device']})",
        highlight=False,
    )


def print_plan(plan: Mapping[str, Any]) -> None:
    """What a run would do."""
    images, budget, memory = plan["images"], plan["budget"], plan["memory_bytes"]
    table = Table(show_header=False, box=None)
    table.add_row("model", f"{plan['model']}, {plan['macs']:,} MACs, {plan['params']:,} parameters")
    table.add_row(
        "data", f"{plan['data']}, {images['train']:,} training and {images['test']:,} test images"
    )
    table.add_row("method", f"{plan['method']}, granularity {plan['granularity']}")
    table.add_row("groups", f"{plan['groups']:,} in {len(plan['layers'])} layers, some coupled")
    table.add_row(
        "budget",
        "none: the method decides"
        if budget is None
        else f"{budget['share']:.1%} of the {budget['unit']}: {budget['count']:,}",
    )
    phases = [
        f"{phase} {epochs} epochs = {plan['steps'][phase]:,}"
        for phase, epochs in plan["epochs"].items()
        if epochs
    ]
    table.add_row("steps", ", ".join(phases) or "none")
    parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in memory.items())
    table.add_row("memory", f"about {sum(memory.values()) / 2**20:,.0f} MiB: {parts}")
    table.add_row("device", plan["device"])
    console().print(table, highlight=False)


def print_choices(result: PruneRunResult) -> None:
    """By layer: what was chosen, what is proved of it, and what the refit did."""
    fits = {fit["layer"]: fit for fit in result["fits"]}
    rows = {choice["layer"]: choice for choice in result["choices"]}
    if not rows and not fits:
        return
    table = Table(title="layers")
    table.add_column("")
    for name in ("kept", "error %", "proved ≥ %", "gap %", "before refit %", "after %", "ridge"):
        table.add_column(name, justify="right")
    for name in dict.fromkeys([*rows, *fits]):
        row, fit = rows.get(name), fits.get(name)
        chosen = ["–"] * 4
        if row:
            chosen = [
                f"{row['kept']}/{row['groups']}",
                *(f"{100 * error:.3f}" for error in (row["objective"], row["bound"])),
                f"{100 * row['gap']:.2f}",
            ]
        refitted = ["–"] * 3
        if fit:
            shares = (f"{100 * error:.2f}" for error in (fit["before"], fit["after"]))
            refitted = [*shares, f"{fit['ridge']:g}"]
        table.add_row(name, *chosen, *refitted)
    console().print(table)
    _say_trivial(result["choices"])


def print_certificates(found: Mapping[str, Any]) -> None:
    """By layer: the choice made, the best found, and what is proved."""
    table = Table(title=Text(f"{found['pruned']}, pruned by {found['method']}"))
    table.add_column("")
    names = ("kept", "error %", "best found %", "proved ≥ %", "worse than best %", "best's gap %")
    for name in names:
        table.add_column(name, justify="right")
    for row in found["layers"]:
        table.add_row(
            row["layer"],
            f"{row['kept']}/{row['groups']}",
            *(f"{100 * row[key]:.3f}" for key in ("objective", "best", "bound")),
            *(f"{100 * row[key]:.2f}" for key in ("worse", "best_gap")),
        )
    console().print(table)
    _say_trivial(found["layers"])


def _say_trivial(rows: Sequence[Mapping[str, Any]]) -> None:
    """What it means where a bound proves nothing."""
    names = [row["layer"] for row in rows if row.get("status") == "trivial"]
    if names:
        console().print(
            f"{', '.join(names)}: the bound is the trivial one, the error of keeping every group. "
            "How far the best choice is from it stays open; more nodes=N prove more, on layers of "
            "up to 1500 rows.",
            highlight=False,
            markup=False,
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


def print_export(found: Mapping[str, Any]) -> None:
    """Files and their parity, then latency of dense against pruned."""
    table = Table("file", "KiB", "largest difference", "own rounding", "largest", "same class %")
    for row in found["parity"]:
        table.add_row(
            Text(row["file"]),
            f"{row['bytes'] / 1024:,.0f}",
            f"{row['difference']:.2g}",
            f"{row['rounding']:.2g}",
            f"{row['largest']:.3g}",
            f"{100 * row['agreement']:.2f}",
        )
    latency = found["latency"]
    names = list(dict.fromkeys(row["network"] for row in latency["rows"]))
    times = Table("runtime", "batch", *(f"{name}, ms" for name in names))
    cells: dict[tuple[str, int], list[str]] = {}
    for row in latency["rows"]:
        low, high = row["quartiles_ms"]
        cell = f"{row['median_ms']:.3f} ({low:.3f} – {high:.3f})"
        cells.setdefault((row["runtime"], row["batch"]), []).append(cell)
    for (runtime, batch), values in cells.items():
        times.add_row(RUNTIMES[runtime], str(batch), *values)
    for column in (*table.columns[1:], *times.columns[1:]):
        column.justify = "right"
    terminal = console()
    terminal.print(table)
    terminal.print(times)
    terminal.print(
        f"{found['parity'][0]['images']} test images of {found['data']}; median (quartiles) of "
        f"{latency['timed']} calls after {latency['warm_up']} of warm-up, CPU threads: "
        f"{latency['threads']}",
        highlight=False,
    )


def print_valley(found: Mapping[str, Any]) -> None:
    """Losses and accuracies along line and curve, barriers, shares of the eigenvectors."""
    names = ("line", "curve")
    table = Table("t", title=Text(f"A {found['a']} (t = 0) to B {found['b']} (t = 1)"))
    for name in names:
        for column in ("loss", "train %", "test %"):
            table.add_column(f"{name} {column}", justify="right")
    for index, t in enumerate(found["line"]["t"]):
        cells = [f"{t:.3f}"]
        for name in names:
            path = found[name]
            cells += [
                f"{path['loss'][index]:.5f}",
                f"{path['accuracy'][index]:.2f}",
                f"{path['test_accuracy'][index]:.2f}",
            ]
        table.add_row(*cells)
    lines = []
    for name in names:
        top = found[name]["barrier"]
        share = "no end is better than guessing" if top["share"] is None else f"{top['share']:.2%}"
        at = "" if top["at"] is None else f" at t = {top['at']:.3f}"
        lines.append(f"{name:5} barrier {top['height']:.5f}, share {share}{at}")
    lines.append(f"  ({found['barrier_definition']})")
    for name, own in found["own"].items():
        lines.append(
            f"{name.upper()} with its own BatchNorm statistics: loss {own['loss']:.5f}, "
            f"train {own['accuracy']:.2f} %, test {own['test_accuracy']:.2f} %"
        )
    h = found["hessian"]
    lines += [
        f"‖A − B‖ {found['distance']:.4g} over {found['parameters']:,} parameters; of its square "
        f"in the span of the Hessian's top {len(h['shares'])} eigenvectors at B: {h['share']:.3e}",
        f"  of a random direction: {h['expected_share']:.3e} expected (k/d), "
        f"{h['random_share']:.3e} measured",
        "  eigenvalues "
        + " ".join(f"{value:.3g}" for value in h["eigenvalues"])
        + f" (residual {h['residual']:.0e} of the largest)",
        f"{found['images']:,} training images of {found['data']}, BatchNorm statistics estimated "
        f"anew at every t, both ends too; {found['seconds']:.0f} s",
    ]
    terminal = console()
    terminal.print(table)
    terminal.print("\n".join(lines), highlight=False, markup=False)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line on the terminal: the time so far and what is being worked on; silent elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: None
        return
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as line:
        task = line.add_task("")
        yield lambda name: line.update(task, description=name)


@contextmanager
def progress_lines() -> Iterator[Callable[[str], None]]:
    """Lines on stderr that say what is being worked on, each once; a status line on a terminal."""
    if Console(stderr=True).is_terminal:
        with status() as show:
            yield show
        return
    yield lambda line: print(line, file=sys.stderr, flush=True)
