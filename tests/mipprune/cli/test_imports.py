"""What a command does not need it does not load: help, names and completion come at once."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
sys.argv[0] = "mipprune"
from mipprune.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
NUMBERS = ("torch", "numpy", "scipy", "sympy", "pyomo", "rich")
WORDS = (*NUMBERS, "pydantic", "yaml")


def loaded(words, environment=None):
    """The modules that are there when a command is done, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["derive", "--help"]]
)
def test_help_loads_neither_settings_nor_numbers(words):
    modules, printed = loaded(words)
    assert modules.isdisjoint(WORDS), modules & set(WORDS)
    assert printed


@pytest.mark.parametrize("words", [["recipes"], ["prune", "--help-settings"]])
def test_names_and_settings_load_no_numbers(words):
    modules, printed = loaded(words)
    assert modules.isdisjoint(NUMBERS), modules & set(NUMBERS)
    assert printed


@pytest.mark.parametrize("words", ["mipprune train digits-spr mod", "mipprune prune bud"])
def test_a_completion_of_keys_loads_no_numbers(words):
    environment = {
        "_MIPPRUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    modules, printed = loaded([], environment)
    assert modules.isdisjoint(NUMBERS), modules & set(NUMBERS)
    assert "=" in printed


def test_the_derivations_need_no_torch():
    modules, _ = loaded(["derive", "--list"])
    assert "torch" not in modules
