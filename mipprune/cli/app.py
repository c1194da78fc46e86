"""The application, and what its commands share: options and checks before any work."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from formulations.errors import InputError
from formulations.output import check_output, is_stdout

if TYPE_CHECKING:
    from mipprune.config.schema import NetworkConfig

# typer loads pydantic, 0.2 s, to make a truth value of nothing: its own options begin with one
_OPTIONS = dict.fromkeys(("help", "install_completion", "show_completion"), False)
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"default_map": _OPTIONS},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Mixed-integer programming and the training of pruned neural networks.",
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"mipprune {version('mipprune')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version and end."
        ),
    ] = False,
) -> None:
    """Mixed-integer programming and the training of pruned neural networks."""


def _settings_of(command: str) -> Any:
    """The class of a command's settings."""
    from importlib import import_module

    module, name = {
        "train": ("train", "Config"),
        "eval": ("evaluate", "EvalConfig"),
        "prune": ("prune", "PruneConfig"),
        "certify": ("certify", "CertifyConfig"),
        "compare": ("compare", "CompareConfig"),
        "valley": ("valley", "ValleyConfig"),
        "export": ("export", "ExportConfig"),
    }[command]
    return getattr(import_module(f"mipprune.config.{module}"), name)


def _say_settings(context: typer.Context, asked: bool) -> None:
    if not asked:
        return
    from mipprune.config.describe import settings_rows

    kind = _settings_of(str(context.info_name))
    rows = list(settings_rows(kind))
    if context.info_name == "train":
        from mipprune.methods.registry import names, settings_of

        for name in names():
            own = settings_rows(settings_of(name), "method.")
            rows += [
                row._replace(meaning=f"{name}: {row.meaning}")
                for row in own
                if row.key != "method.name"
            ]
    wide = max(len(row.key) for row in rows)
    for row in rows:
        typer.echo(f"{row.key:{wide}}  {row.type}, {row.default}" if row.default else row.key)
        if row.meaning:
            typer.echo(f"{'':{wide}}  {row.meaning}")
    raise typer.Exit


HelpSettings = Annotated[
    bool,
    typer.Option(
        "--help-settings",
        callback=_say_settings,
        is_eager=True,
        help="List all settings with type, default and meaning.",
    ),
]


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that begin so: read off the files, for a shell must not wait."""
    folder = Path(__file__).parents[1] / "config" / "recipes"
    return [
        name for file in sorted(folder.glob("*.yaml")) if (name := file.stem).startswith(incomplete)
    ]


def complete_term(incomplete: str) -> list[str]:
    """Names of terms that begin so, ours and those of other packages."""
    from formulations import plugins
    from formulations.symbolic.catalogue import CATALOGUE

    names = (*CATALOGUE, *plugins.names("formulations.terms"))
    return [name for name in names if name.startswith(incomplete)]


def complete_setting(context: typer.Context, incomplete: str) -> list[str]:
    """Keys of a command's settings that begin so."""
    from mipprune.config.describe import settings_rows

    keys = [f"{row.key}=" for row in settings_rows(_settings_of(str(context.info_name)))]
    return [key for key in keys if key.startswith(incomplete)]


Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to override.",
        show_default=False,
        autocompletion=complete_setting,
    ),
]


def keep_stdout(context: typer.Context, path: Optional[Path]) -> Optional[Path]:  # noqa: UP045
    """The path of an output; where it is standard output, nothing else is printed there."""
    if path is not None and is_stdout(path):
        context.with_resource(redirect_stdout(sys.stderr))
    return path


Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--json",
        metavar="FILE",
        callback=keep_stdout,
        help="Also write the result to this file as JSON; - for standard output, tables then go "
        "to standard error.",
    ),
]


def folder_and_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The run or checkpoint that comes first, if one does, and the settings."""
    words = words or []
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def is_setting(word: str) -> bool:
    """Whether the first word of a command is a setting, ``key=value``, and no file."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.replace(".", "").isidentifier() and not Path(word).exists()


def check_source(folder: Path | None, config: NetworkConfig) -> None:
    """Refuse words that name no network with weights."""
    if folder is None and config.init is None and not config.model.may_be_trained():
        raise InputError("name a run folder, or the weights with init=FILE")


def check_writable(
    path: Path | None, option: str = "--json", suffixes: tuple[str, ...] = ()
) -> None:
    """Before the work, not after it."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        raise InputError(f"{option} {path}: the file is written as {' or '.join(suffixes)}")
    check_output(path, option)


def check_picture(path: Path | None) -> None:
    """As :func:`check_writable`, for a picture."""
    check_writable(path, "--plot", (".png", ".svg"))


class _Terminated(BaseException):
    """SIGTERM has come."""


@contextmanager
def stopped_in_order(advice: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work within as an error would, and say in a line what to do."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stopped:
        number = signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT
        typer.echo(f"mipprune: stopped by {number.name}: {advice}", err=True)
        raise typer.Exit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def write(path: Path | None, value: Any) -> None:
    """A result as JSON, if a file was named."""
    if path:
        from mipprune.runs.files import write_json

        write_json(path, value)
