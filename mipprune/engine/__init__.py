"""The training loop, its phases, checkpoints and progress."""

from mipprune.engine.guard import Stopped
from mipprune.engine.run import train

__all__ = ["Stopped", "train"]
