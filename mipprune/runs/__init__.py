"""Run folders: their layout, checkpoints and results."""
