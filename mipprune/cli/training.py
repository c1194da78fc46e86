"""Train and evaluate."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Optional

import typer

from formulations.errors import InputError
from mipprune.cli.app import (
    HelpSettings,
    Json,
    Overrides,
    app,
    check_source,
    check_writable,
    complete_recipe,
    complete_setting,
    folder_and_words,
    is_setting,
    write,
)


@app.command(
    epilog="Examples: mipprune train digits-spr budget.macs=0.5 method.lam=0.05 name=half | "
    "mipprune train model=timm:resnet18 data=digits | mipprune train model=mine.py:make_net"
)
def train(
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[RECIPE]",
            help="A recipe's name (see: recipes) or a YAML file; without one, as the recipe "
            "default says.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this name.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be trained: groups, MACs, steps, memory."),
    ] = False,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Train, prune and fine-tune a network as a recipe says.

    SIGTERM and Ctrl-C save the run before it stops (exit code 143, 130); --resume goes on with it.
    """
    from mipprune.config.overrides import configure
    from mipprune.config.recipes import DEFAULT, read_recipe
    from mipprune.config.train import Config, named

    words = overrides or []
    if recipe is None:
        raise InputError("name a recipe (all: mipprune recipes), or a model with model=NAME")
    if is_setting(recipe):
        words, recipe = [recipe, *words], None
    values = read_recipe(recipe or DEFAULT)
    if recipe is None and any(w.startswith(("budget=", "budget.params=")) for w in words):
        del values["budget"]  # of which there is one
    config = named(configure(Config, values, words), recipe)
    check_writable(json_file)

    if dry_run:
        from mipprune.report.tables import print_plan
        from mipprune.training.plan import plan

        planned = plan(config)
        print_plan(planned)
        write(json_file, planned)
        return

    from mipprune.report.tables import print_result
    from mipprune.training.monitor import Interrupted
    from mipprune.training.run import train as run

    try:
        result = run(config, resume)
    except Interrupted as stopped:
        print(f"mipprune: {stopped}: saved, go on with --resume", file=sys.stderr)
        raise typer.Exit(128 + stopped.signal) from None
    if os.environ.get("RANK", "0") == "0":
        print_result(result)
        write(json_file, result)


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
            autocompletion=complete_setting,
        ),
    ] = None,
    json_file: Json = None,
    help_settings: HelpSettings = False,
) -> None:
    """Accuracy, MACs, parameters and latency of a network."""
    from mipprune.config.evaluate import EvalConfig
    from mipprune.config.overrides import configure

    folder, words = folder_and_words(words)
    config = configure(EvalConfig, {}, words)
    check_source(folder, config)
    check_writable(json_file)

    from mipprune.analysis.evaluate import evaluate_checkpoint, evaluate_weights
    from mipprune.report.tables import print_measures

    given = {word.partition("=")[0].split(".")[0] for word in words}
    if folder is None:
        result = evaluate_weights(config)
    else:
        result = evaluate_checkpoint(folder, config, own_data="data" not in given)
    print_measures({"network": result})
    write(json_file, result)


@app.command(epilog="Example: mipprune recipes")
def recipes(json_file: Json = None) -> None:
    """List the recipes that ship."""
    from mipprune.config.overrides import configure
    from mipprune.config.recipes import read_recipe, recipe_names
    from mipprune.config.schema import MethodConfig
    from mipprune.config.train import Config

    check_writable(json_file)
    found = {}
    for name in recipe_names():
        values = read_recipe(name)
        # a method's other settings stand beside its code, which would load torch
        values["method"] = MethodConfig(name=values["method"]["name"])
        config = configure(Config, values)
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
    write(json_file, found)
