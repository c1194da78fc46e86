"""A toy ReLU network: exact pruning against its relaxations, training and heuristics.

Which units to keep is what the heuristics choose; all are measured by the exact problem's own
objective, loss + price for every kept unit. In ``select`` the weights of the network stay; in
``train`` they are free, and a trained row's need not lie on the exact problem's grid.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from formulations.arrays import FloatArray
from formulations.relu.network import Network, Support
from formulations.relu.problems import Selection, Training
from formulations.relu.solve import relax, solve
from formulations.relu.toys import Toy, find_toy
from formulations.solving.deadline import Deadline
from formulations.solving.result import Progress, Status
from formulations.symbolic.catalogue import find
from mipprune.analysis.compare.comparison import Comparison, Job
from mipprune.analysis.compare.rows import Chosen, ended, make_row
from mipprune.config.compare import CompareConfig
from mipprune.models.relu_networks import from_torch, to_torch
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.groups import Groups, Member

STEPS, _RATE = 2000, 0.02


def toy_jobs(name: str, comparison: Comparison, steps: int = STEPS) -> list[Job]:
    """Rows and sweep of a toy.

    Parameters
    ----------
    name : str
        One of :data:`formulations.relu.toys.TOYS`.
    comparison : Comparison
        To which the jobs add their rows.
    steps : int
        Of every training by a heuristic.
    """
    work = _ToyWork(find_toy(name), comparison, steps)
    factors = np.geomspace(0.1, 30.0, comparison.config.sweep).tolist()
    return [
        Job("exact", work.exact),
        Job("big-m-relaxation", partial(work.relaxed, "big-m-relaxation", False)),
        Job("tightened-relaxation", partial(work.relaxed, "tightened-relaxation", True)),
        *(
            Job(title, partial(work.trained, title, kind, lam))
            for title, kind, lam in (
                *((f"spr λ={lam:g}", "square", lam) for lam in comparison.config.lam),
                ("group-lasso", "lasso", 1.0),
                ("magnitude", "none", 0.0),
            )
        ),
        *(Job(f"price × {factor:.3g}", partial(work.at_price, factor)) for factor in factors),
    ]


class _ToyWork:
    """The jobs of one toy, and its exact solution once it is known."""

    def __init__(self, toy: Toy, comparison: Comparison, steps: int) -> None:
        self.toy, self.comparison, self.config = toy, comparison, comparison.config
        self.steps = steps
        self.problem = _problem(toy, self.config, self.config.unit_price)
        self.known: Chosen

    def exact(self, deadline: Deadline) -> Status:
        """The row that all others are compared with."""
        work = self.comparison
        found = solve(
            self.problem,
            gap=self.config.tolerance,
            seconds=deadline.seconds,
            on_progress=work.follow,
        )
        work.follow(Progress(found.objective, found.bound, found.nodes, found.seconds))
        self.known = Chosen(found.objective, found.bound, np.concatenate(found.support))
        work.rows.append(
            make_row(
                "exact", found.objective, self.known.support, exact=self.known,
                bound=found.bound, seconds=found.seconds, nodes=found.nodes, status=found.status,
            )
        )  # fmt: skip
        return found.status

    def relaxed(self, title: str, tightened: bool, deadline: Deadline) -> Status:
        """The linear relaxation, its bounds tightened or not."""
        found = relax(self.problem, tightened=tightened, seconds=deadline.seconds)
        self.comparison.rows.append(
            make_row(
                title, found.objective, np.concatenate(found.support), exact=self.known,
                bound=found.bound, seconds=found.seconds, status=found.status,
            )
        )  # fmt: skip
        return found.status

    def trained(self, title: str, kind: str, lam: float, deadline: Deadline) -> None:
        """Units as training with a penalty ranks them."""
        objective, support = self._by_training(kind, lam, deadline)
        self.comparison.rows.append(
            make_row(
                title, objective, np.concatenate(support), exact=self.known,
                seconds=deadline.elapsed, status=ended(deadline),
            )
        )  # fmt: skip

    def at_price(self, factor: float, deadline: Deadline) -> Status:
        """Loss against kept units: exact, and what rounding the relaxation gives."""
        paid = factor * self.config.unit_price
        problem = _problem(self.toy, self.config, paid)
        exact = solve(problem, gap=self.config.tolerance, seconds=deadline.seconds)
        if exact.status == Status.INTERRUPTED:
            return exact.status
        found = relax(problem, seconds=deadline.seconds)
        if found.status == Status.INTERRUPTED:
            return found.status
        y = np.concatenate(found.indicator)
        self.comparison.sweep.append(
            {
                "price": float(factor),
                "exact_kept": exact.kept,
                "exact_loss": exact.loss,
                "exact_gap": exact.gap,
                "relaxed_kept": float(y.sum()),
                "relaxed_loss": found.objective - paid * float(y.sum()),
                "rounded_kept": int((y > 0.5).sum()),
                "rounded_loss": found.rounded - paid * int((y > 0.5).sum()),
            }
        )
        return exact.status

    def _by_training(self, kind: str, lam: float, deadline: Deadline) -> tuple[float, Support]:
        """Train with a penalty from several starts; the best number of the best-ranked units.

        ``square`` is SPR's term with the exact problem's price as c; ``lasso`` pays the norm alone;
        ``none`` trains (or takes the trained network) as it is and ranks by magnitude. When the
        time is over a training ends where it is, and no further start is made.
        """
        toy, config = self.toy, self.config
        best = (np.inf, tuple(np.zeros(units, bool) for units in toy.hidden))
        restarts = 1 if kind == "none" and toy.network is not None else config.restarts
        for restart in range(restarts):
            torch.manual_seed(config.seed + restart)
            module = to_torch(toy.network) if toy.network else _fresh(toy)
            penalty = _penalty(module, toy, config, kind, lam)
            if kind != "none" or toy.network is None:
                _fit(module, toy, config.loss, penalty, self.steps, deadline)
            trained = from_torch(module)
            network = toy.network or trained
            found = _best_count(self.problem, network, _scores(trained))
            best = min(best, found, key=lambda pair: pair[0])
            if deadline.over:
                break
        return best


def _problem(toy: Toy, config: CompareConfig, price: float) -> Selection | Training:
    if toy.network is None:
        return Training(toy.inputs, toy.targets, toy.hidden, loss=config.loss, price=price)
    return Selection(toy.network, toy.inputs, toy.targets, loss=config.loss, price=price)


def _fresh(toy: Toy) -> nn.Sequential:
    sizes = [toy.inputs.shape[1], *toy.hidden, toy.targets.shape[1]]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _penalty(
    module: nn.Sequential, toy: Toy, config: CompareConfig, kind: str, lam: float
) -> GroupPenalty | None:
    """A group is a hidden unit: its incoming weights and bias, and its outgoing weights."""
    if kind == "none":
        return None
    members: list[Member] = []
    first = 0
    layers = [name for name, layer in module.named_children() if isinstance(layer, nn.Linear)]
    for place, units in enumerate(toy.hidden):
        group = first + np.arange(units)
        members += [
            Member(f"{layers[place]}.weight", 0, group, "producer"),
            Member(f"{layers[place]}.bias", 0, group, "producer"),
            Member(f"{layers[place + 1]}.weight", 1, group, "producer"),
        ]
        first += units
    price = config.unit_price
    # the group lasso is the limit in which no group is ever fully paid for
    derivation = find("b*r", b=2 * price**0.5) if kind == "lasso" else find("square")
    term = derivation.term(price=price, **({} if kind == "lasso" else {"a": 0.1}))
    return GroupPenalty(module, Groups(first, tuple(members)), term.scaled(lam))


def _fit(
    module: nn.Sequential,
    toy: Toy,
    loss: str,
    penalty: GroupPenalty | None,
    steps: int,
    deadline: Deadline,
) -> None:
    inputs, targets = torch.from_numpy(toy.inputs), torch.from_numpy(toy.targets)
    optimizer = torch.optim.SGD(module.parameters(), lr=_RATE, momentum=0.9)
    for step in range(steps):
        if deadline.over:
            return
        rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        output = module(inputs)
        if loss == "hinge":
            value = (1 - targets * output).clamp_min(0).sum()
        else:
            residual = output - targets
            value = residual.abs().sum() if loss == "l1" else (residual**2).sum()
        (value / len(inputs)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()
        if penalty:
            with torch.no_grad():
                penalty.prox_(rate / len(inputs))


def _scores(network: Network) -> list[FloatArray]:
    """‖incoming‖·‖outgoing‖ of every hidden unit."""
    return [
        np.linalg.norm(np.column_stack([network.weights[i], network.biases[i]]), axis=1)
        * np.linalg.norm(network.weights[i + 1], axis=0)
        for i in range(len(network.hidden))
    ]


def _best_count(
    problem: Selection | Training, network: Network, scores: list[FloatArray]
) -> tuple[float, Support]:
    """Drop the units from the lowest score up; the best of all these networks."""
    support = tuple(np.ones(len(s), bool) for s in scores)
    best = (problem.objective(network, support), tuple(s.copy() for s in support))
    order = sorted((float(x), i, j) for i, s in enumerate(scores) for j, x in enumerate(s))
    for _, layer, unit in order:
        support[layer][unit] = False
        value = problem.objective(network, support)
        if value < best[0]:
            best = (value, tuple(s.copy() for s in support))
    return best
