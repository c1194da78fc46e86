"""How far from the best choice of the same size every layer of a pruned network is.

Whatever method pruned it: a layer that lost inputs kept a choice of them, and that choice is worth
what the layer problem of the dense network says, the error of the layer's output on calibration
images after the best refit. The branch and bound gives a better choice of as many inputs, where it
finds one, and a lower bound on what any of them can reach.

Every layer is judged alone, as if it could choose its inputs for itself. Channels that several
layers read are one choice for all of them: it is judged too, by the stack of the layers' problems.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray
from formulations.errors import InputError
from formulations.layer.solvers.selection import Proof, choose
from formulations.layer.stack import Stack
from formulations.solving.result import relative_gap
from mipprune.config.certify import CertifyConfig
from mipprune.config.overrides import as_config
from mipprune.data.registry import load
from mipprune.distributed.device import pick_device
from mipprune.models.registry import describe
from mipprune.oneshot.calibration import batches_of
from mipprune.oneshot.forward_order import ForwardOrder, forward_order
from mipprune.oneshot.layer_problems import CalibratedProblems
from mipprune.oneshot.parallel import check_backend, run_all
from mipprune.oneshot.sites import ReadingLayer, Site, find_site, find_sites, in_order, inputs_of
from mipprune.runs import checkpoint
from mipprune.runs.files import write_json
from mipprune.runs.layout import RunLayout
from mipprune.runs.lock import FolderLock
from mipprune.runs.networks import check_fits
from mipprune.runs.record import read_result
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups, find_groups
from mipprune.structure.matching import match


@dataclass(frozen=True)
class Certificate:
    """What is proved of one choice of inputs.

    Attributes
    ----------
    layer : str
        The layer that reads them, or the first of several and how many there are besides.
    readers : tuple of str
        All of them.
    method : str
        By which the choice was made.
    groups, kept : int
        Groups of inputs, and how many of them were kept.
    error : float
        Of the choice made, as a share of the outputs' variance, as all errors here.
    best : float
        Of the best choice found of the same size.
    bound : float
        No choice of this size is below it.
    worse : float
        error over best, less 1.
    gap, best_gap : float
        From error to bound, and from best to bound, relative.
    support : tuple of int
        The groups kept, among those of the layer.
    nodes : int
        Of the branch and bound.
    seconds : float
    status : {"tree", "root", "trivial"}
        What the bound comes from: a branch and bound, relaxations alone, or the error of keeping
        every group.
    """

    layer: str
    readers: tuple[str, ...]
    method: str
    groups: int
    kept: int
    error: float
    best: float
    bound: float
    worse: float
    gap: float
    best_gap: float
    support: tuple[int, ...]
    nodes: int
    seconds: float
    status: str

    def __str__(self) -> str:
        """A line."""
        if self.status == Proof.TRIVIAL:
            known = "of which nothing is proved: the bound is the error of keeping every group"
        else:
            known = f"which is proved within {self.best_gap:.1%}"
        return f"{self.layer}: {self.worse:.1%} worse than the best choice found, {known}"

    def as_json(self) -> dict[str, Any]:
        """The row of ``certificate.json``, where the error is called ``objective``."""
        row = {"objective" if k == "error" else k: v for k, v in asdict(self).items()}
        return row | {"readers": list(self.readers), "support": list(self.support)}


def certify_run(
    run: Path,
    config: CertifyConfig | Mapping[str, Any],
    *,
    dense: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Certificates of the layers of a pruned network in a folder.

    Those of a run are also written to its ``certificate.json``, which ``mipprune report`` shows.

    Parameters
    ----------
    run : Path
        A run of ``mipprune prune`` or ``train``; or, with ``dense``, a pruned checkpoint.
    config : CertifyConfig or mapping
    dense : Path, optional
        Checkpoint of the network from which channels were removed.
    report : callable
        Told what is being done.

    Returns
    -------
    dict
        ``method``, ``pruned`` and ``dense`` (folders), ``images``, ``seconds``, and ``layers``, a
        list of :meth:`Certificate.as_json`: of every layer, and of every class of channels that
        several layers read, each of which has a row of its own too.

    Raises
    ------
    InputError
        If there is no such pair of networks, or no layer lost an input.
    """
    config = as_config(CertifyConfig, config, {})
    check_backend(config.parallel)
    with FolderLock(run) as lock:
        if dense is None and run.is_dir():
            lock.take()
        return _certify_run(run, config, dense, report)


