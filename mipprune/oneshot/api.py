"""Pruning without training, from Python: somebody's own network or one of :mod:`mipprune.models`.

    result = prune(network, images, budget={"macs": 0.5})
    for row in certify(result, images):
        print(row.layer, row.kept, row.error, row.bound)

The commands ``mipprune prune`` and ``mipprune certify`` are these functions between files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from formulations.errors import InputError
from mipprune.config.certify import CertifyConfig
from mipprune.config.overrides import configure
from mipprune.config.prune import PruneConfig
from mipprune.oneshot.certify import Certificate, certify_network, kept_groups
from mipprune.oneshot.parallel import check_backend
from mipprune.oneshot.pruning import PruneResult, Pruning, Report, silent
from mipprune.oneshot.scores import Images
from mipprune.structure.groups import find_groups


def prune(
    network: nn.Module,
    images: torch.Tensor,
    *,
    budget: Mapping[str, float],
    method: str = "exact",
    labels: torch.Tensor | None = None,
    refit: bool = True,
    recalibrate: bool = True,
    protect: Sequence[str] = (),
    candidates: str = "all",
    positions: int = 256,
    trials: int = 128,
    gap: float = 0.01,
    nodes: int = 4,
    seconds: float = float("inf"),
    parallel: str = "processes",
    jobs: int = -1,
    seed: int = 0,
    report: Report = silent,
) -> PruneResult:
    """Prune a trained network to a budget by exact layer problems and a refit, without training.

    Parameters
    ----------
    network : nn.Module
        Of plain layers, as :func:`mipprune.structure.groups.find_groups` takes it. Its weights stay
        as they are; it is in evaluation mode afterwards.
    images : (N, C, H, W) tensor
        For calibration, as the network sees them in training but not augmented; some hundred. No
        labels are needed but for ``method="taylor"``.
    budget : mapping
        ``{"macs": SHARE}`` or ``{"params": SHARE}`` to keep; with ``multiple``, layers keep
        multiples of so many channels, and with ``floor`` at least that share of them.
    method : str
        ``exact``, or a score of :func:`mipprune.oneshot.scores.choose_by_scores`.
    labels : (N,) int tensor, optional
        Classes of the images.
    refit : bool
        Whether to rewrite the weights of what is left, layer by layer.
    recalibrate : bool
        Whether to estimate BatchNorm statistics anew; after a refit the function stays.
    protect : sequence of str
        Layers whose output channels stay, or patterns.
    candidates : {"all", "inner"}
        Channels to choose from: all, or the inner ones, which one layer alone reads.
    positions : int
        Places of an output map that count, drawn anew for every batch.
    trials : int
        Images on which an error's effect on the output is measured, after a refit on as many
        others.
    gap : float
        At which the choice of a layer counts as solved.
    nodes : int
        Most open nodes of the branch and bound on a layer of 600 rows, more on smaller ones; 0 for
        none, and no proof.
    seconds : float
        Of the branch and bound of a layer. With a limit, a second run may differ.
    parallel : str
        What works on the layers: ``processes``, ``threads``, ``dask`` or ``dask:ADDRESS``.
    jobs : int
        Workers on this machine; −1 for one a core.
    seed : int
        Of the positions.
    report : callable
        Told what is being done, line by line.

    Raises
    ------
    InputError
        If the budget is out of reach, or the network is not one that can be pruned.
    """
    config = configure(
        PruneConfig,
        {
            "budget": dict(budget),
            "method": method,
            "images": max(1, len(images)),
            "refit": refit,
            "recalibrate": recalibrate,
            "protect": list(protect),
            "candidates": candidates,
            "positions": positions,
            "trials": trials,
            "tolerance": gap,
            "nodes": nodes,
            "time_limit": seconds,
            "parallel": parallel,
            "jobs": jobs,
            "seed": seed,
        },
    )
    _check_images(images)
    pruning = Pruning(network, tuple(images.shape[1:]), config)
    with tempfile.TemporaryDirectory() as state:
        device = next(network.parameters()).device
        data = Images(images, labels, device)
        return pruning.execute(images, data, Path(state), report)


def certify(
    result: PruneResult,
    images: torch.Tensor,
    *,
    layers: Sequence[str] = (),
    gap: float = 0.01,
    nodes: int = 4,
    seconds: float = float("inf"),
    positions: int = 256,
    parallel: str = "processes",
    jobs: int = -1,
    seed: int = 0,
    report: Report = silent,
) -> list[Certificate]:
    """How far each layer of a pruned network is from the best choice of the same size, with proof.

    Parameters
    ----------
    result : PruneResult
        Whose ``certificate`` these rows become.
    images : (N, C, H, W) tensor
        For calibration; others than those it was pruned on say more.
    layers : sequence of str
        Layers, or patterns; by default all with fewer inputs.
    gap : float
        At which a layer counts as solved.
    nodes, seconds, positions, parallel, jobs, seed, report
        As in :func:`prune`.

    Returns
    -------
    list of Certificate
        Of every layer, and of every class of channels that several layers read.

    Raises
    ------
    InputError
        If no layer (of those named) lost an input and kept another.
    """
    config = configure(
        CertifyConfig,
        {
            "images": max(1, len(images)),
            "layers": list(layers),
            "tolerance": gap,
            "nodes": nodes,
            "time_limit": seconds,
            "positions": positions,
            "parallel": parallel,
            "jobs": jobs,
            "seed": seed,
        },
    )
    _check_images(images)
    check_backend(parallel)
    groups = find_groups(result.dense, result.shape)
    rows = certify_network(
        *(result.dense, groups, kept_groups(groups, result.kept), images, config),
        method=result.settings.method,
        report=report,
    )
    result.certificate = rows
    return rows


def _check_images(images: torch.Tensor) -> None:
    if images.dim() != 4 or len(images) == 0 or not images.is_floating_point():
        raise InputError(
            "calibration images are a floating-point tensor (N, C, H, W): this one is "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
