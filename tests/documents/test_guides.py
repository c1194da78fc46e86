"""What the how-to guides show runs, from top to bottom, in an empty folder."""

import re

import blocks
import pytest
from typer.main import get_command

from mipprune.cli import app

GUIDES = sorted(f"docs/guides/{path.name}" for path in (blocks.ROOT / "docs/guides").glob("*.md"))
RUNNABLE = [g for g in GUIDES if blocks.blocks((blocks.ROOT / g).read_text(encoding="utf-8"))]
DOCUMENTS = ["README.md", *sorted(f"docs/{p.name}" for p in (blocks.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("guide", RUNNABLE)
def test_the_blocks_of_a_guide_run(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks.run(guide)


@pytest.mark.parametrize("document", [*DOCUMENTS, *GUIDES])
def test_the_commands_shown_exist(document):
    known = set(get_command(app).commands)
    text = (blocks.ROOT / document).read_text(encoding="utf-8")
    shown = {words.split()[0] for words in blocks.commands(text) if re.match(r"\w", words)}
    assert shown <= known
