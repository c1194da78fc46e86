"""Budget allocation: the exact widths against the usual ways of meeting a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from formulations.arrays import BoolArray
from formulations.errors import InputError
from formulations.solving.deadline import Deadline
from formulations.solving.result import Status
from formulations.symbolic.catalogue import find
from mipprune.analysis.compare.comparison import Comparison, Job
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


def budget_jobs(source: str, comparison: Comparison) -> list[Job]:
    """Which widths meet ``config.macs``: the MILP, the same share everywhere, one threshold.

    The objective is the keep-score lost, the sum of ‖w‖₂ of the removed groups over that of all.

    Parameters
    ----------
    source : str
        A model's name, for fresh weights and images of CIFAR's or ImageNet's size, or a
        checkpoint's folder.
    comparison : Comparison
        To which the jobs add their rows.

    Raises
    ------
    InputError
        Unknown model or checkpoint; a budget that no widths meet (the nearest is named).
    """
    config = comparison.config
    network, shape = _network(source, config)
    groups = find_groups(network, shape)
    cost = Cost(network, groups, shape)
    penalty = GroupPenalty(network, groups, find("square").term())
    scores = penalty.norms()[0].double().numpy()
    everything = float(scores.sum())
    found: dict[str, Chosen] = {}

    def lost(kept: BoolArray) -> float:
        return float(scores[~kept].sum()) / everything

    def exact(deadline: Deadline) -> Status:
        ranked, solution, _ = best_widths(
            cost, scores, "macs", config.macs, time_limit=deadline.seconds, gap=config.tolerance
        )
        kept = kept_groups(ranked, solution.widths)
        bound = (everything - solution.bound) / everything
        found["exact"] = Chosen(lost(kept), bound, kept)
        comparison.rows.append(
            make_row(
                "exact", lost(kept), kept, exact=found["exact"], bound=bound,
                seconds=solution.seconds, nodes=solution.nodes, status=solution.status,
            )
        )  # fmt: skip
        return solution.status

    def other(name: str, allocate: Callable[..., BoolArray]) -> Job:
        def work(deadline: Deadline) -> None:
            kept = allocate(cost, scores, "macs", config.macs)
            row = make_row(name, lost(kept), kept, exact=found["exact"], seconds=deadline.elapsed)
            comparison.rows.append(row)

        return Job(name, work)

    return [Job("exact", exact), other("uniform", uniform), other("threshold", lowest_removed)]


def _network(source: str, config: CompareConfig) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """A network, a model's with weights drawn by the seed, and the shape of its images."""
    if Path(source).is_dir():
        network, data = checkpoint.load(Path(source), config.model)
        return network, load(**data, device=torch.device("cpu")).shape
    if source not in names():
        raise InputError(
            f"budget:{source}: name a checkpoint folder or a model, one of {', '.join(names())}"
        )
    side, classes = (224, 1000) if source in IMAGENET else (32, 10)
    shape = (3, side, side)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        return build({"name": source, "shape": shape, "classes": classes}), shape
