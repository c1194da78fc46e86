"""A method's task on a small network, for tests."""

import torch

from mipprune.config.schema import BudgetConfig, OptimizerConfig
from mipprune.data.registry import load
from mipprune.methods.base import Task
from mipprune.methods.registry import create, settings_of
from mipprune.models.registry import build
from mipprune.structure.scope import find_structure


def small_network(name="resnet8", width=4, seed=0, **options):
    torch.manual_seed(seed)
    architecture = {"name": name, "shape": (1, 8, 8), "classes": 10, **options}
    if name.startswith("resnet"):
        architecture["width"] = width
    return build(architecture)


def task_of(network, *, granularity="channel", protect=(), budget=None, data=None, **options):
    shape = tuple(network.architecture["shape"])
    groups, cost = find_structure(network, shape, granularity, protect)
    return Task(
        network,
        groups,
        cost,
        data or load("digits", None, torch.device("cpu")),
        BudgetConfig(**(budget or {})),
        OptimizerConfig(momentum=options.pop("momentum", 0.0)),
        granularity=granularity,
        steps=options.pop("steps", 100),
        batch=options.pop("batch", 16),
        trained=options.pop("trained", True),
        seed=options.pop("seed", 0),
    )


def method_of(name, network, settings=None, **options):
    return create(settings_of(name)(**(settings or {})), task_of(network, **options))
