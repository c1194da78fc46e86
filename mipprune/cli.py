"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from formulations.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Mixed-integer programming and the training of pruned neural networks.",
)

_Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(metavar="KEY=VALUE", help="Settings to override.", show_default=False),
]
_Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", metavar="FILE", help="Also write the result to this file as JSON."),
]


@app.command(epilog="Example: mipprune train digits-spr budget.macs=0.5 method.lam=0.05 name=half")
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name (see: recipes) or a YAML file.")
    ],
    overrides: _Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this name.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be trained: groups, MACs, steps, memory."),
    ] = False,
    json_file: _Json = None,
) -> None:
    """Train, prune and fine-tune a network as a recipe says.

    SIGTERM and Ctrl-C save the run before it stops (exit code 143, 130); --resume goes on with it.
    """
    from mipprune.config import Config, configure, read_recipe

    config = configure(Config, read_recipe(recipe), overrides or [])
    if config.name is None:
        config = config.model_copy(update={"name": f"{Path(recipe).stem}-seed{config.seed}"})
    _check_writable(json_file)

    if dry_run:
        from mipprune.engine.plan import plan
        from mipprune.report.tables import print_plan

        planned = plan(config)
        print_plan(planned)
        _write(json_file, planned)
        return

    from mipprune.engine import Stopped
    from mipprune.engine import train as run
    from mipprune.report.tables import print_result

    try:
        result = run(config, resume)
    except Stopped as stopped:
        print(f"mipprune: {stopped}: saved, go on with --resume", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal) from None
    if os.environ.get("RANK", "0") == "0":
        print_result(result)
        _write(json_file, result)


@app.command(
    name="eval",
    epilog="Examples: mipprune eval runs/digits-spr-seed0 | mipprune eval model=resnet56 "
    "model.shortcut=A init=resnet56.safetensors data=cifar10",
)
def evaluate(
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[RUN] KEY=VALUE",
            help="A run folder or checkpoint folder, or a model, its weights and data by keys.",
            show_default=False,
        ),
    ] = None,
    json_file: _Json = None,
) -> None:
    """Accuracy, MACs, parameters and latency of a network."""
    from mipprune.config import EvalConfig, configure

    folder, words = _folder_and_words(words)
    config = configure(EvalConfig, {}, words)
    _check_source(folder, config.init)
    _check_writable(json_file)

    from mipprune.evaluate import evaluate_checkpoint, evaluate_weights
    from mipprune.report.tables import print_measures

    given = {word.partition("=")[0].split(".")[0] for word in words}
    if folder is None:
        result = evaluate_weights(config)
    else:
        result = evaluate_checkpoint(folder, config, own_data="data" not in given)
    print_measures({"network": result})
    _write(json_file, result)


@app.command(
    epilog="Examples: mipprune prune runs/half/dense budget.macs=0.5 images=500 | mipprune prune "
    "model=resnet56 model.shortcut=A init=resnet56.safetensors data=cifar10 budget.macs=0.5"
)
def prune(
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[CHECKPOINT] KEY=VALUE",
            help="A run folder or checkpoint folder, or a model, its weights and data by keys; "
            "budget.macs or budget.params.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="exact, spr-score, magnitude-l1, magnitude-l2, group-norm, taylor or random."
        ),
    ] = None,
    finetune: Annotated[
        int, typer.Option(min=0, metavar="N", help="Then train the pruned network N epochs.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this name.")
    ] = False,
    json_file: _Json = None,
) -> None:
    """Prune a trained network to a budget by exact layer problems and a refit, without training."""
    from mipprune.config import PruneConfig, configure

    folder, words = _folder_and_words(words)
    config = configure(PruneConfig, {}, [*words, *([f"method={method}"] if method else [])])
    _check_source(folder, config.init)
    _check_writable(json_file)

    from mipprune.oneshot import finetune as train_on
    from mipprune.oneshot import prune_checkpoint
    from mipprune.report.tables import print_choices, print_result, progress_lines

    own_data = "data" not in {word.partition("=")[0].split(".")[0] for word in words}
    with progress_lines() as show:
        result = prune_checkpoint(folder, config, own_data=own_data, resume=resume, report=show)
    print_choices(result)
    print_result(result)
    if finetune:
        result["finetuned"] = train_on(result, config, finetune)
        print_result(result["finetuned"])
    _write(json_file, result)


