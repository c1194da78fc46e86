"""What has a name: what our own modules declare, and what other packages add by entry points.

Names are to be had without importing what they name: a command line completes them.

A package announces an object in its ``pyproject.toml``, here the term ``cube``::

    [project.entry-points."formulations.terms"]
    cube = "my_package.terms:cube"

and, once it is installed, the name is found wherever such a name is asked for.
"""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache, lru_cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from formulations.errors import InputError


def names(group: str) -> tuple[str, ...]:
    """Names of the objects that installed packages add to a group, sorted; nothing is imported."""
    return tuple(sorted(_found(group)))


def load(group: str, name: str) -> Any:
    """The object of a name.

    Raises
    ------
    InputError
        If there is none of this name, or its package cannot be imported: in one line, that says
        what was tried.
    """
    points = _found(group)
    if name not in points:
        raise InputError(f"no installed package adds {name!r} to {group}")
    point = points[name]
    try:
        return point.load()
    except Exception as error:  # whatever the package raises while it is imported
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}, the entry point {point.value} of {group}, does not load: "
            f"{type(error).__name__}: {reason}"
        ) from error


@cache
def declared(package: str, variable: str) -> dict[str, Any]:
    """What the modules of a package say by a literal, read off their text: none is imported.

    Parameters
    ----------
    package : str
        Such as ``mipprune.models``.
    variable : str
        Set at the top of a module, to a literal: a tuple of names, a dictionary.

    Returns
    -------
    dict
        Value by the module's full name, in the order of these.
    """
    found = {}
    for file in sorted(resources.files(package).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".py"):
            continue
        for line in ast.parse(file.read_text(encoding="utf-8")).body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == variable:
                    found[f"{package}.{file.name.removesuffix('.py')}"] = ast.literal_eval(value)
    return found


class Shelf:
    """Objects of one kind by name, each with the names of its options.

    Those of a package's own modules are declared by ``variable``, a dictionary at the top of the
    module, from a name to the tuple of its options; the module is the object. Those of other
    packages are entry points; their options are their attribute ``OPTIONS``, if they have one.

    Parameters
    ----------
    package, variable : str
        As :func:`declared` takes them.
    group : str
        Of the entry points.
    """

    def __init__(self, package: str, variable: str, group: str) -> None:
        self.package, self.variable, self.group = package, variable, group

    def _own(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        modules = declared(self.package, self.variable)
        return {name: (m, options) for m, of in modules.items() for name, options in of.items()}

    def names(self) -> tuple[str, ...]:
        """All names, without importing anything."""
        own = self._own()
        return (*own, *(name for name in names(self.group) if name not in own))

    def is_own(self, name: str) -> bool:
        """Whether one of the package's modules declares the name."""
        return name in self._own()

    def find(self, name: str) -> tuple[Any, tuple[str, ...]]:
        """The object of a name and the names of its options.

        Raises
        ------
        InputError
            As :func:`load`.
        """
        if self.is_own(name):
            module, options = self._own()[name]
            return importlib.import_module(module), options
        found = load(self.group, name)
        return found, tuple(getattr(found, "OPTIONS", ()))


def _found(group: str) -> dict[str, EntryPoint]:
    return _read(group, tuple((folder, _changed(folder)) for folder in sys.path))


def _changed(folder: str) -> int | None:
    """When something was last installed into a folder of the path."""
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return None


# what every installed package announces is read file by file, which takes 40 ms
@lru_cache(32)
def _read(group: str, _path: tuple[tuple[str, int | None], ...]) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
