"""Packages that are installed as far as Python can see."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], entry_points: str
) -> None:
    """Write modules and the metadata that pip would, and put the folder on the path.

    ``entry_points`` is the text of ``entry_points.txt``: a section a group, a line a name.
    """
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        # another test's module of this name may be loaded
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
