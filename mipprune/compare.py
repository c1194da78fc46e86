"""Exact MIP pruning against its relaxations and against trained pruning, on one layer problem.

The trained row minimises the same relaxation in PyTorch by proximal gradient with the trainer's own
penalty: it must reach the perspective relaxation's value and stay below the exact optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formulations.catalogue import find, square
from formulations.descent import accelerated
from formulations.errors import InputError
from formulations.layer import LayerProblem
from formulations.solution import Solution, relative_gap
from formulations.terms import Term
from mipprune import checkpoint
from mipprune.config import CompareConfig
from mipprune.groups import Member
from mipprune.penalties import GroupPenalty

_LASSO_STEPS = 60


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
        if config.price is config.ridge is config.term is None:
            return problem
        return _repriced(problem, config, keep=True)
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
    problem = LayerProblem.from_data(inputs, inputs @ weights, square(1.0, 1.0))
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
    problem = LayerProblem.from_data(inputs, inputs @ weights, square(1.0, 1.0), block)
    return _repriced(problem, config)


def _repriced(problem: LayerProblem, config: CompareConfig, keep: bool = False) -> LayerProblem:
    """Price and ridge by the configuration's shares of c₀ and of G's mean diagonal, and its term.

    With ``keep``, what the configuration does not say stays as the problem has it.
    """
    price, ridge = config.price or 0.01, config.ridge or 0.05
    ridge = ridge * float(np.trace(problem.gram)) / len(problem.gram)
    price = price * problem.constant
    own = problem.term
    if keep and config.ridge is None:
        ridge = own.weight
    if keep and config.price is None:
        price = own.price
    term = _term(config, problem.groups, price, ridge, own) if config.term else None
    if term is None:
        term = replace(own, price=price, weight=ridge)
    return LayerProblem(problem.gram, problem.cross, problem.constant, term, problem.block)


def _term(config: CompareConfig, groups: int, price, ridge, own: Term) -> Term:
    """The configured term: its φ times the ridge, its c (and C) times the price."""
    derivation = find(config.term)
    if derivation.block_price is None:
        bound = derivation.bound if derivation.bounded else own.bound
        return derivation.term(derivation.price * price, bound, ridge)
    if groups % config.blocks:
        raise InputError(f"blocks={config.blocks} does not divide the {groups} groups")
    blocks = np.repeat(np.arange(config.blocks), groups // config.blocks)
    unit = float(np.mean(price))
    return derivation.nested(blocks, derivation.block_price * unit, derivation.price * price, ridge)


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
    problem = problem.bounded()
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
    members = [Member("weight", 0, owner, "producer")]
    # the extraction is in the loss's curvature here, as in the MIP
    term = problem.term.without_extraction()
    penalty = GroupPenalty({"weight": weight}, members, problem.groups, term)
    curvature, cross = torch.from_numpy(problem.curvature), torch.from_numpy(problem.cross)
    step = _step(problem)

    def prox(point: torch.Tensor) -> torch.Tensor:
        weight.copy_(point)
        penalty.prox_(step)
        return weight.clone()

    with torch.no_grad():
        weight.copy_(
            _until(time_limit, lambda w: curvature @ w - cross, prox, torch.zeros_like(cross), step)
        )
    solution = weight.detach().numpy()
    value = problem.relaxed_objective(solution)
    bound = problem.dual_bound(solution)
    return problem.term.keep(problem.by_group(solution)) > 0.5, {
        "objective": value,
        "bound": bound,
        "gap": relative_gap(value, bound),
        "status": "trained",
    }


def _step(problem: LayerProblem) -> float:
    return 1 / max(float(np.linalg.eigvalsh(problem.curvature)[-1]), 1e-300)


def _until(time_limit: float, gradient, prox, start, step: float, tolerance: float = 1e-10):
    """Accelerated descent that ends, where it is, when the time is over."""
    end = time.perf_counter() + time_limit
    last = start

    def remembering(point):
        nonlocal last
        last = prox(point)
        return last

    def pause():
        if time.perf_counter() > end:
            raise TimeoutError

    try:
        return accelerated(gradient, remembering, start, step, tolerance=tolerance, pause=pause)
    except TimeoutError:
        return last


def group_lasso(problem: LayerProblem, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Group lasso with the same φ, over a path of weights; the best support after refit."""
    term, step = problem.term, _step(problem)
    largest = float(np.linalg.norm(problem.by_group(problem.cross), axis=1).max())
    best = _Best(problem)
    weights = np.zeros_like(problem.cross)
    for strength in largest * np.geomspace(1, 1e-4, _LASSO_STEPS):

        def prox(point, strength=strength):
            # of strength·‖w‖₂ + φ(w): shrink the norm, then φ (both act along w)
            groups = problem.by_group(point)
            norm = np.linalg.norm(groups, axis=1, keepdims=True)
            shrunk = groups * np.maximum(1 - step * strength / np.maximum(norm, 1e-300), 0)
            return term.shrinkage_prox(shrunk, step).reshape(point.shape)

        weights = _until(
            time_limit / _LASSO_STEPS,
            *(lambda w: problem.curvature @ w - problem.cross, prox, weights, step, 1e-7),
        )
        best.offer(problem.by_group(weights).any(axis=1))
    return best.support, {}


def magnitude(problem: LayerProblem, time_limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Largest ‖W_j‖ of the dense solution; the best number of them after refit."""
    dense = problem.refit(np.ones(problem.groups, bool))
    norms = np.linalg.norm(problem.by_group(dense), axis=1)
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
