"""Exact MIP pruning against relaxed pruning, on problems small enough to be solved to the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from formulations.errors import InputError
from formulations.relu.toys import TOYS
from mipprune.analysis.compare.budgets import compare_budget
from mipprune.analysis.compare.layers import compare_layer
from mipprune.analysis.compare.networks import compare_toy
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
    report : callable
        Called with what is being worked on.
    **settings
        In place of those of ``config``: ``compare("layer:generated", groups=12)``.

    Returns
    -------
    dict
        ``problem`` (the source), ``rows``, one a way of pruning
        (:mod:`mipprune.analysis.compare.rows`), ``progress`` of the exact solve and ``sweep``, the
        trade-off curve, where asked for.

    Raises
    ------
    InputError
        In one line: an unknown problem, or what is wrong with it.
    """
    config = as_config(CompareConfig, config, settings)
    kind, _, rest = source.partition(":")
    if source in TOYS:
        found = compare_toy(source, config, report)
    elif kind == "layer" and rest:
        found = compare_layer(load_problem(source, config), config, report)
    elif kind == "budget" and rest:
        found = compare_budget(rest, config, report)
    else:
        raise InputError(
            f"unknown problem {source!r}: {', '.join(TOYS)}, layer:FILE.npz, layer:generated, "
            "layer:CHECKPOINT:LAYER or budget:MODEL"
        )
    return {"problem": source, **found}
