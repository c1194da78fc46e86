"""Pruning a layer without a proof: trained with the regularizer, by group lasso, by magnitude."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from formulations.arrays import BoolArray, FloatArray
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.numerics.proximal_gradient import accelerated
from formulations.solving.deadline import Deadline, Stopped
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.groups import Groups, Member

_LASSO_STEPS = 60

Point = TypeVar("Point", FloatArray, torch.Tensor)


def train_spr(problem: LayerProblem, deadline: Deadline, lam: float = 1.0) -> FloatArray:
    """Minimise loss + λ·Σ h in PyTorch by accelerated proximal gradient with the trainer's penalty.

    FISTA (Beck & Teboulle 2009) with adaptive restart (O'Donoghue & Candès 2015), in float64;
    the weights, (D, O), as far as they came when the time is over.
    """
    weight = nn.Parameter(torch.zeros(problem.cross.shape, dtype=torch.float64))
    owner = np.repeat(np.arange(problem.groups), problem.block)
    groups = Groups(problem.groups, (Member("weight", 0, owner, "producer"),))
    # the extraction is in the loss's curvature here, as in the MIP
    term = problem.term.without_extraction().scaled(lam)
    penalty = GroupPenalty({"weight": weight}, groups, term)
    curvature, cross = torch.from_numpy(problem.curvature), torch.from_numpy(problem.cross)
    step = _step(problem)

    def prox(point: torch.Tensor) -> torch.Tensor:
        weight.copy_(point)
        penalty.prox_(step)
        return weight.clone()

    with torch.no_grad():
        weight.copy_(
            _until(deadline, lambda w: curvature @ w - cross, prox, torch.zeros_like(cross), step)
        )
    return weight.detach().numpy()


def _step(problem: LayerProblem) -> float:
    return 1 / max(float(np.linalg.eigvalsh(problem.curvature)[-1]), 1e-300)


def _until(
    deadline: Deadline,
    gradient: Callable[[Point], Point],
    prox: Callable[[Point], Point],
    start: Point,
    step: float,
    tolerance: float = 1e-10,
) -> Point:
    """Accelerated descent that ends, where it is, when the time is over."""
    last = start

    def remembering(point: Point) -> Point:
        nonlocal last
        last = prox(point)
        return last

    try:
        return accelerated(
            gradient, remembering, start, step, tolerance=tolerance, pause=deadline.check
        )
    except Stopped:
        return last


def group_lasso(problem: LayerProblem, most: int, deadline: Deadline) -> BoolArray:
    """Group lasso with the same φ, over a path of weights; the best support after refit.

    The path begins with the fewest groups, and ends where it is when the time is over.
    """
    term, step = problem.term, _step(problem)
    largest = float(np.linalg.norm(problem.by_group(problem.cross), axis=1).max())
    best = _Best(problem, most)
    weights = np.zeros_like(problem.cross)
    for strength in largest * np.geomspace(1, 1e-4, _LASSO_STEPS):

        def prox(point: FloatArray, strength: float = strength) -> FloatArray:
            # of strength·‖w‖₂ + φ(w): shrink the norm, then φ (both act along w)
            groups = problem.by_group(point)
            norm = np.linalg.norm(groups, axis=1, keepdims=True)
            shrunk = groups * np.maximum(1 - step * strength / np.maximum(norm, 1e-300), 0)
            return term.shrinkage_prox(shrunk, step).reshape(point.shape)

        weights = _until(
            deadline,
            *(lambda w: problem.curvature @ w - problem.cross, prox, weights, step, 1e-7),
        )
        best.offer((problem.by_group(weights) != 0).any(axis=1))
        if deadline.over:
            break
    return best.support


def magnitude(problem: LayerProblem, most: int, deadline: Deadline) -> BoolArray:
    """Largest ‖W_j‖ of the dense solution; the best number of them after refit."""
    dense = refit(problem, np.ones(problem.groups, bool))
    return best_count(problem, most, np.linalg.norm(problem.by_group(dense), axis=1), deadline)


def best_count(
    problem: LayerProblem, most: int, scores: FloatArray, deadline: Deadline
) -> BoolArray:
    """The best number, up to ``most``, of the best-scored groups after refit: a (G,) bool array.

    Of those numbers, from 0 on, that were tried when the time is over.
    """
    order = np.argsort(-scores)
    best = _Best(problem, most)
    for count in range(most + 1):
        support = np.zeros(problem.groups, bool)
        support[order[:count]] = True
        best.offer(support)
        if deadline.over:
            break
    return best.support


class _Best:
    """The support of up to so many groups with the lowest MIP objective so far."""

    def __init__(self, problem: LayerProblem, most: int) -> None:
        self.problem, self.most = problem, most
        self.support, self.objective = np.zeros(problem.groups, bool), problem.constant

    def offer(self, support: BoolArray) -> None:
        if support.sum() > self.most:
            return
        objective = self.problem.objective(refit(self.problem, support), support)
        if objective < self.objective:
            self.support, self.objective = support, objective
