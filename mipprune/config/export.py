"""Settings of ``mipprune export``."""

from __future__ import annotations

from pydantic import Field

from mipprune.config.schema import DataConfig, Section


class ExportConfig(Section):
    """What ``mipprune export`` may be told."""

    images: int = Field(256, ge=1, description="test images of the parity check, at most")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the latency; default: as many as torch takes"
    )
    model: str | None = Field(
        None,
        description="FILE.py:FUNCTION in the place of the one that a checkpoint names, if that has "
        "moved",
    )
    data: DataConfig | None = Field(None, description="instead of the checkpoint's own data set")
