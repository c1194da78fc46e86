"""How the documentation site is built: ``make docs``. Nothing is downloaded."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import generate
from docutils import nodes
from sphinx import addnodes

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

add_module_names = False  # a page is of one module, and says so
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
    bar in a sentence is a star or a bar. Here indented lines above the first section become literal
    blocks and such marks are escaped; what stands between backticks, and emphasis, stays.
    """
    out: list[str] = []
    literal = listed = False
    sections = [n for n, line in enumerate(lines) if re.fullmatch(r"-{3,}", line.strip())]
    text = min(sections, default=len(lines) + 1) - 1  # lines above the first section
    for number, line in enumerate(lines):
        if not line.strip():
            out.append(line)
            continue
        indented = line[0] == " " and number < text
        if not indented:
            listed = bool(re.match(r"([-*•]|\d+\.)\s", line))
        if indented and not listed:
            out += [] if literal or _announced(out) else ["", "::", ""]
            literal = True
            out.append(line)
            continue
        if literal and out[-1].strip():
            out.append("")
        literal = False
        out.append(_escaped(line))
    return out


def _announced(out: list[str]) -> bool:
    above = [line for line in out if line.strip()]
    return bool(above) and above[-1].rstrip().endswith("::")


# literals, roles, and words set strong or emphasised
_CODE = re.compile(
    r"(``.*?``|:[\w:]+:`[^`]*`|`[^`]*`"
    r"|(?<![\w*])\*\*\w[^*]*\*\*(?![\w*])|(?<![\w*])\*\w[^*]*\*(?![\w*]))"
)


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    for number in range(0, len(parts), 2):
        text = re.sub(r"(?<!^)(?<!\s)\*|\*(?=\s)|\|", lambda mark: "\\" + mark[0], parts[number])
        parts[number] = re.sub(r"(\w)_(?!\w)", r"\1\\_", text)
    return "".join(parts)


def _read(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def _words(app: Any, doctree: nodes.document) -> None:
    """A class in a docstring's types is what its module calls so; other words refer to nothing."""
    for reference in list(doctree.findall(addnodes.pending_xref)):
        if not reference.hasattr("refspecific"):  # neither of a signature nor of a type
            continue
        module, target = reference.get("py:module") or "", reference["reftarget"]
        found = getattr(sys.modules.get(module), target, None)
        if inspect.isclass(found):
            home = f"{found.__module__}.{found.__qualname__}"
        else:
            home = _imports(module).get(target)
        if home:
            reference["reftarget"] = home
        elif reference["refspecific"] and target[:1].islower():
            reference.replace_self(reference.children)


@cache
def _imports(module: str) -> dict[str, str]:
    """What the names of a module's imports are, those for type checkers too."""
    if module not in sys.modules:
        return {}
    tree = ast.parse(Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8"))
    return {
        name.asname or name.name: f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def _home(app: Any, env: Any, reference: addnodes.pending_xref, content: Any) -> Any:
    """A name that a package hands on leads to where it is written; one that is private nowhere."""
    target = reference.get("reftarget", "")
    if not target.startswith(generate.PACKAGES):
        return None
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return None
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if home == target or target.rpartition(".")[2].startswith("_"):
        return content
    domain = env.get_domain("py")
    return (
        domain.resolve_xref(env, reference["refdoc"], app.builder, "obj", home, reference, content)
        or content
    )


def setup(app: Any) -> None:
    """Pages from the code first, then docstrings as they stand."""
    generate.write()
    app.connect("autodoc-process-docstring", _read, priority=100)  # before napoleon's
    app.connect("doctree-read", _words)
    app.connect("missing-reference", _home)
