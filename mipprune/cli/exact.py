"""Mixed-integer programs against their relaxations, and new terms."""

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
    complete_term,
    write,
)


@app.command(
    epilog="Examples: mipprune compare layer:generated groups=12 sweep=9 --plot curve.png | "
    "mipprune compare layer:runs/digits-spr-seed0/dense:layer1.0.conv2 | mipprune compare xor | "
    "mipprune compare toy-mlp loss=hinge | mipprune compare budget:resnet56 macs=0.4"
)
def compare(
    problem: Annotated[
        str,
        typer.Argument(
            metavar="PROBLEM",
            help="layer:FILE.npz, layer:generated, layer:CHECKPOINT:LAYER, xor, toy-mlp, "
            "budget:MODEL or budget:CHECKPOINT.",
        ),
    ],
    overrides: Overrides = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Draw gaps, bounds over time, trade-off curve (.png or .svg)."
        ),
    ] = None,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Exact MIP pruning against its relaxations, trained pruning and heuristics."""
    from mipprune.config.compare import CompareConfig
    from mipprune.config.overrides import configure

    config = configure(CompareConfig, {}, overrides or [])
    check_writable(json_file)
    check_picture(plot)

    from mipprune.analysis.compare.compare import compare as run
    from mipprune.report.tables import print_rows, status

    with status() as show:
        found = run(problem, config, show)
    if found["rows"]:
        print_rows(problem, found["rows"])
    if plot and found["rows"]:
        from mipprune.report.pictures import draw_comparison

        draw_comparison(plot, found)
    write(json_file, found)
    if found["interrupted"]:
        typer.echo("mipprune: interrupted", err=True)
        raise typer.Exit(130)


@app.command(
    context_settings={"ignore_unknown_options": True},  # -r**2 is an expression
    epilog="Examples: mipprune derive 'a*r**3' price=2 | mipprune derive pseudo-huber price=1.5 "
    "--plot huber.png | mipprune derive mine.py:term --latex",
)
def derive(
    term: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[TERM]",
            help="φ as an expression in the norm r, a name of --list, or FILE.py:NAME.",
            show_default=False,
            autocompletion=complete_term,
        ),
    ] = None,
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="KEY=VALUE",
            help="price, bound, ball, norm, extract, block_price, or a parameter of φ.",
            show_default=False,
        ),
    ] = None,
    catalogue: Annotated[bool, typer.Option("--list", help="List the terms that ship.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX instead.")] = False,
    python: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.py", help="Write a NumPy and torch module that stands alone."),
    ] = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw penalty and keep-score (.png or .svg)."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Derive a regularizer from the shrinkage φ and the price of a pruning MIP, and check it."""
    if catalogue:
        from mipprune.report.derivations import print_catalogue

        print_catalogue()
        return
    if term is None:
        raise InputError("name a term: an expression such as 'a*r**3', a name of --list or FILE.py")
    check_writable(python, "--python", (".py",))
    check_writable(json_file)
    check_picture(plot)

    from formulations.symbolic.catalogue import find
    from formulations.symbolic.checks import check
    from formulations.symbolic.description import latex
    from mipprune.config.derive import term_options
    from mipprune.report.derivations import as_json, print_checks, print_derivation
    from mipprune.report.tables import status

    derivation = find(term, **term_options(words or []))
    if as_latex:
        typer.echo(latex(derivation))
    else:
        print_derivation(derivation)
    with status() as show:
        show("checking")
        checks = check(derivation)
    if not as_latex:
        print_checks(checks)
    if python:
        from formulations.output import write_output

        write_output(python, derivation.module().encode())
    if plot:
        from mipprune.report.pictures import draw_derivation

        draw_derivation(plot, derivation)
    write(json_file, as_json(derivation, checks))
    failed = [c.name for c in checks if not c.passed]
    if failed:
        raise RuntimeError(f"{len(failed)} checks failed: {', '.join(failed)}")
