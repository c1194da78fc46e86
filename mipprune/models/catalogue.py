"""Which models there are: their names and options, without importing torch.

A model is one module of this package that declares ``MODELS``, a literal from each name to the
names of its options, and has ``build(name, shape, classes, **options)``; with ``FURTHER``, a
pattern and the options of the names that match it, it builds those too (None: it has ``options``,
which says them of a name). Its option ``widths`` is what a pruned network is rebuilt from: output
channels by layer name. Networks that are made elsewhere have such modules in
:mod:`mipprune.models.references`.

Another package adds a model by an entry point of the group ``mipprune.models``, whose name is the
model's: a module or an object with the same ``build`` and, if it has options, their names in
``OPTIONS``, of those that ``ModelConfig`` knows: ``model.KEY=VALUE``. It need not know widths: of a
pruned network the full one is built and its layers get the shapes that were recorded
(:func:`mipprune.models.external.resize`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from formulations.errors import InputError
from formulations.plugins import Shelf, declared

if TYPE_CHECKING:
    from torch import nn

_SHELF = Shelf("mipprune.models", "MODELS", "mipprune.models")
_PACKAGES = ("mipprune.models", "mipprune.models.references")


@dataclass(frozen=True)
class Model:
    """How a model is built.

    Attributes
    ----------
    build : callable
        Takes name, shape, classes, and the options by name.
    options : tuple of str or None
        Names of its options, without the sizes; None if ``build`` knows them alone.
    sizes : {"widths", "shapes"}
        What a pruned network is described by: output channels by layer, or all tensors' shapes.
    complete : bool
        Whether ``build`` itself says of the network what it was built from.
    finish : callable or None
        Told a network that was built and the shapes that have been recorded, or None.
    """

    build: Callable[..., nn.Module]
    options: tuple[str, ...] | None
    sizes: Literal["widths", "shapes"]
    complete: bool = False
    finish: Callable[[nn.Module, Mapping[str, Sequence[int]] | None], None] | None = None


def names() -> tuple[str, ...]:
    """Names of the models, ours and those of other packages; some have more by a pattern."""
    return _SHELF.names()


def find(name: str | None) -> Model:
    """How a model is built, by its name.

    Raises
    ------
    InputError
        If there is none of this name, or its package cannot be imported.
    """
    if name in names():
        found, options = _SHELF.find(name)
        own = _SHELF.is_own(name)
        if not callable(getattr(found, "build", None)):
            raise InputError(f"{name} of mipprune.models has no build(name, shape, classes)")
        return Model(found.build, options, "widths" if own else "shapes")
    if matched := _family(str(name)):
        family, some = matched
        sizes: Literal["widths", "shapes"] = getattr(family, "SIZES", "widths")
        complete, finish = getattr(family, "COMPLETE", False), getattr(family, "finish", None)
        return Model(family.build, some, sizes, complete, finish)
    raise InputError(
        f"unknown model {name!r}: one of {', '.join(names())}, torchvision:NAME, timm:NAME, "
        "FILE.py:FUNCTION, hf:FOLDER"
    )


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a model takes beside shape, classes and sizes.

    Raises
    ------
    InputError
        As :func:`find`; if a function in a file has to say it, and there is none.
    """
    options = find(name).options
    return _said(name)[0] if options is None else options


def unknown_options(name: str, given: Iterable[str]) -> list[str]:
    """Which of some options a model does not take.

    Raises
    ------
    InputError
        As :func:`options_of`.
    """
    options, any_ = find(name).options, False
    if options is None:
        options, any_ = _said(name)
    return [] if any_ else [option for option in given if option not in options]


def _family(name: str) -> tuple[ModuleType, tuple[str, ...] | None] | None:
    """The module whose pattern a name matches, and the options that it declares."""
    for package in _PACKAGES:
        for module, (pattern, options) in declared(package, "FURTHER").items():
            if re.fullmatch(pattern, name):
                return importlib.import_module(module), options
    return None


def _said(name: str) -> tuple[tuple[str, ...], bool]:
    """Options of a model that its module says by name, and whether it takes any besides."""
    found = _family(name)
    assert found is not None  # find has found it
    return found[0].options(name)
