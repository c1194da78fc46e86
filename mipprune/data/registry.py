"""Data sets by name: in the device's memory, or streamed from files."""

from __future__ import annotations

from typing import Any

import torch

from formulations.errors import InputError
from mipprune.data import sources
from mipprune.data.base import Data
from mipprune.data.memory import Memory, Split

__all__ = ["NAMES", "Data", "Memory", "Split", "load"]

STREAMED = ("imagenet", "images")
NAMES = (*sources.NAMES, *STREAMED)


def load(name: str, path: str | None, device: torch.device, **options: Any) -> Data:
    """Load a data set by name.

    Parameters
    ----------
    name, path : str
        See :func:`mipprune.data.sources.load_source` for digits and CIFAR,
        :func:`mipprune.data.images.load_images` for ImageNet and images of your own.
    device : torch.device
        Where batches are wanted.
    **options
        Of ``load_images``: ``size``, ``workers``, ``decoder``.

    Raises
    ------
    InputError
        In one line: unknown name, no such images, an option that the data set does not have.
    """
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: one of {', '.join(NAMES)}")
    if name in STREAMED:
        from mipprune.data.images import load_images  # noqa: PLC0415, pyarrow and fsspec

        return load_images(name, path, device, **options)
    if options:
        raise InputError(f"data={name} has no option data.{next(iter(options))}")
    return Memory(sources.load_source(name, path), device)
