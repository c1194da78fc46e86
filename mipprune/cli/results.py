"""Look at trained networks and hand them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from formulations.errors import InputError
from mipprune.cli.app import (
    HelpSettings,
    Json,
    Overrides,
    app,
    check_picture,
    check_writable,
    write,
)


@app.command(
    epilog="Examples: mipprune valley runs/half runs/half/dense --plot valley.png | "
    "mipprune valley runs/one/dense runs/two/dense epochs=40 eigenvectors=20"
)
def valley(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A checkpoint, or a run: its network before removal (regularized/), else dense/.",
        ),
    ],
    b: Annotated[
        Path,
        typer.Argument(metavar="B", help="Another of the same shape; the Hessian is taken here."),
    ],
    overrides: Overrides = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw losses and eigenvalue shares (.png or .svg)."),
    ] = None,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Whether two networks lie in one valley of the loss: line, curve, Hessian."""
    from mipprune.config.overrides import configure
    from mipprune.config.valley import ValleyConfig

    config = configure(ValleyConfig, {}, overrides or [])
    check_writable(json_file)
    check_picture(plot)

    from mipprune.analysis.valley import valley as run
    from mipprune.report.tables import print_valley, status

    with status() as show:
        found = run(a, b, config, show)
    print_valley(found)
    if plot:
        from mipprune.report.pictures import draw_valley

        draw_valley(plot, found)
    write(json_file, found)


@app.command(
    epilog="Examples: mipprune export runs/half --onnx half.onnx | mipprune export "
    "runs/half/pruned --onnx half.onnx --program half.pt2 threads=1"
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder, or a run: its pruned/."),
    ],
    overrides: Overrides = None,
    onnx: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.onnx", help="Write ONNX."),
    ] = None,
    program: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.pt2", help="Write a program of torch.export."),
    ] = None,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Write a network as ONNX or torch.export, checked on real images and timed."""
    from mipprune.config.export import ExportConfig
    from mipprune.config.overrides import configure

    config = configure(ExportConfig, {}, overrides or [])
    targets = {k: p for k, p in (("onnx", onnx), ("program", program)) if p}
    if not targets:
        raise InputError("name what to write: --onnx FILE.onnx, --program FILE.pt2 or both")
    for kind, path in targets.items():
        check_writable(path, f"--{kind}", {"onnx": (".onnx",), "program": (".pt2",)}[kind])
    check_writable(json_file)

    from mipprune.analysis.export import export as run
    from mipprune.report.tables import print_export, status

    with status() as show:
        found = run(checkpoint, config, targets, show)
    print_export(found)
    write(json_file, found)


@app.command(
    epilog="Examples: mipprune report runs/half | mipprune report runs/one runs/two --output "
    "comparison.html"
)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Of one run: report.html in its folder."),
    ] = None,
    json_file: Json = None,
) -> None:
    """One HTML page about runs, finished or not, that works offline."""
    if output is None and len(runs) > 1:
        raise InputError("name the page of several runs: --output FILE.html")

    from mipprune.runs.layout import RunLayout

    output = output or RunLayout(runs[0]).report

    from formulations.output import write_output
    from mipprune.report.page import render, run_names, summary
    from mipprune.runs.record import read_run

    found = [read_run(path) for path in runs]
    check_writable(output, "--output", (".html",))
    check_writable(json_file)
    names = run_names(runs)
    write_output(output, render(found, names).encode())
    typer.echo(f"{output}: {len(runs)} run{'s' * (len(runs) > 1)}")
    rows = {name: summary(run) for name, run in zip(names, found, strict=True)}
    write(json_file, {"output": str(output), "runs": rows})
