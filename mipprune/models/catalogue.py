"""Which models there are: their names and options, without importing torch.

A model is one module of this package that declares ``MODELS``, a literal from each name to the
names of its options, and has ``build(name, shape, classes, **options)``; with ``FURTHER``, a
pattern and the options of the names that match it, it builds those too. Its option ``widths`` is
what a pruned network is rebuilt from: output channels by layer name.

Another package adds a model by an entry point of the group ``mipprune.models``, whose name is the
model's: a module or an object with the same ``build`` and, if it has options, their names in
``OPTIONS``, of those that ``ModelConfig`` knows: ``model.KEY=VALUE``. It need not know widths: of a
pruned network the full one is built and its layers get the shapes that were recorded
(:func:`mipprune.models.external.resize`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from formulations.errors import InputError
from formulations.plugins import Shelf, declared

if TYPE_CHECKING:
    from torch import nn

_SHELF = Shelf("mipprune.models", "MODELS", "mipprune.models")


@dataclass(frozen=True)
class Model:
    """How a model is built.

    Attributes
    ----------
    build : callable
        Takes name, shape, classes, and the options by name.
    options : tuple of str
        Names of its options, without the sizes.
    sizes : {"widths", "shapes"}
        What a pruned network is described by: output channels by layer, or all tensors' shapes.
    own : bool
        Whether it is of this package, so that ``build`` takes the sizes as an option.
    """

    build: Callable[..., nn.Module]
    options: tuple[str, ...]
    sizes: Literal["widths", "shapes"]
    own: bool


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
        return Model(found.build, options, "widths" if own else "shapes", own)
    for module, (pattern, options) in declared("mipprune.models", "FURTHER").items():
        if re.fullmatch(pattern, str(name)):
            family = importlib.import_module(module)
            return Model(family.build, options, getattr(family, "SIZES", "widths"), True)
    raise InputError(
        f"unknown model {name!r}: one of {', '.join(names())}, torchvision:NAME, timm:NAME"
    )


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a model takes beside shape, classes and sizes."""
    return find(name).options
