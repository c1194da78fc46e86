"""Data sets by name: in the device's memory, or streamed from files."""

from __future__ import annotations

import torch

from mipprune.data.base import Data
from mipprune.data.memory import Memory, Split
from mipprune.data.sources import NAMES, load_source

__all__ = ["NAMES", "Data", "Memory", "Split", "load"]


def load(name: str, path: str | None, device: torch.device) -> Data:
    """Load a data set by name: see :func:`mipprune.data.sources.load_source`."""
    return Memory(load_source(name, path), device)