def _certify_run(
    run: Path, config: CertifyConfig, dense: Path | None, report: Callable[[str], None]
) -> dict[str, Any]:
    start = time.perf_counter()
    pair = _Pair(run, dense, config.model)
    device = pick_device(config.device)
    network = pair.dense.to(device).eval()
    source = config.data.source() if config.data else pair.data
    if not source:
        raise InputError(f"{pair.dense_folder} names no data set: say data=NAME")
    data = load(**source, device=device)
    check_fits(pair.dense_folder, network, data)
    if config.images > data.train_size:
        raise InputError(
            f"images={config.images}: {data.name} has {data.train_size} training images"
        )
    images = data.sample(config.images, config.seed)
    try:
        rows = certify_network(
            *(network, pair.groups, pair.kept(), images, config),
            method=pair.method,
            report=report,
        )
    except NothingLost as error:
        raise InputError(f"{run}: {error}") from None
    found = {
        "method": pair.method,
        "pruned": str(pair.pruned_folder),
        "dense": str(pair.dense_folder),
        "images": config.images,
        "layers": [row.as_json() for row in rows],
        "seconds": time.perf_counter() - start,
    }
    if dense is None:
        write_json(RunLayout(run).certificate, found)
    return found


class NothingLost(InputError):
    """There is no layer to judge."""


