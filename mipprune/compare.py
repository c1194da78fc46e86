"""Exact MIP pruning against its relaxations and against trained pruning, on one layer problem.

The trained row minimises the same relaxation in PyTorch by proximal gradient with the trainer's own
penalty: it must reach the perspective relaxation's value and stay below the exact optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from formulations.layer import LayerProblem
from formulations.solution import Solution, relative_gap
from formulations.terms import Square
from mipprune import checkpoint
from mipprune.config import CompareConfig
from mipprune.groups import Member
from mipprune.penalties import GroupPenalty

_LASSO_STEPS = 60
_ITERATIONS = 50_000


def load_problem(source: str, config: CompareConfig) -> LayerProblem:
    """The layer problem that the command line names.

    Parameters
    ----------
    source : str
        ``layer:FILE.npz``, ``layer:generated`` or ``layer:CHECKPOINT:LAYER``.
    config : CompareConfig

    Raises
    ------
    InputError
        Unknown form, file, checkpoint or layer; data that are no layer problem.
    """
    kind, _, rest = source.partition(":")
    if kind != "layer" or not rest:
        raise InputError(
            f"unknown problem {source!r}: layer:FILE.npz, layer:generated or layer:CHECKPOINT:LAYER"
        )
    if rest == "generated":
        return generate(config)
    if rest.endswith(".npz"):
        problem = LayerProblem.load(rest)
        return problem if config.price is config.ridge is None else _repriced(problem, config)
    folder, colon, layer = rest.rpartition(":")
    if not colon:
        raise InputError(f"name the layer too: layer:{rest}:LAYER")
    return from_checkpoint(Path(folder), layer, config)


def generate(config: CompareConfig) -> LayerProblem:
    """A layer problem on synthetic inputs with AR(1) correlation, half of the groups relevant."""
    generator = np.random.default_rng(config.seed)
    groups, outputs = config.groups, config.outputs
    inputs = generator.standard_normal((20 * groups, groups))
    for k in range(1, groups):
        fresh = np.sqrt(1 - config.correlation**2)
        inputs[:, k] = config.correlation * inputs[:, k - 1] + fresh * inputs[:, k]
    weights = generator.standard_normal((groups, outputs))
    weights[generator.permutation(groups)[: groups // 2]] *= 0.2
    problem = LayerProblem.from_data(inputs, inputs @ weights, Square(1.0, 1.0))
    return _repriced(problem, config)


def from_checkpoint(folder: Path, layer: str, config: CompareConfig) -> LayerProblem:
    """The layer problem of a convolution or linear layer, on calibration images.

    X are the layer's inputs (im2col) on ``config.images`` training images, Y = X·W₀ its outputs
    without bias; a group is an input channel.
    """
    from mipprune.data import load

    network, data = checkpoint.load(folder)
    modules = dict(network.named_modules())
    layers = [n for n, m in modules.items() if isinstance(m, (nn.Conv2d, nn.Linear))]
    if layer not in layers:
        raise InputError(f"{folder} has no layer {layer!r}: one of {', '.join(layers)}")
    module = modules[layer]
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        raise InputError(f"{layer} is a grouped convolution: its inputs cannot be chosen freely")
    name, path = (
        (config.data.name, config.data.path) if config.data else (data["name"], data["path"])
    )
    images = load(name, path, torch.device("cpu")).sample(config.images, config.seed)
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.eval()
        network(images)
    hook.remove()
    inputs = seen[0]
    if isinstance(module, nn.Conv2d):
        columns = F.unfold(
            inputs, module.kernel_size, module.dilation, module.padding, module.stride
        )
        inputs = columns.transpose(1, 2).flatten(0, 1)
    inputs = inputs.double().numpy()
    weights = module.weight.detach().double().flatten(1).numpy().T
    block = int(np.prod(module.weight.shape[2:], dtype=int))
    problem = LayerProblem.from_data(inputs, inputs @ weights, Square(1.0, 1.0), block)
    return _repriced(problem, config)


def _repriced(problem: LayerProblem, config: CompareConfig) -> LayerProblem:
    """Price and ridge by the configuration's shares of c₀ and of G's mean diagonal."""
    price = config.price or 0.01
    ridge = config.ridge or 0.05
    term = Square(
        ridge * float(np.trace(problem.gram)) / len(problem.gram),
        price * problem.constant,
        problem.term.bound,
    )
    return LayerProblem(problem.gram, problem.cross, problem.constant, term, problem.block)


def compare(
    problem: LayerProblem,
    config: CompareConfig,
    report: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:
    """Solve, relax, train: one row a way of pruning.

    Parameters
    ----------
    problem : LayerProblem
    config : CompareConfig
        Tolerance and time limit.
    report : callable
        Called with the name of each row before it is worked on.

    Returns
    -------
    list of dict
        ``name``, ``objective`` (of the MIP, after a refit on the row's support; of a relaxation,
        its own value), ``bound`` (None where the row proves none), ``gap`` to the row's bound or
        else to the exact row's, ``kept``, ``support`` (indices), ``agreement`` (share of groups
        decided as in the exact row), ``seconds``, ``nodes``, ``status``.
    """
    limits = {"time_limit": config.time_limit}
    report("exact")
    exact = problem.solve(tolerance=config.tolerance, **limits)
    rows = [_row("exact", exact, exact)]
    for form in ("big-m", "perspective"):
        report(f"{form}-relaxation")
        relaxed = problem.relax(form, **limits)
        rows.append(_row(f"{form}-relaxation", relaxed, exact))
    for name, work in (
        ("spr-trained", train_spr),
        ("group-lasso", group_lasso),
        ("magnitude", magnitude),
    ):
        report(name)
        start = time.perf_counter()
        support, extra = work(problem, config.time_limit)
        objective = problem.objective(problem.refit(support), support)
        seconds = time.perf_counter() - start
        row = {
            "name": name,
            "objective": objective,
            "bound": None,
            "gap": relative_gap(objective, exact.bound),
            **_support(support, exact),
            "seconds": seconds,
            "nodes": 0,
            "status": "heuristic",
        }
        rows.append({**row, **extra})
    return rows


def _row(name: str, solution: Solution, exact: Solution) -> dict[str, Any]:
    relaxed = solution is not exact
    return {
        "name": name,
        "objective": solution.objective,
        "bound": solution.bound,
        # of a relaxation: how far its bound stays below the exact optimum
        "gap": relative_gap(exact.objective, solution.bound) if relaxed else solution.gap,
        **_support(solution.support, exact),
        "seconds": solution.seconds,
        "nodes": solution.nodes,
        "status": solution.status,
    }


def _support(support: np.ndarray, exact: Solution) -> dict[str, Any]:
    return {
        "kept": int(support.sum()),
        "support": np.flatnonzero(support).tolist(),
        "agreement": float((support == exact.support).mean()),
    }


def train_spr(problem: LayerProblem, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Minimise loss + Σ h in PyTorch by accelerated proximal gradient with the trainer's penalty.

    FISTA (Beck & Teboulle 2009) with adaptive restart (O'Donoghue & Candès 2015), in float64. The
    row's ``objective`` is the value reached, ``bound`` the dual bound of the same point.
    """
    weight = nn.Parameter(torch.zeros(problem.cross.shape, dtype=torch.float64))
    owner = np.repeat(np.arange(problem.groups), problem.block)

    def tensor(value):
        return torch.from_numpy(np.broadcast_to(value, (problem.groups,)).copy())

    own = problem.term
    penalty = GroupPenalty(
        {"weight": weight},
        [Member("weight", 0, owner, "producer")],
        problem.groups,
        Square(tensor(own.shrinkage), tensor(own.price), tensor(own.bound)),
    )
    proximal_gradient(problem, weight, penalty.prox_, time_limit)
    solution = weight.detach().numpy()
    value = problem.relaxed_objective(solution)
    bound = problem.dual_bound(solution)
    return problem.term.keep(problem.by_group(solution)) > 0.5, {
        "objective": value,
        "bound": bound,
        "gap": relative_gap(value, bound),
        "status": "trained",
    }


