"""How the documentation site is built: ``make docs``. Nothing is downloaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import generate

project = "mipprune"
author = copyright = "mipprune contributors"
release = version = importlib.metadata.version("mipprune")
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Words of a docstring's types ("array", "mapping of str to float") and names of other packages are
# no references; names of our own packages must be found.
nitpick_ignore_regex = [(r"py:.*", r"(?!(formulations|mipprune)\.).*")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "ignore-module-all": True,  # a name that a module hands on is documented where it is written
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Optional libraries that need not be there for their users' docstrings to be read.
autodoc_mock_imports = [
    name for name in ("nvidia", "triton") if importlib.util.find_spec(name) is None
]
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"mipprune {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = "$ "


def plain(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText that reads as it stands.

    Docstrings are written to be read in the source: formulas are indented lines, and a star or a
    bar in a sentence is a star or a bar. Here such lines become literal blocks and such marks are
    escaped; what stands between backticks, and emphasis, stays.
    """
    out: list[str] = []
    literal: int | None = None  # indentation of the text above a literal block
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            out.append(line)
            continue
        if literal is not None and indent > literal:
            out.append(line)
            continue
        literal = None
        above = lines[number - 2] if number > 1 and not lines[number - 1].strip() else ""
        depth = len(above) - len(above.lstrip())
        listed = re.match(r"\s*([-*•]|\d+\.)\s", above)
        if above.strip() and indent > depth and not listed:
            literal = depth
            if not out[-2].rstrip().endswith("::"):
                out += [" " * depth + "::", ""]
            out.append(line)
            continue
        if above.strip().endswith("::") and indent > depth:
            literal = depth
        out.append(_escaped(line))
    return out


_CODE = re.compile(r"(``.*?``|:[\w:]+:`[^`]*`|`[^`]*`|(?<![\w*])\*\w[^*]*\*(?![\w*]))")


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    for number in range(0, len(parts), 2):
        text = re.sub(r"(?<!^)(?<!\s)\*|\*(?=\s)|\|", lambda mark: "\\" + mark[0], parts[number])
        parts[number] = re.sub(r"(\w)_(?!\w)", r"\1\\_", text)
    return "".join(parts)


def _read(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def setup(app: Any) -> None:
    """Pages from the code first, then docstrings as they stand."""
    generate.write()
    app.connect("autodoc-process-docstring", _read, priority=100)  # before napoleon's
