"""Pruning methods by name: one file each here, or one of another package; the engine knows none.

A method is a module with ``Settings``, its configuration, and ``METHOD``, its class. Here it is
found by the name of its file; another package announces it in its ``pyproject.toml``::

    [project.entry-points."mipprune.methods"]
    mine = "my_package.pruning"

A recipe that says ``method: {name: …}`` is all else that a new one needs.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol, cast

from formulations import plugins
from formulations.errors import InputError
from mipprune import methods
from mipprune.config.schema import MethodConfig
from mipprune.runs.log import Log

if TYPE_CHECKING:  # torch: names and settings are asked for where nothing is trained
    from mipprune.methods.base import Method, Task

# Other packages add methods under this name: modules with Settings and METHOD.
ENTRY_POINTS = "mipprune.methods"
# What is here beside the methods themselves.
_OTHER = {"base", "registry", "shared"}


class MethodModule(Protocol):
    """What a method's module holds.

    Attributes
    ----------
    Settings : type of MethodConfig
    METHOD : type of Method
    """

    Settings: type[MethodConfig]
    METHOD: type[Method[Any]]


def names() -> list[str]:
    """Names of the methods, sorted; none of them is imported."""
    return sorted(_own_names() | set(plugins.names(ENTRY_POINTS)))


def settings_of(name: str) -> type[MethodConfig]:
    """The configuration class of a method.

    Raises
    ------
    InputError
        If there is no such method, with the nearest name; or it cannot be imported.
    """
    return _module(name).Settings


def log_of(name: str) -> Log:
    """What the numbers are that a method reports of itself.

    Raises
    ------
    InputError
        As :func:`settings_of`.
    """
    return _module(name).METHOD.LOG


def create(settings: MethodConfig, task: Task) -> Method[Any]:
    """The method with its settings, ready for the first step.

    Raises
    ------
    InputError
        If the method cannot do what is asked of it.
    """
    return _module(settings.name).METHOD(settings, task)


def _own_names() -> set[str]:
    return {m.name for m in pkgutil.iter_modules(methods.__path__)} - _OTHER


def _module(name: str) -> MethodModule:
    if name in _own_names():
        return cast(MethodModule, importlib.import_module(f"{methods.__name__}.{name}"))
    if name not in plugins.names(ENTRY_POINTS):
        (close,) = difflib.get_close_matches(name, names(), 1, 0.0)
        raise InputError(f"unknown method {name!r}: the nearest valid one is {close!r}")
    found = plugins.load(ENTRY_POINTS, name)
    settings, method = (getattr(found, part, None) for part in ("Settings", "METHOD"))
    base = importlib.import_module(f"{methods.__name__}.base")
    if not (_is_kind(settings, MethodConfig) and _is_kind(method, base.Method)):
        raise InputError(
            f"{name} of {ENTRY_POINTS} is no method: a module with Settings, a MethodConfig, and "
            "METHOD, a Method"
        )
    return cast(MethodModule, found)


def _is_kind(found: object, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind)
