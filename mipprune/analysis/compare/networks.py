"""A toy ReLU network: exact pruning against its relaxations, training and heuristics.

Which units to keep is what the heuristics choose; all are measured by the exact problem's own
objective, loss + price for every kept unit. In ``select`` the weights of the network stay; in
``train`` they are free, and a trained row's need not lie on the exact problem's grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.arrays import FloatArray
from formulations.relu.network import Network, Support
from formulations.relu.problems import Selection, Training
from formulations.relu.solve import relax, solve
from formulations.relu.toys import Toy, find_toy
from formulations.solving.result import Progress, relative_gap
from formulations.symbolic.catalogue import find
from mipprune.analysis.compare.rows import Chosen, make_row
from mipprune.config.compare import CompareConfig
from mipprune.models.relu_networks import from_torch, to_torch
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.groups import Groups, Member

STEPS, _RATE = 2000, 0.02


def compare_toy(
    name: str,
    config: CompareConfig,
    report: Callable[[str], None] = lambda name: None,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Rows, progress and sweep of a toy.

    Parameters
    ----------
    name : str
        One of :data:`formulations.relu.toys.TOYS`.
    config : CompareConfig
    report : callable
        Called with what is being worked on.
    steps : int
        Of every training by a heuristic.

    Returns
    -------
    dict
        As that of :func:`mipprune.analysis.compare.layers.compare_layer`.
    """
    toy = find_toy(name)
    problem = _problem(toy, config, config.unit_price)
    progress: list[dict[str, float]] = []

    def follow(state: Progress) -> None:
        progress.append(vars(state).copy())
        report(
            f"exact: incumbent {state.objective:.6g}, bound {state.bound:.6g}, {state.nodes} nodes"
        )

    report("exact")
    exact = solve(problem, gap=config.tolerance, seconds=config.time_limit, on_progress=follow)
    progress.append(
        {name: getattr(exact, name) for name in ("objective", "bound", "nodes", "seconds")}
    )
    flat = Chosen(exact.bound, np.concatenate(exact.support))
    rows = [
        make_row(
            "exact", exact.objective, flat.support, exact=flat, bound=exact.bound, gap=exact.gap,
            seconds=exact.seconds, nodes=exact.nodes, status=exact.status,
        )
    ]  # fmt: skip
    for tightened, title in ((False, "big-m-relaxation"), (True, "tightened-relaxation")):
        report(title)
        relaxed = relax(problem, tightened=tightened)
        rows.append(
            make_row(
                title, relaxed.objective, np.concatenate(relaxed.support), exact=flat,
                bound=relaxed.bound, gap=relative_gap(exact.objective, relaxed.bound),
                seconds=relaxed.seconds, status=relaxed.status,
            )
        )  # fmt: skip
    for title, work in _heuristics(problem, toy, config, steps):
        report(title)
        start = time.perf_counter()
        objective, support = work()
        seconds = time.perf_counter() - start
        rows.append(
            make_row(title, objective, np.concatenate(support), exact=flat, seconds=seconds)
        )
    return {"rows": rows, "progress": progress, "sweep": _sweep(toy, config, report)}


def _problem(toy: Toy, config: CompareConfig, price: float) -> Selection | Training:
    if toy.network is None:
        return Training(toy.inputs, toy.targets, toy.hidden, loss=config.loss, price=price)
    return Selection(toy.network, toy.inputs, toy.targets, loss=config.loss, price=price)


def _sweep(
    toy: Toy, config: CompareConfig, report: Callable[[str], None]
) -> list[dict[str, float]]:
    """Loss against kept units over prices: exact, and what rounding the relaxation gives."""
    points = []
    for factor in np.geomspace(0.1, 30.0, config.sweep) if config.sweep else ():
        report(f"price × {factor:.3g}")
        problem = _problem(toy, config, factor * config.unit_price)
        exact = solve(problem, gap=config.tolerance, seconds=config.time_limit)
        relaxed = relax(problem)
        y = np.concatenate(relaxed.indicator)
        paid = factor * config.unit_price
        points.append(
            {
                "price": float(factor),
                "exact_kept": exact.kept,
                "exact_loss": exact.loss,
                "exact_gap": exact.gap,
                "relaxed_kept": float(y.sum()),
                "relaxed_loss": relaxed.objective - paid * float(y.sum()),
                "rounded_kept": int((y > 0.5).sum()),
                "rounded_loss": relaxed.rounded - paid * int((y > 0.5).sum()),
            }
        )
    return points


def _heuristics(
    problem: Selection | Training, toy: Toy, config: CompareConfig, steps: int
) -> Iterator[tuple[str, Callable[[], tuple[float, Support]]]]:
    for lam in config.lam:
        yield f"spr λ={lam:g}", partial(_by_training, problem, toy, config, steps, "square", lam)
    yield "group-lasso", partial(_by_training, problem, toy, config, steps, "lasso", 1.0)
    yield "magnitude", partial(_by_training, problem, toy, config, steps, "none", 0.0)


def _by_training(
    problem: Selection | Training,
    toy: Toy,
    config: CompareConfig,
    steps: int,
    kind: str,
    lam: float,
) -> tuple[float, Support]:
    """Train with a penalty from several starts; the best number of the best-ranked units.

    ``square`` is SPR's term with the exact problem's price as c; ``lasso`` pays the norm alone;
    ``none`` trains (or takes the trained network) as it is and ranks by magnitude.
    """
    best = (np.inf, tuple(np.zeros(units, bool) for units in toy.hidden))
    restarts = 1 if kind == "none" and toy.network is not None else config.restarts
    for restart in range(restarts):
        torch.manual_seed(config.seed + restart)
        module = to_torch(toy.network) if toy.network else _fresh(toy)
        penalty = _penalty(module, toy, config, kind, lam)
        if kind != "none" or toy.network is None:
            _fit(module, toy, config.loss, penalty, steps)
        trained = from_torch(module)
        network = toy.network or trained
        found = _best_count(problem, network, _scores(trained))
        best = min(best, found, key=lambda pair: pair[0])
    return best


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
    module: nn.Sequential, toy: Toy, loss: str, penalty: GroupPenalty | None, steps: int
) -> None:
    inputs, targets = torch.from_numpy(toy.inputs), torch.from_numpy(toy.targets)
    optimizer = torch.optim.SGD(module.parameters(), lr=_RATE, momentum=0.9)
    for step in range(steps):
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
