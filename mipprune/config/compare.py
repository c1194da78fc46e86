"""Settings of ``mipprune compare``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mipprune.config.schema import DataConfig, Section


class CompareConfig(Section):
    """What ``mipprune compare`` may be told."""

    price: float | None = Field(
        None, gt=0, description="price c of a group as a share of c₀ (generated, checkpoint: 0.01)"
    )
    ridge: float | None = Field(
        None, gt=0, description="shrinkage a as a share of G's mean diagonal (otherwise 0.05)"
    )
    term: str | None = Field(
        None,
        description="another φ and c, to be weighted with the problem's ridge and price: a name of "
        "`mipprune derive --list`, FILE.py:NAME with a derivation, or an expression in r",
    )
    blocks: int = Field(
        4, ge=1, description="term with nested indicators: number of equal, consecutive blocks"
    )
    groups: int = Field(20, ge=1, description="generated: number of input groups")
    outputs: int = Field(2, ge=1, description="generated: number of outputs")
    correlation: float = Field(0.5, ge=0, lt=1, description="generated: of neighbouring inputs")
    images: int = Field(256, ge=1, description="checkpoint: calibration images")
    seed: int = Field(
        0, ge=0, description="of generated data, a checkpoint's images, a model's weights"
    )
    solver: Literal["branch-and-bound", "highs", "scip"] = Field(
        "branch-and-bound", description="of the exact row"
    )
    cardinality: int | None = Field(
        None, ge=0, description="largest number of groups kept, up to all"
    )
    lam: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [0.1, 1.0], description="factors of the regularizer at which it is trained to rank groups"
    )
    restarts: int = Field(3, ge=1, description="toys: trained from so many starts, the best counts")
    loss: Literal["l1", "hinge", "squared"] = Field("l1", description="toys: loss, summed")
    unit_price: float = Field(0.1, gt=0, description="toys: price of a hidden unit")
    macs: float = Field(0.5, gt=0, le=1, description="budget: share of the MACs to keep")
    sweep: int = Field(
        0,
        ge=0,
        description="number of prices of the trade-off curve; a layer is then solved for every "
        "number of groups, too",
    )
    tolerance: float = Field(1e-4, gt=0, description="relative gap at which the exact solve stops")
    time_limit: float = Field(
        120.0,
        gt=0,
        description="seconds of each row; of a point of a curve, of each of its two solves",
    )
    model: str | None = Field(
        None,
        description="checkpoint: FILE.py:FUNCTION in the place of the one that it names, if that "
        "has moved",
    )
    data: DataConfig | None = Field(None, description="checkpoint: instead of its own data set")
