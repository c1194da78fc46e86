"""Typed configuration of a run, its recipes and ``key=value`` overrides.

Precedence: defaults below, then the recipe, then the overrides. A section given one plain value
sets its name: ``model=resnet56`` is ``model.name=resnet56``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
)

from formulations.errors import InputError


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


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


class ModelConfig(Section):
    """Which network."""

    name: str = Field(
        "resnet8",
        description="resnet8 … resnet110, resnet18/34/50, wrn-28-10 (or another depth and factor), "
        "vgg16/19, densenet40, densenet40-bc, densenet100-bc, mobilenet-v2, lenet-5, "
        "lenet-300-100, mlp; torchvision:NAME, timm:NAME",
    )
    shortcut: Literal["A", "B"] | None = Field(
        None, description="CIFAR ResNets: zero padding (A) or projection (B, the default)"
    )
    width: int | None = Field(
        None,
        ge=1,
        description="channels of the first stage of a ResNet (Wide: without the factor) or VGG",
    )
    growth: int | None = Field(None, ge=1, description="DenseNets: channels that a layer adds (12)")
    multiplier: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="mobilenet-v2: factor of all widths (1)"
    )
    pretrained: bool | None = Field(
        None, description="torchvision:, timm: begin with the package's default weights"
    )
    hidden: list[int] | None = Field(None, description="hidden units of the mlp, such as [256,128]")


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
    lr: float = Field(0.1, gt=0, description="learning rate at the start")
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
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of a running mean of the weights, which takes their place at the end of "
        "a phase; not while a method works on them. null: none",
    )


class Config(Section):
    """A training run: perhaps train dense first; regularize, remove, fine-tune."""

    name: str | None = Field(None, description="name of the run; default: recipe and seed")
    runs: str = Field("runs", description="folder in which the run folder is made")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
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
    init: str | None = Field(
        None,
        description="start from these weights: a .safetensors or .pth file, or a checkpoint folder",
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
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
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
        from mipprune.methods.registry import settings_of

        if isinstance(values, MethodConfig):
            return values
        kind = settings_of(str(values.get("name") or MethodConfig().name))
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            raise InputError(_explain(error, kind, "method.")) from None


class EvalConfig(Section):
    """What ``mipprune eval`` needs: a network, its weights and images."""

    init: str | None = Field(None, description="weights: a .safetensors or .pth file")
    device: str = "auto"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()


class PruneConfig(EvalConfig):
    """What ``mipprune prune`` may be told."""

    name: str | None = Field(None, description="name of the run; default: model, method, budget")
    runs: str = Field("runs", description="folder in which the run folder is made")
    seed: int = Field(0, ge=0, description="of calibration images and positions")
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


class CertifyConfig(Section):
    """What ``mipprune certify`` may be told."""

    images: int = Field(512, ge=1, description="training images for calibration")
    positions: int = Field(256, ge=1, description="places of an output map that count")
    seed: int = Field(0, ge=0, description="of calibration images and positions")
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
    data: DataConfig | None = Field(None, description="instead of the checkpoints' own data set")


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
    seed: int = Field(0, ge=0, description="generated: of the data; checkpoint: of the images")
    solver: Literal["branch-and-bound", "highs", "scip"] = Field(
        "branch-and-bound", description="of the exact row"
    )
    cardinality: int | None = Field(None, ge=0, description="largest number of groups kept")
    lam: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [0.1, 1.0], description="factors of the regularizer at which it is trained to rank groups"
    )
    restarts: int = Field(3, ge=1, description="toys: trained from so many starts, the best counts")
    loss: Literal["l1", "hinge", "squared"] = Field("l1", description="toys: loss, summed")
    unit_price: float = Field(0.1, gt=0, description="toys: price of a hidden unit")
    macs: float = Field(0.5, gt=0, le=1, description="budget: share of the MACs to keep")
    sweep: int = Field(0, ge=0, description="number of prices of the trade-off curve")
    tolerance: float = Field(1e-4, gt=0, description="relative gap at which the exact solve stops")
    time_limit: float = Field(120.0, gt=0, description="seconds of each solve")
    data: DataConfig | None = Field(None, description="checkpoint: instead of its own data set")


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
    data: DataConfig | None = Field(None, description="instead of the checkpoints' own data set")


class ExportConfig(Section):
    """What ``mipprune export`` may be told."""

    images: int = Field(256, ge=1, description="test images of the parity check, at most")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the latency; default: as many as torch takes"
    )
    data: DataConfig | None = Field(None, description="instead of the checkpoint's own data set")


def recipe_names() -> list[str]:
    """Names of the recipes that ship, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("mipprune.config.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path.

    Raises
    ------
    InputError
        If there is none, with the nearest name; if the file is not a mapping.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise InputError(f"cannot read the recipe {name}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"recipe {name} is not text") from None
    elif name in recipe_names():
        text = (resources.files("mipprune.config.recipes") / f"{name}.yaml").read_text(
            encoding="utf-8"
        )
    else:
        raise InputError(
            f"unknown recipe {name!r}{_nearest(name, recipe_names())} (all: mipprune recipes)"
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"recipe {name} is not a mapping of keys to values")
    return values


def configure(
    kind: type[Section], values: dict[str, Any], overrides: Sequence[str] = ()
) -> Section:
    """Build a configuration from a mapping and ``key=value`` words.

    Raises
    ------
    InputError
        Naming the key, and the nearest valid one or what its value must be.
    """
    values = {key: _copy(value) for key, value in values.items()}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"{word!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            value = text
        _assign(values, key.split("."), value, kind)
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is not None and _section(field) and not isinstance(value, dict | None):
            values[key] = {"name": value}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, kind)) from None