@app.command(
    epilog="Examples: mipprune certify runs/half --plot gaps.png | mipprune certify "
    "runs/half/pruned --dense runs/half/dense images=256 layers=[layer3.*]"
)
def certify(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run of prune or train, or a pruned checkpoint."),
    ],
    overrides: _Overrides = None,
    dense: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="CHECKPOINT", help="What a pruned checkpoint was made from."),
    ] = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw errors and bounds (.png or .svg)."),
    ] = None,
    json_file: _Json = None,
) -> None:
    """How far each pruned layer is from the best choice of the same size, with a proof."""
    from mipprune.config import CertifyConfig, configure

    config = configure(CertifyConfig, {}, overrides or [])
    _check_writable(json_file)
    _check_picture(plot)

    from mipprune.certify import certify as run_certify
    from mipprune.report.tables import print_certificates, progress_lines

    with progress_lines() as show:
        found = run_certify(run, config, dense=dense, report=show)
    print_certificates(found)
    if plot:
        from mipprune.report.pictures import draw_certificates

        draw_certificates(plot, found)
    _write(json_file, found)


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
    overrides: _Overrides = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Draw gaps, bounds over time, trade-off curve (.png or .svg)."
        ),
    ] = None,
    json_file: _Json = None,
) -> None:
    """Exact MIP pruning against its relaxations, trained pruning and heuristics."""
    from mipprune.config import CompareConfig, configure

    config = configure(CompareConfig, {}, overrides or [])
    _check_writable(json_file)
    _check_picture(plot)

    from mipprune.compare import compare as run
    from mipprune.report.tables import print_rows, status

    with status() as show:
        found = run(problem, config, show)
    print_rows(problem, found["rows"])
    if plot:
        from mipprune.report.pictures import draw_comparison

        draw_comparison(plot, found)
    _write(json_file, found)


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
    json_file: _Json = None,
) -> None:
    """Derive a regularizer from the shrinkage φ and the price of a pruning MIP, and check it."""
    if catalogue:
        from mipprune.report.derivations import print_catalogue

        print_catalogue()
        return
    if term is None:
        raise InputError("name a term: an expression such as 'a*r**3', a name of --list or FILE.py")
    _check_writable(python, "--python", (".py",))
    _check_writable(json_file)
    _check_picture(plot)

    from formulations.catalogue import find
    from formulations.checks import check
    from formulations.statements import latex
    from mipprune.config import term_options
    from mipprune.report.derivations import as_json, draw_derivation, print_checks, print_derivation
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
        python.write_text(derivation.module(), encoding="utf-8")
    if plot:
        draw_derivation(plot, derivation)
    _write(json_file, as_json(derivation, checks))
    failed = [c.name for c in checks if not c.passed]
    if failed:
        raise RuntimeError(f"{len(failed)} checks failed: {', '.join(failed)}")


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
    overrides: _Overrides = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw losses and eigenvalue shares (.png or .svg)."),
    ] = None,
    json_file: _Json = None,
) -> None:
    """Whether two networks lie in one valley of the loss: line, curve, Hessian."""
    from mipprune.config import ValleyConfig, configure

    config = configure(ValleyConfig, {}, overrides or [])
    _check_writable(json_file)
    _check_picture(plot)

    from mipprune.report.tables import print_valley, status
    from mipprune.valley import valley as run

    with status() as show:
        found = run(a, b, config, show)
    print_valley(found)
    if plot:
        from mipprune.report.pictures import draw_valley

        draw_valley(plot, found)
    _write(json_file, found)


