"""Settings of ``mipprune valley``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mipprune.config.schema import DataConfig, Section


class ValleyConfig(Section):
    """What ``mipprune valley`` may be told."""

    points: int = Field(21, ge=3, description="values of t on the line and on the curve")
    images: int = Field(
        1024, ge=2, description="training images of loss, BatchNorm statistics and Hessian, at most"
    )
    epochs: int = Field(20, ge=1, description="of the curve's training")
    lr: float = Field(0.1, gt=0, description="of the curve's training, falling by a cosine")
    batch: int = Field(64, ge=2, description="images of a batch")
    eigenvectors: int = Field(10, ge=1, description="of the Hessian at B, largest first")
    precision: Literal["float32", "float64"] = Field(
        "float32", description="of the Hessian's products; float64 is 5 to 10 times slower on a CPU"
    )
    seed: int = Field(0, ge=0, description="of images, batches, t and directions")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    model: str | None = Field(
        None,
        description="FILE.py:FUNCTION in the place of the one that a checkpoint names, if that has "
        "moved",
    )
    data: DataConfig | None = Field(None, description="instead of the checkpoints' own data set")