def term_options(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of a term, as :func:`formulations.symbolic.derivation` takes them.

    Raises
    ------
    InputError
        If a word has no ``=``, or a value is no number where one must be.
    """
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"{word!r} is not of the form key=value")
        if key == "phi":
            raise InputError(f"{word}: φ is the expression itself, before all key=value words")
        if key == "extract":
            options[key] = text
        elif key == "ball":
            if text not in ("true", "false"):
                raise InputError(f"{word}: ball is true or false")
            options[key] = text == "true"
        else:
            try:
                options[key] = float(text)
            except ValueError:
                raise InputError(f"{word}: {text!r} is not a number") from None
    return options


def _copy(value):
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _section(field) -> type[Section] | None:
    kinds = getattr(field.annotation, "__args__", (field.annotation,))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)


def _assign(values: dict, path: list[str], value, kind: type[Section]) -> None:
    head = path[0]
    section = _section(kind.model_fields[head]) if head in kind.model_fields else None
    if len(path) == 1:
        if section and not isinstance(value, dict):
            path = [head, "name"]  # data=cifar10 keeps data.path, whichever is said first
        else:
            values[head] = value
            return
    below = values.get(head)
    values[head] = below = (
        below if isinstance(below, dict) else {} if below is None else {"name": below}
    )
    if section is MethodConfig and path[1:] == ["name"] and below.get("name") != value:
        below.clear()  # the settings were another method's
    node = below
    for step in path[1:-1]:
        node = node.setdefault(step, {})
        if not isinstance(node, dict):
            raise InputError(f"{'.'.join(path)}: {step} has no keys of its own")
    node[path[-1]] = value


def _keys(kind: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        section = _section(field)
        keys.append(prefix + name)
        if section:
            keys += _keys(section, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, kind: type[Section], prefix: str = "") -> str:
    first = error.errors(include_url=False)[0]
    if isinstance(reason := first.get("ctx", {}).get("error"), InputError):
        return str(reason)
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(key, _keys(kind, prefix))}"
    return f"{key}={first['input']!r} does not fit: {first['msg'].lower()}"


def _nearest(word: str, names: Sequence[str]) -> str:
    """How an error about an unknown word ends: the nearest valid one."""
    close = difflib.get_close_matches(word, names, 1, 0.0)
    return f": the nearest valid one is {close[0]!r}"
