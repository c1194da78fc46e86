"""Pruning methods: one file each, found by its name; the engine knows none of them.

A method is a module here with ``Settings``, its configuration, and ``METHOD``, its class; a recipe
that says ``method: {name: …}`` is all else that a new one needs.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from formulations.errors import InputError
from mipprune import methods
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task

__all__ = ["Method", "Task", "create", "names", "settings_of"]

# What is here beside the methods themselves.
_OTHER = {"base", "registry", "shared"}


def names() -> list[str]:
    """Names of the methods, sorted."""
    return sorted({m.name for m in pkgutil.iter_modules(methods.__path__)} - _OTHER)


def settings_of(name: str) -> type[MethodConfig]:
    """The configuration class of a method.

    Raises
    ------
    InputError
        If there is no such method, with the nearest name.
    """
    return _module(name).Settings


def create(settings: MethodConfig, task: Task) -> Method:
    """The method with its settings, ready for the first step.

    Raises
    ------
    InputError
        If the method cannot do what is asked of it.
    """
    return _module(settings.name).METHOD(settings, task)


def _module(name: str):
    if name not in names():
        (close,) = difflib.get_close_matches(name, names(), 1, 0.0)
        raise InputError(f"unknown method {name!r}: the nearest valid one is {close!r}")
    return importlib.import_module(f"mipprune.methods.{name}")
