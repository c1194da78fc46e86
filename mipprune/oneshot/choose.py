"""Which channels to keep, by solving the layer problems of what reads them, on calibration data.

Channels that the same layers read are the groups of one problem: keep some, refit every reader,
reproduce the readers' outputs of the dense network (:mod:`mipprune.oneshot.layer_problems`). That
is one layer for the inner channels of a block, a stack of many for those of a residual stage, which
are seen by nobody else. Backward elimination gives the error for every number of kept groups, and a
few trials what such an error does to the network's output; the budget's mixed-integer program picks
the numbers by these curves; the branch and bound picks the channels and proves how good they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.solvers.selection import Choice, Proof, choose, eliminate
from formulations.layer.solvers.selection import Path as Elimination
from formulations.layer.stack import Stack
from formulations.output import write_output
from mipprune.config.schema import BudgetConfig
from mipprune.models.references.outputs import logits_of
from mipprune.oneshot.forward_order import ForwardOrder
from mipprune.oneshot.layer_problems import CalibratedProblems, reading_less
from mipprune.oneshot.parallel import run_all
from mipprune.oneshot.refit import refit
from mipprune.oneshot.sites import Site, find_sites
from mipprune.runs.files import intermediate
from mipprune.structure.cost import Cost
from mipprune.structure.removal import prune_groups
from mipprune.structure.widths import budget_problem, solve_budget

Found = TypeVar("Found")

# shares of a site's channels at which the effect of its error is measured
_TRIED = (0.25, 0.5, 0.75)
# places of a map, and batches, of which one is held out, of the refit in a trial: few are enough,
# as the errors of all sites are then too high by about the same factor
_TRIAL_POSITIONS, _TRIAL_BATCHES = 32, 5


@dataclass(frozen=True, eq=False)
class ChoiceSettings:
    """How layers are chosen: the fields of the same names of the settings of ``prune``."""

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
    order : ForwardOrder
    cost : Cost
        With the groups to choose from.
    images : sequence of tensors
        Batches, on the CPU.
    settings : ChoiceSettings
    folder : Path
        For moments and what has been found out with them: a second call goes on from there.
    report : callable
        Told what is being done.
    """

    def __init__(
        self,
        network: nn.Module,
        order: ForwardOrder,
        cost: Cost,
        images: Sequence[torch.Tensor],
        settings: ChoiceSettings,
        folder: Path,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.network, self.order, self.cost = network.eval(), order, cost
        self.images, self.settings, self.folder = images, settings, folder
        self.report = report
        self.sites = find_sites(network, cost, order)
        self.problems = CalibratedProblems(
            *(network, order, images, folder),
            positions=settings.positions,
            seed=settings.seed,
            report=report,
        )

    def paths(self) -> list[Elimination]:
        """The elimination path of every site, in their order."""
        numbers = [n for n in range(len(self.sites)) if not self._file(n, "path.npz").exists()]
        stacks = self.problems.stacks([self.sites[number] for number in numbers])
        with self._all(eliminate, ((stack,) for stack in stacks)) as found:
            for number, path in zip(numbers, found, strict=True):
                name = self.sites[number].name
                self.report(f"{name}: error of every number of its {len(path.order)} channels")
                self._store(number, path)
        return [self._load(number) for number in range(len(self.sites))]

    def widths(
        self, paths: Sequence[Elimination], unit: str, share: float, budget: BudgetConfig
    ) -> list[int]:
        """Kept groups of every site: least error of the network's output within the budget.

        Parameters
        ----------
        paths : sequence of Elimination
            Of :meth:`paths`.
        unit : {"macs", "params"}
        share : float
            Of the dense cost, to keep.
        budget : BudgetConfig
            Its ``multiple`` and ``floor``.
        """
        curves = self._curves(paths)
        cost = self.cost
        multiple, floor = budget.multiple, budget.floor
        zeros = np.zeros(cost.groups.count)
        problem, ranked = budget_problem(cost, zeros, unit, share, multiple=multiple, floor=floor)
        place = {int(min(site.groups)): number for number, site in enumerate(self.sites)}
        numbers = [place[int(min(group))] for group in ranked]
        scale = max(float(curve.max()) for curve in curves) or 1.0
        values = [
            -curves[number][widths] / scale
            for number, widths in zip(numbers, problem.widths, strict=True)
        ]
        self.report("widths within the budget")
        solved = solve_budget(
            *(replace(problem, values=values), cost, unit, share),
            multiple=multiple,
            floor=floor,
            gap=1e-3,
        )
        widths = dict(zip(numbers, solved.widths, strict=True))
        return [int(widths[number]) for number in range(len(self.sites))]

    def _curves(self, paths: Sequence[Elimination]) -> list[FloatArray]:
        """By the number of kept groups, what each site alone does to the network's output.

        The readers' own error, times the ratio of the mean squared error of the logits to it, which
        is measured at some numbers and interpolated between them, by its logarithm.
        """
        curves = []
        for number, path in enumerate(paths):
            file = self._file(number, "ratios.json")
            if not file.exists():
                write_output(file, json.dumps(self._ratios(number, path)).encode())
            with intermediate(file):
                at, ratio = zip(*json.loads(file.read_text()), strict=True)
                logarithm = np.log(np.maximum(ratio, 1e-300))
            numbers = np.arange(len(path.errors))
            curves.append(path.errors * np.exp(np.interp(numbers, at, logarithm)))
        return curves

    @torch.no_grad()
    def _ratios(self, number: int, path: Elimination) -> list[tuple[int, float]]:
        """(kept, squared error of the logits / error of the readers) of a site.

        The logits' error with the readers refitted alone, times the share of it that is left, at
        half of the groups, when all layers are.
        """
        site = self.sites[number]
        self.report(f"{site.name}: what its errors do to the network's output")
        stack = self.problems.stack(site)
        measured, fitted, logits = self._trial

        def moved(network: nn.Module) -> float:
            return float((logits_of(network(measured)) - logits).square().mean())

        def alone(kept: int) -> float:
            weights = self.problems.refitted(site, stack, path.support(kept))
            with reading_less(self.network, weights):
                return moved(self.network)

        half, most = stack.groups // 2, stack.groups - 1
        tried = {min(most, max(1, round(share * stack.groups))) for share in _TRIED}
        error = {kept: alone(kept) for kept in sorted(tried | ({half} if half else set()))}
        left = 1.0
        if half:
            smaller = self._without(site, path.support(half), fitted)
            left = moved(smaller) / max(error[half], 1e-300)
        return [
            (kept, left * error[kept] / max(float(path.errors[kept]), 1e-300))
            for kept in sorted(tried)
        ]

    @cached_property
    @torch.no_grad()
    def _trial(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images on which effects are measured, others to refit on, and the logits of the first."""
        images = torch.cat(list(self.images))
        count = max(1, min(self.settings.trials, len(images) // 2))
        measured = images[:count].to(next(self.network.parameters()).device)
        return measured, images[-count:], logits_of(self.network(measured))

    def _without(self, site: Site, support: BoolArray, images: torch.Tensor) -> nn.Module:
        """The network with a support of one site, all layers refitted on some images."""
        kept = np.ones(self.cost.groups.count, bool)
        kept[site.groups] = support
        smaller = prune_groups(self.network, self.cost.groups, kept)
        batches = images.split(-(-len(images) // _TRIAL_BATCHES))
        positions = min(_TRIAL_POSITIONS, self.settings.positions)
        refit(
            *(self.network, smaller, self.cost.groups, kept, batches),
            positions=positions,
            seed=self.settings.seed,
        )
        return smaller

    def choices(self, paths: Sequence[Elimination], widths: Sequence[int]) -> list[Choice]:
        """The best groups of every site at its width, with a proof.

        Parameters
        ----------
        paths : sequence of Elimination
            Of :meth:`paths`.
        widths : sequence of int
            Of :meth:`widths`.
        """
        given = self.settings
        numbers = [n for n in range(len(self.sites)) if not self._choice(n, widths[n]).exists()]
        calls = (
            (self._stack(n), widths[n], paths[n], given.tolerance, given.nodes, given.time_limit)
            for n in numbers
        )
        with self._all(_choose, calls) as found:
            for number, choice in zip(numbers, found, strict=True):
                name = self.sites[number].name
                self.report(f"{name}: {widths[number]} channels chosen, gap {choice.gap:.2%}")
                self._store_choice(number, widths[number], choice)
        return [self._read_choice(n, widths[n]) for n in range(len(self.sites))]

    def constants(self) -> list[float]:
        """c₀ of every site: half the variance of the readers' outputs."""
        return [self._stack(number).constant for number in range(len(self.sites))]

    def kept(self, choices: Sequence[Choice]) -> BoolArray:
        """The (groups,) mask of the choices of all sites."""
        mask = np.ones(self.cost.groups.count, bool)
        for site, choice in zip(self.sites, choices, strict=True):
            mask[site.groups] = choice.support
        return mask

    def _all(
        self, function: Callable[..., Found], calls: Iterable[tuple[Any, ...]]
    ) -> AbstractContextManager[Iterator[Found]]:
        return run_all(function, calls, backend=self.settings.parallel, jobs=self.settings.jobs)

    def _stack(self, number: int) -> Stack:
        return self.problems.stack(self.sites[number])

    def _store(self, number: int, path: Elimination) -> None:
        data = io.BytesIO()
        np.savez(data, order=path.order, errors=path.errors)
        write_output(self._file(number, "path.npz"), data.getvalue())

    def _load(self, number: int) -> Elimination:
        file = self._file(number, "path.npz")
        with intermediate(file), np.load(file) as data:
            return Elimination(data["order"], data["errors"])

    def _store_choice(self, number: int, width: int, choice: Choice) -> None:
        data = {
            "support": np.flatnonzero(choice.support).tolist(),
            "objective": choice.objective,
            "bound": choice.bound,
            "nodes": choice.nodes,
            "seconds": choice.seconds,
            "status": choice.status,
        }
        write_output(self._choice(number, width), json.dumps(data).encode())

    def _read_choice(self, number: int, width: int) -> Choice:
        file = self._choice(number, width)
        support = np.zeros(len(self.sites[number].groups), bool)
        with intermediate(file):
            data = json.loads(file.read_text())
            support[data.pop("support")] = True
            status = Proof(data.pop("status", Proof.TRIVIAL))  # of older versions nothing is known
            return Choice(support, status=status, **data)

    def _choice(self, number: int, width: int) -> Path:
        return self._file(number, f"{width}.json")

    def _file(self, number: int, ending: str) -> Path:
        return self.folder / f"site-{number}.{ending}"


def _choose(
    stack: Stack, kept: int, path: Elimination, tolerance: float, nodes: int, time_limit: float
) -> Choice:
    """:func:`choose` with all its arguments by position, as a worker is given them."""
    return choose(stack, kept, path, gap=tolerance, nodes=nodes, seconds=time_limit)