def proximal_gradient(
    problem: LayerProblem,
    weight: nn.Parameter,
    prox_: Callable[[float], None],
    time_limit: float,
    tolerance: float = 1e-10,
) -> None:
    """Minimise the layer loss plus a penalty, given its proximal step on ``weight``, in place.

    Stops when a step moves the weights by less than ``tolerance`` relative, or at the time limit.
    """
    gram, cross = torch.from_numpy(problem.gram), torch.from_numpy(problem.cross)
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    start = time.perf_counter()
    ahead, momentum = weight.detach().clone(), 1.0
    with torch.no_grad():
        for _ in range(_ITERATIONS):
            before = weight.clone()
            weight.copy_(ahead - step * (gram @ ahead - cross))
            prox_(step)
            move = weight - before
            # the momentum points uphill: start it anew
            if float(((ahead - weight) * move).sum()) > 0:
                momentum = 1.0
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = weight + (momentum - 1) / following * move
            momentum = following
            done = float(move.norm()) <= tolerance * max(float(weight.norm()), 1e-12)
            if done or time.perf_counter() - start > time_limit:
                return


def group_lasso(problem: LayerProblem, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Group lasso with the same ridge, over a path of weights; the best support after refit."""
    weight = nn.Parameter(torch.zeros(problem.cross.shape, dtype=torch.float64))
    ridge = torch.from_numpy(problem.per_row(problem.term.shrinkage))[:, None]
    largest = float(np.linalg.norm(problem.by_group(problem.cross), axis=1).max())
    best = _Best(problem)
    for strength in largest * np.geomspace(1, 1e-4, _LASSO_STEPS):

        def prox_(step, strength=strength):
            # of strength·‖w‖ + a‖w‖²: shrink the norm, then the ridge
            blocks = weight.view(problem.groups, -1)
            norm = blocks.norm(dim=1, keepdim=True)
            blocks.mul_(torch.clamp(1 - step * strength / norm.clamp(min=1e-300), min=0))
            weight.div_(1 + 2 * step * ridge)

        proximal_gradient(problem, weight, prox_, time_limit / _LASSO_STEPS, 1e-7)
        best.offer(problem.by_group(weight.detach().numpy()).any(axis=1))
    return best.support, {}


def magnitude(problem: LayerProblem, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Largest ‖W_j‖ of the dense ridge solution; the best number of them after refit."""
    norms = np.linalg.norm(problem.by_group(problem.refit_unbounded), axis=1)
    order = np.argsort(-norms)
    best = _Best(problem)
    for count in range(problem.groups + 1):
        support = np.zeros(problem.groups, bool)
        support[order[:count]] = True
        best.offer(support)
    return best.support, {}


class _Best:
    """The support with the lowest MIP objective so far."""

    def __init__(self, problem: LayerProblem):
        self.problem, self.support, self.objective = problem, None, np.inf

    def offer(self, support: np.ndarray) -> None:
        objective = self.problem.objective(self.problem.refit(support), support)
        if objective < self.objective:
            self.support, self.objective = support, objective
