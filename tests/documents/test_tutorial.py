"""What the tutorial shows runs, from top to bottom, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mipprune.cli import app

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_the_blocks_of_the_tutorial_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TUTORIAL.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 9
    names = {"__name__": "tutorial"}
    for number, block in enumerate(blocks):
        try:
            exec(compile(block, f"block {number}", "exec"), names)
        except Exception as error:
            pytest.fail(f"block {number} of the tutorial: {error!r}\n{block}")
    assert (tmp_path / "runs" / "tutorial" / "result.json").is_file()
    commands = re.findall(r"^    mipprune (.* mine\.py.*)$", text, re.M)
    # what the last block did in Python is not done again
    commands = [command for command in commands if not command.startswith("train")]
    assert len(commands) >= 2
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, command
    assert (tmp_path / "cube.py").is_file()
    assert (tmp_path / "mine.png").is_file()
