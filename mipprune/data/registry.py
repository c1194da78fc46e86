"""Data sets by name: in the device's memory, or streamed from files.

Another package adds one by an entry point of the group ``mipprune.data``: a function of the path
that the user gave, or None, and of the device, whose result is a :class:`Data` or, for images that
fit on the device, a :class:`mipprune.data.sources.Source`.
"""

from __future__ import annotations

from typing import Any

import torch

from formulations import plugins
from formulations.errors import InputError
from mipprune.data import sources
from mipprune.data.base import Data
from mipprune.data.memory import Memory, Split

__all__ = ["NAMES", "Data", "Memory", "Split", "load", "names"]

STREAMED = ("imagenet", "images")
NAMES = (*sources.NAMES, *STREAMED)
_GROUP = "mipprune.data"


def names() -> tuple[str, ...]:
    """Names of the data sets, ours and those of other packages."""
    return (*NAMES, *plugins.names(_GROUP))


def load(
    name: str, path: str | None = None, device: torch.device | None = None, **options: Any
) -> Data:
    """Load a data set by name.

    Parameters
    ----------
    name, path : str
        See :func:`mipprune.data.sources.load_source` for digits and CIFAR,
        :func:`mipprune.data.images.load_images` for ImageNet and images of your own.
    device : torch.device, optional
        Where batches are wanted; by default on the CPU.
    **options
        Of ``load_images``: ``size``, ``workers``, ``decoder``.

    Raises
    ------
    InputError
        In one line: unknown name, no such images, an option that the data set does not have.
    """
    device = torch.device("cpu") if device is None else device
    if name not in names():
        raise InputError(f"unknown data set {name!r}: one of {', '.join(names())}")
    if name in STREAMED:
        from mipprune.data.images import load_images  # noqa: PLC0415, pyarrow and fsspec

        return load_images(name, path, device, **options)
    if options:
        raise InputError(f"data={name} has no option data.{next(iter(options))}")
    if name in NAMES:
        return Memory(sources.load_source(name, path), device)
    found = plugins.load(_GROUP, name)(path, device)
    if isinstance(found, sources.Source):
        return Memory(found, device)
    if not isinstance(found, Data):
        raise InputError(f"{name} of {_GROUP} gives a {type(found).__name__}: no Data, no Source")
    return found
