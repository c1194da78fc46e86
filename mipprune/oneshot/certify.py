"""How far from the best choice of the same size every layer of a pruned network is.

Whatever method pruned it: a layer that lost inputs kept a choice of them, and that choice is worth
what the layer problem of the dense network says, the error of the layer's output on calibration
images after the best refit. The branch and bound gives a better choice of as many inputs, where it
finds one, and a lower bound on what any of them can reach.

Every layer is judged alone, as if it could choose its inputs for itself. Channels that several
layers read are one choice for all of them: it is judged too, by the stack of the layers' problems.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from formulations.errors import InputError
from formulations.layer.solvers.selection import choose
from formulations.layer.stack import Stack
from formulations.solving.result import relative_gap
from mipprune.config.certify import CertifyConfig
from mipprune.data.registry import load
from mipprune.distributed.device import pick_device
from mipprune.oneshot.calibration import Order, find_order
from mipprune.oneshot.layer_problems import Reader, Site, find_site, find_sites, in_order, inputs_of
from mipprune.oneshot.moments import InputMoments
from mipprune.oneshot.parallel import check_backend, run_all
from mipprune.runs import checkpoint
from mipprune.runs.files import write_json
from mipprune.runs.layout import RunLayout
from mipprune.runs.networks import check_fits
from mipprune.structure.cost import Cost
from mipprune.structure.groups import Groups, find_groups
from mipprune.structure.matching import match

_BATCH = 50


def certify(
    run: Path,
    config: CertifyConfig,
    *,
    dense: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Certificates of the layers of a pruned network.

    Those of a run are also written to its ``certificate.json``, which ``mipprune report`` shows.

    Parameters
    ----------
    run : Path
        A run of ``mipprune prune`` or ``train``; or, with ``dense``, a pruned checkpoint.
    config : CertifyConfig
    dense : Path, optional
        Checkpoint of the network from which channels were removed.
    report : callable
        Told what is being done.

    Returns
    -------
    dict
        ``method``, ``pruned`` and ``dense`` (folders), ``images``, ``seconds``, and ``layers``, a
        list of: ``layer``, ``readers`` (itself; of a class of channels that several layers read,
        those, each of which has a row of its own too), ``method``, ``groups``, ``kept``,
        ``objective`` (of the choice made, as a share of the outputs' variance, as all errors here),
        ``best`` (of the best choice found), ``bound`` (no choice of this size is below it),
        ``worse`` (objective over best, less 1), ``gap`` (objective to bound, relative),
        ``best_gap`` (best to bound), ``support``, ``nodes``, ``seconds``.

    Raises
    ------
    InputError
        If there is no such pair of networks, or no layer lost an input.
    """
    start = time.perf_counter()
    check_backend(config.parallel)
    pair = _Pair(run, dense)
    device = pick_device(config.device)
    network = pair.dense.to(device).eval()
    data = load(**(config.data.source() if config.data else pair.data), device=device)
    check_fits(pair.dense_folder, network, data)
    shape = tuple(network.architecture["shape"])
    if config.images > data.train_size:
        raise InputError(
            f"images={config.images}: {data.name} has {data.train_size} training images"
        )
    order = find_order(network, shape)
    chosen = [
        (site, support)
        for site, support in _lost_groups(network, pair.groups, order, pair.kept())
        if not config.layers or all(_named(reader, config.layers) for reader in site.readers)
    ]
    if not chosen:
        raise InputError(f"{run}: no layer that lost inputs{' is named so' * bool(config.layers)}")
    images = list(data.sample(config.images, config.seed).cpu().split(_BATCH))
    sites, supports = zip(*chosen, strict=True)
    layers = []
    with tempfile.TemporaryDirectory() as folder:
        moments = InputMoments(
            *(network, order, images, Path(folder)),
            positions=config.positions,
            seed=config.seed,
            report=report,
        )
        calls = (
            (stack, support, config.tolerance, config.nodes, config.time_limit)
            for stack, support in zip(moments.stacks(sites), supports, strict=True)
        )
        rows = run_all(certify_choice, calls, backend=config.parallel, jobs=config.jobs)
        for site, row in zip(sites, rows, strict=True):
            report(
                f"{site.name}: {row['worse']:.1%} worse than the best choice found, which is "
                f"proved within {row['best_gap']:.1%}"
            )
            readers = [reader.layer.name for reader in site.readers]
            layers.append({"layer": site.name, "readers": readers, "method": pair.method, **row})
    found = {
        "method": pair.method,
        "pruned": str(pair.pruned_folder),
        "dense": str(pair.dense_folder),
        "images": config.images,
        "layers": layers,
        "seconds": time.perf_counter() - start,
    }
    if dense is None:
        write_json(RunLayout(run).certificate, found)
    return found


