"""Settings of ``mipprune prune``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mipprune.config.schema import BudgetConfig, RunConfig


class PruneConfig(RunConfig):
    """What ``mipprune prune`` may be told."""

    name: str | None = Field(None, description="name of the run; default: model, method, budget")
    seed: int = Field(0, ge=0, lt=2**32, description="of calibration images and positions")
    method: Literal[
        "exact", "spr-score", "magnitude-l1", "magnitude-l2", "group-norm", "taylor", "random"
    ] = Field("exact", description="exact: layer problems; the others: scores of the weights")
    budget: BudgetConfig = BudgetConfig()
    protect: list[str] = Field([], description="layers whose output channels stay, or patterns")
    candidates: Literal["all", "inner"] = Field(
        "all",
        description="channels to choose from: all, or the inner ones, which one layer alone reads",
    )
    images: int = Field(1000, ge=1, description="training images for calibration")
    positions: int = Field(
        256, ge=1, description="places of an output map that count, drawn anew for every batch"
    )
    trials: int = Field(
        128,
        ge=1,
        description="exact: images on which an error's effect on the output is measured, after a "
        "refit on as many others",
    )
    refit: bool = Field(True, description="rewrite the weights of what is left, layer by layer")
    recalibrate: bool = Field(
        True,
        description="estimate BatchNorm statistics anew; after a refit the function stays",
    )
    tolerance: float = Field(0.01, gt=0, description="exact: gap at which a layer counts as solved")
    nodes: int = Field(
        4,
        ge=0,
        description="exact: most open nodes of the branch and bound on a layer of 600 rows, more "
        "on smaller ones; 0: none, no proof",
    )
    time_limit: float = Field(
        float("inf"),
        gt=0,
        description="exact: seconds a layer; with a limit, a second run may differ",
    )
    parallel: str = Field(
        "processes", description="layers: processes, threads, dask or dask:ADDRESS"
    )
    jobs: int = Field(-1, description="workers on this machine; −1: one a core")
