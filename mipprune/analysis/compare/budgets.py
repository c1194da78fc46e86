"""Budget allocation: the exact widths against the usual ways of meeting a budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from formulations.arrays import BoolArray
from formulations.errors import InputError
from formulations.symbolic.catalogue import find
from mipprune.analysis.compare.rows import Chosen, make_row
from mipprune.config.compare import CompareConfig
from mipprune.data.registry import load
from mipprune.models.catalogue import names
from mipprune.models.registry import build
from mipprune.models.resnet import IMAGENET
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.runs import checkpoint
from mipprune.structure.allocation import lowest_removed, uniform
from mipprune.structure.cost import Cost
from mipprune.structure.groups import find_groups
from mipprune.structure.widths import best_widths, kept_groups


def compare_budget(
    source: str, config: CompareConfig, report: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Which widths meet ``config.macs``: the MILP, the same share everywhere, one threshold.

    The objective is the keep-score lost, the sum of ‖w‖₂ of the removed groups over that of all.

    Parameters
    ----------
    source : str
        A model's name, for fresh weights and images of CIFAR's or ImageNet's size, or a
        checkpoint's folder.
    config : CompareConfig
    report : callable

    Raises
    ------
    InputError
        Unknown model or checkpoint; a budget that no widths meet (the nearest is named).
    """
    network, shape = _network(source, config.seed)
    groups = find_groups(network, shape)
    cost = Cost(network, groups, shape)
    penalty = GroupPenalty(network, groups, find("square").term())
    scores = penalty.norms()[0].double().numpy()
    report("exact")
    ranked, solution, _ = best_widths(
        cost, scores, "macs", config.macs, time_limit=config.time_limit, gap=config.tolerance
    )
    everything = float(scores.sum())
    bound = (everything - solution.bound) / everything
    exact = Chosen(bound, kept_groups(ranked, solution.widths))

    def lost(kept: BoolArray) -> float:
        return float(scores[~kept].sum()) / everything

    value = lost(exact.support)
    rows = [
        make_row(
            "exact", value, exact.support, exact=exact, bound=exact.bound, gap=solution.gap,
            seconds=solution.seconds, nodes=solution.nodes, status=solution.status,
        )
    ]  # fmt: skip
    target = (scores, "macs", config.macs)
    for name, work in (
        ("uniform", lambda: uniform(cost, *target)),
        ("threshold", lambda: lowest_removed(cost, *target)),
    ):
        report(name)
        start = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - start
        gap = lost(kept) - value
        rows.append(make_row(name, lost(kept), kept, exact=exact, gap=gap, seconds=seconds))
    return {"rows": rows, "progress": [], "sweep": []}


def _network(source: str, seed: int) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A network, a model's with weights drawn by the seed, and the shape of its images."""
    if Path(source).is_dir():
        network, data = checkpoint.load(Path(source))
        return network, load(**data, device=torch.device("cpu")).shape
    if source not in names():
        raise InputError(
            f"budget:{source}: name a checkpoint folder or a model, one of {', '.join(names())}"
        )
    side, classes = (224, 1000) if source in IMAGENET else (32, 10)
    shape = (3, side, side)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build({"name": source, "shape": shape, "classes": classes}), shape