@app.command(
    epilog="Examples: mipprune export runs/half --onnx half.onnx | mipprune export "
    "runs/half/pruned --onnx half.onnx --program half.pt2 threads=1"
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder, or a run: its pruned/."),
    ],
    overrides: _Overrides = None,
    onnx: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.onnx", help="Write ONNX."),
    ] = None,
    program: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.pt2", help="Write a program of torch.export."),
    ] = None,
    json_file: _Json = None,
) -> None:
    """Write a network as ONNX or torch.export, checked on real images and timed."""
    from mipprune.config import ExportConfig, configure

    config = configure(ExportConfig, {}, overrides or [])
    targets = {k: p for k, p in (("onnx", onnx), ("program", program)) if p}
    if not targets:
        raise InputError("name what to write: --onnx FILE.onnx, --program FILE.pt2 or both")
    for kind, path in targets.items():
        _check_writable(path, f"--{kind}", {"onnx": (".onnx",), "program": (".pt2",)}[kind])
    _check_writable(json_file)

    from mipprune.export import export as run
    from mipprune.report.tables import print_export, status

    with status() as show:
        found = run(checkpoint, config, targets, show)
    print_export(found)
    _write(json_file, found)


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
    json_file: _Json = None,
) -> None:
    """One HTML page about runs, finished or not, that works offline."""
    if output is None and len(runs) > 1:
        raise InputError("name the page of several runs: --output FILE.html")
    output = output or runs[0] / "report.html"

    from mipprune.report.page import render, run_names, summary
    from mipprune.report.run_folder import read_run

    found = [read_run(path) for path in runs]
    _check_writable(output, "--output", (".html",))
    _check_writable(json_file)
    names = run_names(runs)
    output.write_text(render(found, names), encoding="utf-8")
    typer.echo(f"{output}: {len(runs)} run{'s' * (len(runs) > 1)}")
    rows = {name: summary(run) for name, run in zip(names, found, strict=True)}
    _write(json_file, {"output": str(output), "runs": rows})


@app.command(epilog="Example: mipprune recipes")
def recipes(json_file: _Json = None) -> None:
    """List the recipes that ship."""
    from mipprune.config import Config, configure, read_recipe, recipe_names

    _check_writable(json_file)
    found = {}
    for name in recipe_names():
        config = configure(Config, read_recipe(name))
        found[name] = {
            "model": config.model.name,
            "data": config.data.name,
            "method": config.method.name,
            "epochs": sum(p.epochs for p in (config.pretrain, config.regularize, config.finetune)),
        }
        typer.echo(
            f"{name:30} {config.method.name:12} {config.model.name} on {config.data.name}, "
            f"{found[name]['epochs']} epochs"
        )
    _write(json_file, found)


def _folder_and_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The run or checkpoint that comes first, if one does, and the settings."""
    words = words or []
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def _check_source(folder: Path | None, init: str | None) -> None:
    if folder is None and init is None:
        raise InputError("name a run folder, or the weights with init=FILE")


def _check_writable(
    path: Path | None, option: str = "--json", suffixes: tuple[str, ...] = ()
) -> None:
    """Before the work, not after it: by a temporary file beside it."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise InputError(f"{option} {path}: the file is written as {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: name a file")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from None


def _check_picture(path: Path | None) -> None:
    _check_writable(path, "--plot", (".png", ".svg"))


def _write(path: Path | None, value: Any) -> None:
    if path:
        from mipprune.checkpoint import write_json

        write_json(path, value)


def main() -> None:
    """Entry point: exit code 0, 2 for wrong input (one line), 1 for a failure (one line)."""
    try:
        app()
    except InputError as error:
        print(f"mipprune: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mipprune: interrupted", file=sys.stderr)
        sys.exit(130)
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"mipprune: failed: {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
