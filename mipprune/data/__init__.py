"""Data sets by name, in memory or streamed."""
