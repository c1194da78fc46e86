"""What the tutorial shows runs, from top to bottom, in an empty folder."""

import shlex

import blocks
from typer.testing import CliRunner

from formulations.symbolic import checks
from mipprune.cli import app

TUTORIAL = "docs/tutorial.md"


def test_the_blocks_of_the_tutorial_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (blocks.ROOT / TUTORIAL).read_text(encoding="utf-8")
    assert len(blocks.blocks(text)) >= 9
    blocks.run(TUTORIAL)
    assert (tmp_path / "runs" / "tutorial" / "result.json").is_file()
    # what blocks did in Python, to train and to check, is not done again
    monkeypatch.setattr(checks, "check", lambda derivation: [])
    shown = [c for c in blocks.commands(text) if "mine.py" in c and not c.startswith("train")]
    assert len(shown) >= 2
    for command in shown:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, command
    assert (tmp_path / "cube.py").is_file()
    assert (tmp_path / "mine.png").is_file()
