"""Settings of ``mipprune eval``."""

from __future__ import annotations

from mipprune.config.schema import NetworkConfig


class EvalConfig(NetworkConfig):
    """What ``mipprune eval`` needs: a network, its weights and images."""