def certify_choice(
    stack: Stack, support: np.ndarray, tolerance: float, nodes: int, time_limit: float
) -> dict[str, Any]:
    """One site's certificate: see :func:`certify`."""
    best = choose(
        stack,
        int(support.sum()),
        start=support,
        tolerance=tolerance,
        nodes=nodes,
        time_limit=time_limit,
    )
    made = stack.objective(support)
    if made <= best.objective * (1 + 1e-9):
        made = best.objective
    return {
        "groups": stack.groups,
        "kept": int(support.sum()),
        "objective": made / stack.constant,
        "best": best.objective / stack.constant,
        "bound": best.bound / stack.constant,
        "worse": made / max(best.objective, 1e-300) - 1,
        "gap": relative_gap(made, best.bound) if made > 0 else 0.0,
        "best_gap": best.gap,
        "support": np.flatnonzero(support).tolist(),
        "nodes": best.nodes,
        "seconds": best.seconds,
    }


def _lost_groups(
    network: nn.Module, groups: Groups, order: Order, kept: np.ndarray
) -> Iterator[tuple[Site, np.ndarray]]:
    """What lost some groups and not all: every layer alone, every class that several layers read.

    In order, with the (J,) mask of those kept.
    """
    inputs = inputs_of(groups)
    sites = [
        find_site(network, order, {name: own}, np.unique(own[own >= 0]))
        for name, own in inputs.items()
    ]
    cost = Cost(network, groups, network.architecture["shape"])
    sites += [site for site in find_sites(network, cost, order) if len(site.readers) > 1]
    for site in in_order(sites, order):
        support = kept[site.groups]
        if support.any() and not support.all():
            yield site, support


def _named(reader: Reader, patterns: Sequence[str]) -> bool:
    return any(fnmatch(reader.layer.name, pattern) for pattern in patterns)


class _Pair:
    """A pruned network and the one it was made from, and which groups it kept."""

    def __init__(self, run: Path, dense: Path | None):
        if not run.is_dir():
            raise InputError(f"no run or checkpoint at {run}")
        self.method, result = "unknown", None
        if dense is None:
            layout = RunLayout(run)
            if not layout.pruned.is_dir() or not layout.dense.is_dir():
                raise InputError(
                    f"{run} has no pruned/ and dense/ networks: name the dense one by --dense"
                )
            if layout.result.is_file():
                result = json.loads(layout.result.read_text())
                self.method = result["method"]
            self.pruned_folder, self.dense_folder = layout.pruned, layout.compared
        else:
            self.pruned_folder, self.dense_folder = run, dense
        self.dense, self.data = checkpoint.load(self.dense_folder)
        self.pruned, _ = checkpoint.load(self.pruned_folder)
        if checkpoint.sparsity(self.pruned_folder) is not None:
            raise InputError(f"{run} has pruned single weights: certificates are for channels")
        self.groups = find_groups(self.dense, self.dense.architecture["shape"])
        self._channels = None if result is None else result.get("channels")

    def kept(self) -> np.ndarray:
        """(groups,) bool: as the run says, or by matching the two networks' weights."""
        if self._channels is None:
            return match(self.dense, self.pruned, self.groups)
        kept = np.ones(self.groups.count, bool)
        for name, channels in self._channels.items():
            left = np.isin(np.arange(len(self.groups.layers[name])), channels)
            group = self.groups.layers[name]
            kept[group[(group >= 0) & ~left]] = False
        return self.groups.settle(kept)
