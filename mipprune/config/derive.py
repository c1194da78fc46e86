"""The ``key=value`` words of ``mipprune derive``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formulations.errors import InputError
from mipprune.config.words import split


def term_options(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of a term, as :func:`formulations.symbolic.derivation` takes them.

    Raises
    ------
    InputError
        If a word has no ``=``, or a value is no number where one must be.
    """
    options: dict[str, Any] = {}
    for word in words:
        key, text = split(word)
        if key == "phi":
            raise InputError(f"{word}: φ is the expression itself, before all key=value words")
        if key == "extract":
            options[key] = text
        elif key == "ball":
            if text not in ("true", "false"):
                raise InputError(f"{word}: ball is true or false")
            options[key] = text == "true"
        else:
            try:
                options[key] = float(text)
            except ValueError:
                raise InputError(f"{word}: {text!r} is not a number") from None
    return options
