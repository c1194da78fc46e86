"""Exact MIP pruning against relaxed pruning, on problems small enough to be solved to the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from formulations.errors import InputError
from formulations.relu.toys import TOYS
from mipprune.analysis.compare.budgets import budget_jobs
from mipprune.analysis.compare.comparison import Comparison, Job
from mipprune.analysis.compare.layers import layer_jobs
from mipprune.analysis.compare.networks import toy_jobs
from mipprune.analysis.compare.problems import load_problem
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import as_config


def compare(
    source: str,
    config: CompareConfig | Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda name: None,
    **settings: Any,
) -> dict[str, Any]:
    """Compare on the problem that a command line names.

    Parameters
    ----------
    source : str
        ``layer:FILE.npz``, ``layer:generated``, ``layer:CHECKPOINT:LAYER``, ``xor``, ``toy-mlp``,
        ``budget:MODEL`` or ``budget:CHECKPOINT``.
    config : CompareConfig or mapping, optional
        Its time limit is that of every row, and of every point of a curve.
    report : callable
        Called with the share of the work that is done and what is being worked on.
    **settings
        In place of those of ``config``: ``compare("layer:generated", groups=12)``.

    Returns
    -------
    dict
        ``problem`` (the source), ``rows``, one a way of pruning
        (:mod:`mipprune.analysis.compare.rows`), ``progress`` of the exact solve, ``front`` and
        ``sweep``, the trade-off curves, where asked for, and ``interrupted``: whether Ctrl-C came,
        and what was found until then is all there is.

    Raises
    ------
    InputError
        In one line: an unknown problem, or what is wrong with it.
    """
    config = as_config(CompareConfig, config, settings)
    work, interrupted = Comparison(config, report), False
    try:
        work.run(_jobs(source, work))
    except KeyboardInterrupt:
        interrupted = True
    return {"problem": source, **work.found(), "interrupted": interrupted}


def _jobs(source: str, work: Comparison) -> list[Job]:
    kind, _, rest = source.partition(":")
    if source in TOYS:
        return toy_jobs(source, work)
    if kind == "layer" and rest:
        return layer_jobs(load_problem(source, work.config), work)
    if kind == "budget" and rest:
        return budget_jobs(rest, work)
    raise InputError(
        f"unknown problem {source!r}: {', '.join(TOYS)}, layer:FILE.npz, layer:generated, "
        "layer:CHECKPOINT:LAYER or budget:MODEL"
    )
