"""Sections of the configuration that several commands share."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from formulations.errors import InputError
from mipprune.config.words import is_file, nearest

_LARGEST = (2 - 2**-23) * 2.0**127  # of float32


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="after")
    def _within_float32(self) -> Self:
        """Networks are trained in float32; infinity says that there is no limit."""
        for key, value in self:
            if isinstance(value, float) and _LARGEST < abs(value) < math.inf:
                raise InputError(f"{key}={value:g} does not fit: float32 ends at {_LARGEST:.2g}")
        return self


class DataConfig(Section):
    """Which images."""

    name: str = Field(
        "digits", description="digits, cifar10, cifar100, imagenet, or images: any in class folders"
    )
    path: str | None = Field(
        None,
        description="folder of the parquet files, instead of the Hub; imagenet, images: also of "
        "train/CLASS/… and val/CLASS/…, or a URL of parquet files such as hf://datasets/OWNER/NAME",
    )
    batch: int = Field(128, ge=1, description="images of a training batch")
    size: int | None = Field(
        None, ge=1, description="imagenet, images: side of the square that is cut out (224)"
    )
    workers: int | None = Field(
        None, ge=0, description="imagenet, images: processes that decode (one for each core)"
    )
    decoder: Literal["pillow", "dali"] | None = Field(
        None, description="imagenet, images: pillow, or dali for NVIDIA's on a GPU"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="training images are mixed in pairs, by shares from Beta(mixup, mixup); 0: not",
    )

    def source(self) -> dict[str, Any]:
        """What names and reads the images: the arguments of :func:`mipprune.data.registry.load`."""
        options = self.model_dump(include={"size", "workers", "decoder"}, exclude_none=True)
        return {"name": self.name, "path": self.path, **options}


# of a function in a user's file the value may be anything
_AsItIs = PlainSerializer(lambda value: value)


class ModelConfig(Section):
    """Which network. Further keys are options of a function that ``FILE.py:FUNCTION`` names."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(
        "resnet8",
        description="resnet8 … resnet110, resnet18/34/50, wrn-28-10 (or another depth and factor), "
        "vgg16/19, densenet40, densenet40-bc, densenet100-bc, mobilenet-v2, lenet-5, "
        "lenet-300-100, mlp; torchvision:NAME, timm:NAME; FILE.py:FUNCTION, a function that makes "
        "a network, with model.KEY=VALUE for what else it takes; hf:FOLDER, a model of "
        "transformers by its folder or config file",
    )
    shortcut: Annotated[Literal["A", "B"] | None, _AsItIs] = Field(
        None, description="CIFAR ResNets: zero padding (A) or projection (B, the default)"
    )
    width: Annotated[int | None, _AsItIs] = Field(
        None,
        ge=1,
        description="channels of the first stage of a ResNet (Wide: without the factor) or VGG",
    )
    growth: Annotated[int | None, _AsItIs] = Field(
        None, ge=1, description="DenseNets: channels that a layer adds (12)"
    )
    multiplier: Annotated[float | None, _AsItIs] = Field(
        None, gt=0, allow_inf_nan=False, description="mobilenet-v2: factor of all widths (1)"
    )
    pretrained: Annotated[bool | None, _AsItIs] = Field(
        None,
        description="torchvision:, timm: begin with the package's default weights; hf: with those "
        "of the folder, as it does by default if there are any",
    )
    hidden: Annotated[list[int] | None, _AsItIs] = Field(
        None, description="hidden units of the mlp, such as [256,128]"
    )

    @field_validator(
        "shortcut", "width", "growth", "multiplier", "pretrained", "hidden", mode="wrap"
    )
    @classmethod
    def _of_named_models(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """What values a function of a user's file takes, it says itself."""
        return value if is_file(info.data.get("name")) else handler(value)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for key in self.model_extra or {}:
            if not is_file(self.name):
                keys = [f"model.{name}" for name in type(self).model_fields]
                raise InputError(f"unknown key 'model.{key}'{nearest(f'model.{key}', keys)}")
        return self

    def options(self) -> dict[str, Any]:
        """What the model is told beside shape and classes."""
        return self.model_dump(exclude={"name"}, exclude_none=True)

    def may_be_trained(self) -> bool:
        """Whether the network may begin with trained weights, though no file of them is named."""
        return is_file(self.name) or self.name.startswith("hf:") or bool(self.pretrained)


class MethodConfig(Section):
    """A pruning method's settings: the base of those in :mod:`mipprune.methods`."""

    name: str = Field("spr", description="spr, greg, directional, complexity, magnitude, …")


class BudgetConfig(Section):
    """What the pruned network may cost, as a share of the dense one: MACs or parameters."""

    macs: float | None = Field(None, description="share of the multiply-accumulates to keep")
    params: float | None = Field(None, description="share of the parameters to keep")
    multiple: int = Field(1, ge=1, description="layers keep multiples of so many channels, or all")
    floor: float = Field(
        0.0, ge=0, le=1, description="smallest share of a layer's channels that stays; 0: one"
    )

    def target(self) -> tuple[str, float] | None:
        """(unit, share) of the budget, None without one.

        Raises
        ------
        InputError
            If both are given.
        """
        given = [(u, s) for u, s in (("macs", self.macs), ("params", self.params)) if s is not None]
        if len(given) > 1:
            raise InputError("give one budget: budget.macs or budget.params")
        return given[0] if given else None


class PhaseConfig(Section):
    """Length and learning rate of a training phase."""

    epochs: int = Field(10, ge=0, description="passes over the training images")
    lr: float = Field(0.1, gt=0, allow_inf_nan=False, description="learning rate at the start")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="cosine to 0; step: times 0.1 at every milestone; constant"
    )
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.75], description="of schedule=step, as shares of the phase"
    )
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")


class OptimizerConfig(Section):
    """SGD with momentum."""

    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a running mean of the weights, which takes their place at the end of "
        "a phase; not while a method works on them. null: none",
    )


class NetworkConfig(Section):
    """A network, its weights, where it runs, and images."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    init: str | None = Field(
        None,
        description="start from these weights: a .safetensors or .pth file, or a checkpoint folder",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()


class RunConfig(NetworkConfig):
    """What begins a run in a folder of its own."""

    name: str | None = Field(None, description="name of the run; by default one that says what")
    runs: str = Field("runs", description="folder in which the run folder is made")
    seed: int = Field(0, ge=0, lt=2**32, description="of everything that is drawn at random")
