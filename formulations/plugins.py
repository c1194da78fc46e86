"""What other packages add by name: the entry points of a group.

A package announces an object in its ``pyproject.toml``, here the term ``cube``::

    [project.entry-points."formulations.terms"]
    cube = "my_package.terms:cube"

and, once it is installed, the name is found wherever such a name is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
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


def _found(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
