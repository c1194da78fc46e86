"""Settings of ``mipprune certify``."""

from __future__ import annotations

from pydantic import Field

from mipprune.config.schema import DataConfig, Section


class CertifyConfig(Section):
    """What ``mipprune certify`` may be told."""

    images: int = Field(512, ge=1, description="training images for calibration")
    positions: int = Field(256, ge=1, description="places of an output map that count")
    seed: int = Field(0, ge=0, lt=2**32, description="of calibration images and positions")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    layers: list[str] = Field([], description="layers, or patterns; default: all with fewer inputs")
    tolerance: float = Field(0.01, gt=0, description="gap at which a layer counts as solved")
    nodes: int = Field(
        4,
        ge=0,
        description="most open nodes of the branch and bound on a layer of 600 rows, more on "
        "smaller ones; 0: none, no proof",
    )
    time_limit: float = Field(float("inf"), gt=0, description="seconds of a layer")
    parallel: str = Field(
        "processes", description="layers: processes, threads, dask or dask:ADDRESS"
    )
    jobs: int = Field(-1, description="workers on this machine; −1: one a core")
    model: str | None = Field(
        None,
        description="FILE.py:FUNCTION in the place of the one that a checkpoint names, if that has "
        "moved",
    )
    data: DataConfig | None = Field(None, description="instead of the checkpoints' own data set")
