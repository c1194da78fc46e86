"""Blocks of code in the documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(text: str, language: str = "python") -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """The words behind ``mipprune`` of every command line that is shown, in their order."""
    return (found[1] for found in re.finditer(r"^    mipprune (.*)$", text, re.MULTILINE))


def run(document: str) -> None:
    """Run a document's Python from top to bottom, as one script, in the current folder."""
    names = {"__name__": "document"}
    for number, block in enumerate(blocks((ROOT / document).read_text(encoding="utf-8"))):
        try:
            exec(compile(block, f"{document}, block {number}", "exec"), names)
        except Exception as error:
            pytest.fail(f"{document}, block {number}: {error!r}\n{block}")
