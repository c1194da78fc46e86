"""The tree: no crowded folder, no overlong module, and what each room may import."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("formulations", "mipprune")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_MODULES, MOST_LINES = 13, 400


def test_no_folder_has_more_modules_than_a_reader_can_look_over():
    folders = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    crowded = {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > MOST_MODULES}
    assert crowded == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_overlong(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
