"""Words of a command line: ``key=value``, and the nearest valid one of a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from formulations.errors import InputError


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
