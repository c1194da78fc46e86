"""What a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mipprune.config.train import Config
from mipprune.distributed.ranks import Ranks
from mipprune.measures.network import count
from mipprune.runs.folder import RunFolder
from mipprune.training.phases import Run
from mipprune.training.setup import PHASES


def plan(config: Config) -> dict[str, Any]:
    """Everything about a run that is known before its first step.

    All checks of a run are made; nothing is written.

    Returns
    -------
    dict
        ``model``, ``data``, ``method``, ``device``; ``macs``, ``params`` of the dense network;
        ``layers``, groups by layer; ``budget`` (unit, share, count); ``epochs`` and ``steps`` by
        phase; ``memory_bytes``: an estimate for a training step, in parts.

    Raises
    ------
    InputError
        As the run would.
    """
    ranks = Ranks()
    run = Run(config, RunFolder(config, ranks), ranks)
    size = count(run.network, run.data.shape)
    budget = None
    if target := config.budget.target():
        unit, share = target
        budget = {"unit": unit, "share": share, "count": round(share * size[unit])}
    steps = run.setup.steps
    epochs = {phase: run.setup.schedule(phase).epochs for phase in PHASES}
    return {
        "model": config.model.name,
        "data": config.data.name,
        "images": {"train": run.data.train_size, "test": run.data.test_size},
        "method": config.method.name,
        "granularity": config.granularity,
        "device": str(run.setup.device),
        **size,
        "groups": run.groups.count,
        "layers": {name: len(group) for name, group in run.groups.layers.items()},
        "budget": budget,
        "epochs": epochs,
        "steps": {phase: n * steps for phase, n in epochs.items()},
        "memory_bytes": _memory(run),
    }


def _memory(run: Run) -> dict[str, int]:
    """Bytes: weights, gradients, optimizer; what layers keep for the backward pass; images."""
    weights = sum(p.numel() * p.element_size() for p in run.network.parameters())
    part = run.config.data.batch // run.config.accumulate
    half = run.config.precision == "bfloat16"
    moments = 1 if run.config.optimizer.momentum else 0
    average = 1 if run.config.optimizer.ema else 0
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer": weights * (moments + average),
        "activations": part * _outputs(run.network, run.data.shape) * (2 if half else 4),
        "images": run.data.resident_bytes,
    }


def _numbers(output: Any) -> int:
    """In what a layer puts out: a tensor, or a structure of such."""
    return sum(leaf.numel() for leaf in tree_leaves(output) if torch.is_tensor(leaf))


def _outputs(network: nn.Module, shape: Sequence[int]) -> int:
    """Numbers that the layers of a network put out for one image."""
    sizes: list[int] = []
    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [
        leaf.register_forward_hook(lambda module, inputs, output: sizes.append(_numbers(output)))
        for leaf in leaves
    ]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, *shape, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    return sum(sizes)
