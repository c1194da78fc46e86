"""Pages of the site that are read off the code: the interface, the settings, the commands.

``docs/conf.py`` calls :func:`write` before every build. The pages lie in ``docs/generated`` and are
not kept: a new module, setting or command appears by itself.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import typer
from typer.testing import CliRunner

from mipprune.cli import app
from mipprune.config.certify import CertifyConfig
from mipprune.config.compare import CompareConfig
from mipprune.config.describe import settings_rows
from mipprune.config.evaluate import EvalConfig
from mipprune.config.export import ExportConfig
from mipprune.config.prune import PruneConfig
from mipprune.config.train import Config
from mipprune.config.valley import ValleyConfig
from mipprune.methods import registry

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "generated"
PACKAGES = ("formulations", "mipprune")


def write() -> None:
    """Write all generated pages; those that are as they were keep their time."""
    pages = {f"api/{n}.rst": text for package in PACKAGES for n, text in module_pages(package)}
    pages |= {"settings.md": settings_page(), "commands.md": commands_page()}
    pages["start.md"] = start_page()
    for old in FOLDER.rglob("*.*"):
        if str(old.relative_to(FOLDER)) not in pages:
            old.unlink()
    (FOLDER / "api").mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def start_page() -> str:
    """README, its links as they are from here."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    moved = {"docs/": "../", "CONTRIBUTING.md": "../extending.md", "CHANGELOG.md": "../changes.md"}
    moved |= {"examples/": "../../examples/", "CITATION.cff": "../../CITATION.cff"}
    for target, place in moved.items():
        text = text.replace(f"]({target}", f"]({place}")
    return text


# ---- interface ----------------------------------------------------------------------------------


def module_pages(package: str) -> Iterator[tuple[str, str]]:
    """Name and reStructuredText of a page for a package and for each public module below it."""
    module = importlib.import_module(package)
    found = [part for part in pkgutil.iter_modules(module.__path__) if part.name[0] != "_"]
    names = [f"{package}.{part.name}" for part in found]
    lines = [*_head(package), "   :no-members:", "", *_public_names(module)]
    rows = [
        (f":doc:`{name.rpartition('.')[2]} <{name}>`", _first_words(part, name))
        for name, part in zip(names, found, strict=True)
    ]
    lines += _list(rows)
    if names:
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   {name.rpartition('.')[2]} <{name}>" for name in names]
    yield package, "\n".join(lines) + "\n"
    for name, part in zip(names, found, strict=True):
        if part.ispkg:
            yield from module_pages(name)
        else:
            yield name, "\n".join(_head(name)) + "\n"


def _head(name: str) -> list[str]:
    return [name, "=" * len(name), "", f".. automodule:: {name}"]


def _first_words(part: pkgutil.ModuleInfo, name: str) -> str:
    """The first paragraph of a module's docstring; the module is not imported."""
    spec = part.module_finder.find_spec(name, None)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return escaped(_paragraph(text))


def _public_names(module: ModuleType) -> list[str]:
    """A table of what a package offers by its own name, with where each is written."""
    rows = []
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            first = escaped(_paragraph(inspect.getdoc(value) or ""))
            rows.append((f":py:obj:`{name} <{value.__module__}.{name}>`", first))
        elif not inspect.ismodule(value):
            rows.append((f"``{name}``", ""))
    return _list(rows)


def _list(rows: Sequence[tuple[str, str]]) -> list[str]:
    """A table without a head, in reStructuredText."""
    if not rows:
        return []
    lines = ["", ".. list-table::", "   :widths: 30 70", ""]
    for left, right in rows:
        lines += [f"   * - {left}", f"     - {right}"]
    return lines


def _paragraph(text: str) -> str:
    return text.partition("\n\n")[0].replace("\n", " ")


def escaped(text: str) -> str:
    """A line of a docstring as reStructuredText that reads as it stands; code stays code."""
    parts = text.split("``")
    for number in range(0, len(parts), 2):
        for mark in "*|_":
            parts[number] = parts[number].replace(mark, f"\\{mark}")
    return "``".join(parts)


# ---- settings -----------------------------------------------------------------------------------


def settings_page() -> str:
    """Markdown of every command's settings and every method's."""
    kinds = {
        "train": Config,
        "eval": EvalConfig,
        "prune": PruneConfig,
        "certify": CertifyConfig,
        "compare": CompareConfig,
        "valley": ValleyConfig,
        "export": ExportConfig,
    }
    parts = [
        "# Settings",
        "Settings are words of the form `key=value` behind a command, or keys of a recipe. A key "
        "with a dot belongs to a section: `budget.macs=0.5`. A section that is given one plain "
        "value takes it as its name: `model=resnet56` is `model.name=resnet56`. What is not said "
        "has the default, or what the recipe says.",
    ]
    for command, kind in kinds.items():
        parts += [f"## mipprune {command}", _table(settings_rows(kind))]
    parts += [
        "## Methods",
        "`method=NAME` takes these settings besides, as `method.KEY=VALUE`; "
        "[the methods](../methods.md) says what each does.",
    ]
    for name in registry.names():
        parts += [f"### method={name}", _table(settings_rows(registry.settings_of(name)))]
    return "\n\n".join(parts) + "\n"


# ---- commands -----------------------------------------------------------------------------------


def commands_page() -> str:
    """Markdown of what every command prints for ``--help``."""
    names = list(typer.main.get_command(app).commands)
    parts = [
        "# Commands",
        "What `--help` prints. [Settings](settings.md) have a page of their own.",
    ]
    for words in ([], *([name] for name in names)):
        parts += [f"## {' '.join(['mipprune', *words])}", f"```text\n{_help(words)}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(words: list[str]) -> str:
    result = CliRunner(env={"COLUMNS": "92"}).invoke(app, [*words, "--help"], prog_name="mipprune")
    return result.stdout.strip()


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown of settings: key, type and default as code, and the meaning."""
    lines = [["setting", "type", "default", "meaning"], ["---"] * 4]
    for *code, meaning in rows:
        cells = [*(f"`{cell}`" if cell else "" for cell in code), meaning]
        lines.append([cell.replace("|", "\\|").replace("\n", " ") for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
