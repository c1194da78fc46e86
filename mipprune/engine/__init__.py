"""Training: the loop, the phases of a run, the run folder."""

from mipprune.engine.run import train

__all__ = ["train"]
