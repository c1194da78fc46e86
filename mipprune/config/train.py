"""Settings of ``mipprune train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator

from formulations.errors import InputError
from mipprune.config.overrides import explain
from mipprune.config.schema import (
    BudgetConfig,
    MethodConfig,
    OptimizerConfig,
    PhaseConfig,
    RunConfig,
)
from mipprune.config.words import folder_name
from mipprune.methods.registry import settings_of


class Config(RunConfig):
    """A training run: perhaps train dense first; regularize, remove, fine-tune."""

    name: str | None = Field(
        None,
        description="name of the run; default: recipe and seed, or model, data and seed",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of forward and backward passes in training; weights are float32"
    )
    compile: bool = Field(
        False, description="torch.compile of the network: minutes at first, then faster on a GPU"
    )
    accumulate: int = Field(
        1, ge=1, description="parts, one after the other, in which a process works through a batch"
    )
    sync_batchnorm: bool = Field(
        False, description="BatchNorm statistics over all processes that torchrun started"
    )
    checkpoint_steps: int = Field(
        500, ge=0, description="steps between two checkpoints within an epoch; 0: none"
    )
    reference: bool = Field(
        False, description="without init: also train the network dense for as many epochs in all"
    )
    granularity: Literal["link", "neuron", "channel", "block"] = Field(
        "channel",
        description="what is pruned: single weights, kept at zero by masks (link); hidden units of "
        "linear layers (neuron); channels of convolutions and hidden units (channel); these and "
        "whole residual blocks (block)",
    )
    protect: list[str] = Field(
        [], description="layers whose output channels stay: names or patterns such as layer*.conv2"
    )
    recalibrate: int = Field(
        1024, ge=0, description="training images for BatchNorm statistics after removal; 0: none"
    )
    method: SerializeAsAny[MethodConfig] = Field(default_factory=dict, validate_default=True)
    budget: BudgetConfig = BudgetConfig()
    pretrain: PhaseConfig = PhaseConfig(epochs=0)
    regularize: PhaseConfig = PhaseConfig()
    finetune: PhaseConfig = PhaseConfig(lr=0.01)
    optimizer: OptimizerConfig = OptimizerConfig()

    @field_validator("method", mode="plain")
    @classmethod
    def _of_its_method(cls, values: Any) -> MethodConfig:
        """The settings of the method that is named: they live beside its code."""
        if isinstance(values, MethodConfig):
            return values
        kind = settings_of(str(values.get("name") or MethodConfig().name))
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            raise InputError(explain(error, kind, "method.")) from None


def named(config: Config, recipe: str | None) -> Config:
    """The same settings with a name for the run: by default the recipe's, with the seed.

    Without a recipe, that of the model and of the data.
    """
    if config.name is not None:
        return config
    model = folder_name(config.model.name)
    what = f"{model}-{config.data.name}" if recipe is None else Path(recipe).stem
    return config.model_copy(update={"name": f"{what}-seed{config.seed}"})