def certify_network(
    network: nn.Module,
    groups: Groups,
    kept: BoolArray,
    images: torch.Tensor,
    config: CertifyConfig,
    *,
    method: str,
    report: Callable[[str], None] = lambda line: None,
) -> list[Certificate]:
    """Certificates of what a mask of kept groups left of a network's layers.

    Parameters
    ----------
    network : nn.Module
        The dense one, in evaluation mode.
    groups : Groups
        Of it.
    kept : (groups,) bool array
    images : (N, C, H, W) tensor
        For calibration.
    config : CertifyConfig
        All of it but ``images``, ``device`` and ``data``.
    method : str
        What the rows say of how the mask was chosen.
    report : callable
        Told what is being done.

    Raises
    ------
    NothingLost
        If no layer (of those named) lost an input and kept another.
    """
    shape = tuple(images.shape[1:])
    order = forward_order(network, shape)
    chosen = [
        (site, support)
        for site, support in _lost_groups(network, groups, order, kept, shape)
        if not config.layers or all(_named(reader, config.layers) for reader in site.readers)
    ]
    if not chosen:
        raise NothingLost(f"no layer that lost inputs{' is named so' * bool(config.layers)}")
    sites, supports = zip(*chosen, strict=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        problems = CalibratedProblems(
            *(network, order, batches_of(images), Path(folder)),
            positions=config.positions,
            seed=config.seed,
            report=report,
        )
        calls = (
            (
                *(site.name, _readers(site), method, stack, support),
                *(config.tolerance, config.nodes, config.time_limit),
            )
            for site, stack, support in zip(sites, problems.stacks(sites), supports, strict=True)
        )
        with run_all(certify_choice, calls, backend=config.parallel, jobs=config.jobs) as found:
            for row in found:
                report(str(row))
                rows.append(row)
    return rows


def certify_choice(
    layer: str,
    readers: tuple[str, ...],
    method: str,
    stack: Stack,
    support: BoolArray,
    tolerance: float,
    nodes: int,
    time_limit: float,
) -> Certificate:
    """The certificate of a (J,) support of one site.

    Parameters
    ----------
    layer, readers, method
        Of the :class:`Certificate`.
    stack : Stack
        The readers' problems.
    support : (J,) bool array
        The choice made.
    tolerance, nodes, time_limit
        Of :func:`formulations.layer.solvers.selection.choose`.
    """
    best = choose(
        stack,
        int(support.sum()),
        start=support,
        gap=tolerance,
        nodes=nodes,
        seconds=time_limit,
    )
    made = stack.objective(support)
    if made <= best.objective * (1 + 1e-9):
        made = best.objective
    return Certificate(
        layer=layer,
        readers=readers,
        method=method,
        groups=stack.groups,
        kept=int(support.sum()),
        error=made / stack.constant,
        best=best.objective / stack.constant,
        bound=best.bound / stack.constant,
        worse=made / max(best.objective, 1e-300) - 1,
        gap=relative_gap(made, best.bound) if made > 0 else 0.0,
        best_gap=best.gap,
        support=tuple(np.flatnonzero(support).tolist()),
        nodes=best.nodes,
        seconds=best.seconds,
        status=str(best.status),
    )


def kept_groups(groups: Groups, channels: Mapping[str, Sequence[int]]) -> BoolArray:
    """The (groups,) mask of a network of which some layers kept only some of their channels.

    Parameters
    ----------
    groups : Groups
    channels : mapping
        By the layer's name, the output channels that stay.
    """
    kept = np.ones(groups.count, bool)
    for name, own in channels.items():
        group = groups.layers[name]
        left = np.isin(np.arange(len(group)), own)
        kept[group[(group >= 0) & ~left]] = False
    return groups.settle(kept)


def _lost_groups(
    network: nn.Module,
    groups: Groups,
    order: ForwardOrder,
    kept: BoolArray,
    shape: Sequence[int],
) -> Iterator[tuple[Site, BoolArray]]:
    """What lost some groups and not all: every layer alone, every class that several layers read.

    In order, with the (J,) mask of those kept.
    """
    inputs = inputs_of(groups)
    sites = [
        find_site(network, order, {name: own}, np.unique(own[own >= 0]))
        for name, own in inputs.items()
    ]
    cost = Cost(network, groups, shape)
    sites += [site for site in find_sites(network, cost, order) if len(site.readers) > 1]
    for site in in_order(sites, order):
        support = kept[site.groups]
        if support.any() and not support.all():
            yield site, support


def _readers(site: Site) -> tuple[str, ...]:
    return tuple(reader.layer.name for reader in site.readers)


def _named(reader: ReadingLayer, patterns: Sequence[str]) -> bool:
    return any(fnmatch(reader.layer.name, pattern) for pattern in patterns)


class _Pair:
    """A pruned network and the one it was made from, and which groups it kept."""

    def __init__(self, run: Path, dense: Path | None, model: str | None) -> None:
        if not run.is_dir():
            raise InputError(f"no run or checkpoint at {run}")
        if dense is None:
            layout = RunLayout(run)
            if not layout.pruned.is_dir() or not layout.dense.is_dir():
                raise InputError(
                    f"{run} has no pruned/ and dense/ networks: name the dense one by --dense"
                )
            result = read_result(run)
            self.pruned_folder, self.dense_folder = layout.pruned, layout.compared
        else:
            result, self.pruned_folder, self.dense_folder = None, run, dense
        self.dense, self.data = checkpoint.load(self.dense_folder, model)
        self.pruned = checkpoint.load(self.pruned_folder, model)[0]
        if checkpoint.sparsity(self.pruned_folder) is not None:
            raise InputError(f"{run} has pruned single weights: certificates are for channels")
        self.groups = find_groups(self.dense, describe(self.dense)["shape"])
        self.method = str((result or {}).get("method", "unknown"))
        self._channels = (result or {}).get("channels")

    def kept(self) -> BoolArray:
        """(groups,) bool: as the run says, or by matching the two networks' weights."""
        if self._channels is None:
            return match(self.dense, self.pruned, self.groups)
        try:
            return kept_groups(self.groups, self._channels)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"{self.pruned_folder.parent}: the channels that the result names are none of "
                "dense/: restore result.json from a copy, or move it away to go without"
            ) from None
