"""Prune a trained network by layer problems, and certify it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from mipprune.cli.app import (
    HelpSettings,
    Json,
    Overrides,
    app,
    check_picture,
    check_source,
    check_writable,
    complete_setting,
    folder_and_words,
    stopped_in_order,
    write,
)


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
            autocompletion=complete_setting,
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
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Prune a trained network to a budget by exact layer problems and a refit, without training."""
    from mipprune.config.overrides import configure
    from mipprune.config.prune import PruneConfig

    folder, words = folder_and_words(words)
    config = configure(PruneConfig, {}, [*words, *([f"method={method}"] if method else [])])
    check_source(folder, config)
    check_writable(json_file)

    from mipprune.oneshot.run import finetune as train_on
    from mipprune.oneshot.run import prune_checkpoint
    from mipprune.report.tables import print_choices, print_result, progress_lines

    own_data = "data" not in {word.partition("=")[0].split(".")[0] for word in words}
    with stopped_in_order("go on with --resume"), progress_lines() as show:
        result = prune_checkpoint(folder, config, own_data=own_data, resume=resume, report=show)
    print_choices(result)
    print_result(result)
    if not finetune:
        write(json_file, result)
        return
    trained = train_on(result, config, finetune)
    print_result(trained)
    write(json_file, {**result, "finetuned": trained})


@app.command(
    epilog="Examples: mipprune certify runs/half --plot gaps.png | mipprune certify "
    "runs/half/pruned --dense runs/half/dense images=256 layers=[layer3.*]"
)
def certify(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run of prune or train, or a pruned checkpoint."),
    ],
    overrides: Overrides = None,
    dense: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="CHECKPOINT", help="What a pruned checkpoint was made from."),
    ] = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw errors and bounds (.png or .svg)."),
    ] = None,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """How far each pruned layer is from the best choice of the same size, with a proof."""
    from mipprune.config.certify import CertifyConfig
    from mipprune.config.overrides import configure

    config = configure(CertifyConfig, {}, overrides or [])
    check_writable(json_file)
    check_picture(plot)

    from mipprune.oneshot.certify import certify_run
    from mipprune.report.tables import print_certificates, progress_lines

    with stopped_in_order("nothing was written"), progress_lines() as show:
        found = certify_run(run, config, dense=dense, report=show)
    print_certificates(found)
    if plot:
        from mipprune.report.pictures import draw_certificates

        draw_certificates(plot, found)
    write(json_file, found)
