"""The application, and what its commands share: options and checks before any work."""

from __future__ import annotations

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

Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(metavar="KEY=VALUE", help="Settings to override.", show_default=False),
]
Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", metavar="FILE", help="Also write the result to this file as JSON."),
]


def folder_and_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The run or checkpoint that comes first, if one does, and the settings."""
    words = words or []
    if words and "=" not in words[0]:
        return Path(words[0]), words[1:]
    return None, words


def check_source(folder: Path | None, init: str | None) -> None:
    """Refuse words that name no network."""
    if folder is None and init is None:
        raise InputError("name a run folder, or the weights with init=FILE")


def check_writable(
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


def check_picture(path: Path | None) -> None:
    """As :func:`check_writable`, for a picture."""
    check_writable(path, "--plot", (".png", ".svg"))


def write(path: Path | None, value: Any) -> None:
    """A result as JSON, if a file was named."""
    if path:
        from mipprune.runs.files import write_json

        write_json(path, value)
