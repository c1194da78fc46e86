"""Which channels to keep, by solving every layer's layer problem on calibration data.

The channels that one layer alone reads are its layer problem's groups: keep some, refit, reproduce
the layer's output of the dense network (:mod:`mipprune.sites`). Backward elimination gives the
error of a layer for every number of kept groups, and a few trials what such an error does to the
network's output; the budget's mixed-integer program picks the numbers by these curves; the branch
and bound picks the channels and proves how good they are.

Channels that several layers read (those of a residual stage) stay.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from formulations.layer import LayerProblem
from formulations.selection import Choice, choose, eliminate
from formulations.selection import Path as Elimination
from mipprune import allocation
from mipprune.calibration import Order, Walk
from mipprune.checkpoint import write_atomic
from mipprune.cost import Cost
from mipprune.parallel import run_all
from mipprune.sites import calibrate, find_sites, layer_problem, reader_weights, reading_less

# shares of a layer's channels at which the effect of its error is measured
_TRIED = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Settings:
    """How layers are chosen: the fields of :class:`mipprune.config.PruneConfig` of these names."""

    positions: int
    trials: int
    tolerance: float
    nodes: int
    time_limit: float
    parallel: str
    jobs: int
    seed: int


class Chooser:
    """The choice of channels for one network, with its state in files.

    Parameters
    ----------
    network : nn.Module
    order : Order
    cost : Cost
        With groups that are all read once.
    images : sequence of tensors
        Batches, on the CPU.
    settings : Settings
    folder : Path
        For problems and what has been found out about them: a second call goes on from there.
    report : callable
        Told what is being done.
    """

    def __init__(
        self,
        network: nn.Module,
        order: Order,
        cost: Cost,
        images: Sequence[torch.Tensor],
        settings: Settings,
        folder: Path,
        report: Callable[[str], None] = lambda line: None,
    ):
        self.network, self.order, self.cost = network.eval(), order, cost
        self.images, self.settings, self.folder = images, settings, folder
        self.report = report
        self.sites = find_sites(network, cost, order)

    def paths(self) -> list[Elimination]:
        """The elimination path of every site, in their order."""
        numbers = [n for n in range(len(self.sites)) if not self._file(n, "path.npz").exists()]
        found = self._run(eliminate, ((p,) for p in self._problems(numbers)))
        for number, path in zip(numbers, found, strict=True):
            name = self.sites[number].layer.name
            self.report(f"{name}: error of every number of its {len(path.order)} channels")
            self._store(number, path)
        return [self._load(number) for number in range(len(self.sites))]

    def widths(self, paths: Sequence[Elimination], unit: str, share: float, budget) -> list[int]:
        """Kept groups of every site: least error of the network's output within the budget."""
        curves = self._curves(paths)
        cost = self.cost
        limits = {"multiple": budget.multiple, "floor": budget.floor}
        zeros = np.zeros(cost.groups.count)
        problem, ranked = allocation.budget_problem(cost, zeros, unit, share, **limits)
        place = {int(min(site.groups)): number for number, site in enumerate(self.sites)}
        numbers = [place[int(min(group))] for group in ranked]
        scale = max(float(curve.max()) for curve in curves) or 1.0
        values = [
            -curves[number][widths] / scale
            for number, widths in zip(numbers, problem.widths, strict=True)
        ]
        self.report("widths within the budget")
        solved = allocation.solve_budget(
            replace(problem, values=values), cost, unit, share, gap=1e-3, **limits
        )
        widths = dict(zip(numbers, solved.widths, strict=True))
        return [int(widths[number]) for number in range(len(self.sites))]

    def _curves(self, paths: Sequence[Elimination]) -> list[np.ndarray]:
        """By the number of kept groups, what each site alone does to the network's output.

        The layer's own error, times the ratio of the mean squared error of the logits to it, which
        is measured at some numbers and interpolated between them, by its logarithm.
        """
        file = self.folder / "ratios.json"
        if file.exists():
            ratios = json.loads(file.read_text())
        else:
            ratios = self._measure(paths)
            write_atomic(file, json.dumps(ratios).encode())
        curves = []
        for path, measured in zip(paths, ratios, strict=True):
            error = path.errors.sum(axis=1)
            at, ratio = zip(*measured, strict=True)
            ratio = np.log(np.maximum(ratio, 1e-300))
            curves.append(error * np.exp(np.interp(np.arange(len(error)), at, ratio)))
        return curves

    @torch.no_grad()
    def _measure(self, paths: Sequence[Elimination]) -> list[list[tuple[int, float]]]:
        """(kept, squared error of the logits / error of the layer) of every site."""
        device = next(self.network.parameters()).device
        images = torch.cat(list(self.images))[: self.settings.trials].to(device)
        logits = self.network(images)
        found = []
        for number, (site, path) in enumerate(zip(self.sites, paths, strict=True)):
            self.report(f"{site.layer.name}: what its errors do to the network's output")
            problem, mean = self._problem(number), np.load(self._file(number, "mean.npy"))
            points = {}
            for share in _TRIED:
                kept = max(1, round(share * problem.groups))
                weights = problem.refit(path.support(kept))
                with reading_less(self.network, site, weights, mean):
                    moved = float((self.network(images) - logits).square().mean())
                points[kept] = moved / max(float(path.errors[kept].sum()), 1e-300)
            found.append(sorted(points.items()))
        return found

    def choices(self, paths: Sequence[Elimination], widths: Sequence[int]) -> list[Choice]:
        """The best groups of every site at its width, with a proof."""
        given = self.settings
        numbers = [n for n in range(len(self.sites)) if not self._choice(n, widths[n]).exists()]
        calls = (
            (self._problem(n), widths[n], paths[n], given.tolerance, given.nodes, given.time_limit)
            for n in numbers
        )
        for number, choice in zip(numbers, self._run(_choose, calls), strict=True):
            name = self.sites[number].layer.name
            self.report(f"{name}: {widths[number]} channels chosen, gap {choice.gap:.2%}")
            data = {
                "support": np.flatnonzero(choice.support).tolist(),
                "objective": choice.objective,
                "bound": choice.bound,
                "nodes": choice.nodes,
                "seconds": choice.seconds,
            }
            write_atomic(self._choice(number, widths[number]), json.dumps(data).encode())
        return [self._read_choice(n, widths[n]) for n in range(len(self.sites))]

    def constants(self) -> list[float]:
        """c₀ of every site: half the variance of the reader's outputs."""
        return [self._problem(number).constant for number in range(len(self.sites))]

    def kept(self, choices: Sequence[Choice]) -> np.ndarray:
        """(groups,) bool."""
        mask = np.ones(self.cost.groups.count, bool)
        for site, choice in zip(self.sites, choices, strict=True):
            mask[site.groups] = choice.support
        return mask

    # ---- parts --------------------------------------------------------------------------------

    def _run(self, function, calls):
        return run_all(function, calls, backend=self.settings.parallel, jobs=self.settings.jobs)

    def _problems(self, numbers: Sequence[int]):
        """Problems of some sites, calibrated one after another and kept in files."""
        scratch = self.folder / "activations"
        scratch.mkdir(parents=True, exist_ok=True)
        walk = Walk((self.network,), self.order, self.images, scratch)
        gram = mean = of = None
        for number in numbers:
            site = self.sites[number]
            if site.layer.name != of:
                self.report(f"{site.layer.name}: calibration")
                given = self.settings
                gram, mean = calibrate(walk, site.layer, given.positions, given.seed)
                of = site.layer.name
            weights = reader_weights(self.network, site.layer)
            problem = layer_problem(gram, weights, site.rows, site.block)
            temporary = self._file(number, "tmp")
            problem.save(temporary)
            np.save(self._file(number, "mean.npy"), mean)
            temporary.replace(self._file(number, "npz"))
            yield problem

    def _problem(self, number: int) -> LayerProblem:
        return LayerProblem.load(self._file(number, "npz"))

    def _store(self, number: int, path: Elimination) -> None:
        data = io.BytesIO()
        np.savez(data, order=path.order, errors=path.errors)
        write_atomic(self._file(number, "path.npz"), data.getvalue())

    def _load(self, number: int) -> Elimination:
        with np.load(self._file(number, "path.npz")) as data:
            return Elimination(data["order"], data["errors"])

    def _read_choice(self, number: int, width: int) -> Choice:
        data = json.loads(self._choice(number, width).read_text())
        support = np.zeros(len(self.sites[number].groups), bool)
        support[data.pop("support")] = True
        return Choice(support, **data)

    def _choice(self, number: int, width: int) -> Path:
        return self._file(number, f"{width}.json")

    def _file(self, number: int, ending: str) -> Path:
        return self.folder / f"{number}-{self.sites[number].layer.name}.{ending}"


def _choose(problem, kept, path, tolerance, nodes, time_limit) -> Choice:
    return choose(problem, kept, path, tolerance=tolerance, nodes=nodes, time_limit=time_limit)
