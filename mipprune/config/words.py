"""Words of a command line: ``key=value``, the nearest valid one of a wrong one, models' names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from formulations.errors import InputError
from formulations.user_files import reference


def split(word: str) -> tuple[str, str]:
    """Key and text of a ``key=value`` word.

    Raises
    ------
    InputError
        If it is not of this form.
    """
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise InputError(f"{word!r} is not of the form key=value")
    return key, text


def nearest(word: str, names: Sequence[str]) -> str:
    """How an error about an unknown word ends: the nearest valid one."""
    close = difflib.get_close_matches(word, names, 1, 0.0)
    return f": the nearest valid one is {close[0]!r}"


# Where only a file is given: its function of this name makes the network.
FUNCTION = "model"


def is_file(model: object) -> bool:
    """Whether a model's name is ``FILE.py:FUNCTION``."""
    return isinstance(model, str) and reference(model, FUNCTION) is not None


def folder_name(model: str) -> str:
    """A model's name as a part of a folder's."""
    if file := reference(model, FUNCTION):
        return f"{file[0].stem}-{file[1]}"
    package, colon, name = model.partition(":")
    if package == "hf" and colon:
        place = Path(name)
        name = place.absolute().parent.name if place.name == "config.json" else place.stem
    return f"{package}-{name}".replace(":", "-").replace("/", "-") if colon else model
