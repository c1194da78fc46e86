"""Many nodes of the branch and bound at once, on a GPU (or with torch's threads on a CPU).

The same relaxation and the same bound (:func:`formulations.solving.safe_bound.fenchel`) as those of
:class:`formulations.layer.relaxations.indicator_newton.IndicatorNewton`, in float64, for a batch of
nodes that keep the full size: removed groups have empty rows. What each node extracts again is
found by powers of a matrix instead of Lanczos's method.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.numerics.indicator_newton import PerspectiveLayer, PerspectiveRelaxation
from formulations.solving import safe_bound
from formulations.solving.node import FREE, KEPT, REMOVED, Node

_POWERS = 30
_MEMORY = 2**31  # bytes of one batch's matrices


class BatchedNewton:
    """Evaluates nodes in batches.

    A ``relaxation`` for :func:`formulations.layer.solvers.branch_and_bound.solve`.

    Parameters
    ----------
    problem : LayerProblem
        After the extraction, with φ = a‖w‖² and no bound.
    most : int
        Largest number of groups; only all of them.
    tolerance : float
        Relative precision of a node's relaxation.

    Attributes
    ----------
    width : int
        Nodes that are branched at once: half a batch.

    Raises
    ------
    InputError
        For a problem that it is not for.
    """

    def __init__(self, problem: LayerProblem, most: int, tolerance: float) -> None:
        if not problem.plain or most < problem.groups:
            raise InputError("batched nodes are for φ = a‖w‖² without a bound or a cardinality")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.problem, self.tolerance, self.pause = problem, tolerance, lambda: None
        self.hessian = self._tensor(problem.hessian)
        self.cross = self._tensor(problem.cross)
        block = problem.block
        self.price = self._tensor(problem.price)
        own = 2 * problem.ridge
        self.delta = self._tensor(own[:, None, None] * np.eye(block))
        self.least = float(own.min())
        # some ten matrices of the layer's size a node
        rows = len(problem.cross)
        self.width = max(1, min(64, _MEMORY // (20 * 8 * rows * rows)))

    def _tensor(self, array: FloatArray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def evaluate(self, nodes: Sequence[Node], cutoff: float) -> None:
        """See :class:`formulations.solving.node.Relaxation`."""
        block = self.problem.block
        state = torch.tensor(np.stack([node.state for node in nodes]), device=self.device)
        kept, free = state == KEPT, state == FREE
        there = (state != REMOVED).repeat_interleave(block, dim=1).to(self.hessian.dtype)
        hessian = self.hessian * there[:, :, None] * there[:, None, :]
        cross = self.cross * there[:, :, None]
        deltas = [self.delta if node.warm is None else node.warm for node in nodes]
        delta = torch.where(
            free[:, :, None, None], torch.stack(deltas), torch.eye(block, device=self.device) * 0
        )
        again = torch.tensor([node.warm is not None for node in nodes], device=self.device)
        if bool(again.any()):
            more = self._tighten(hessian, delta, free, there)
            delta = torch.where(again[:, None, None, None], more, delta)
        ones = free.new_ones(free.shape, dtype=hessian.dtype)
        fixed = ones * ~free
        price = torch.where(free, self.price, 0.0)
        layer = PerspectiveLayer(hessian, cross, delta)
        relaxation = PerspectiveRelaxation([layer], price, fixed, ones, self.pause)
        start = self._tensor(np.stack([node.indicator for node in nodes]))
        start = torch.where(free, start.clamp(0.02, 1.0), ones)
        y, (weights,) = relaxation.solve(start, self.tolerance)
        fenchel = safe_bound.fenchel(
            *(hessian, cross, self.problem.constant, weights, delta, free), self.least
        )
        surplus = torch.where(free, fenchel.conjugate - self.price, 0.0)
        value = fenchel.value + torch.where(kept, self.price, 0.0).sum(dim=1)
        rounding = safe_bound.unit(len(self.price)) * (self.price.sum() + value.abs())
        bounds = value - surplus.clamp_min(0).sum(dim=1) - fenchel.margin - rounding
        indicators, bound, gains = (x.cpu().numpy() for x in (y, bounds, surplus))
        for i, node in enumerate(nodes):
            node.warm = torch.where(free[i, :, None, None], delta[i], self.delta)
            if bound[i] >= node.bound:
                node.bound, node.surplus = float(bound[i]), gains[i]
            node.indicator = np.where(node.free, indicators[i], node.state)

    def _blocks(self, matrix: torch.Tensor) -> torch.Tensor:
        """(N, D, D) to its diagonal blocks, (N, J, b, b); a view."""
        groups, block = self.problem.groups, self.problem.block
        shaped = matrix.unflatten(2, (groups, block)).unflatten(1, (groups, block))
        return shaped.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

    def _slack(self, hessian: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        slack = hessian.clone()
        self._blocks(slack).sub_(delta)
        return slack

    def _tighten(
        self,
        hessian: torch.Tensor,
        delta: torch.Tensor,
        free: torch.Tensor,
        there: torch.Tensor,
    ) -> torch.Tensor:
        """Δ + θ·((H − Δ)⁻¹_jj)⁻¹ on the free groups, as ``extraction.tighten``."""
        slack = self._slack(hessian, delta)
        scale = hessian.diagonal(dim1=1, dim2=2).mean(dim=1)
        empty = (1 - there) + 1e-10 * scale[:, None]
        inverse, failed = torch.linalg.inv_ex(slack + torch.diag_embed(empty))
        inside = free.repeat_interleave(self.problem.block, dim=1).to(hessian.dtype)
        inverse = inverse * inside[:, :, None] * inside[:, None, :]
        eye = torch.eye(self.problem.block, dtype=hessian.dtype, device=self.device)
        blocks = torch.where(free[:, :, None, None], self._blocks(inverse), eye)
        blocks = torch.linalg.inv(blocks)
        factor, bad = torch.linalg.cholesky_ex((blocks + blocks.mT) / 2)
        # the largest eigenvalue of Lᵀ·inverse·L by powers: an estimate from below
        groups, block = self.problem.groups, self.problem.block
        vector = torch.ones(*inside.shape, 1, dtype=hessian.dtype, device=self.device)
        vector = vector * inside[:, :, None]
        largest = vector.new_ones(len(vector))
        for _ in range(_POWERS):
            vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-300)
            pushed = (factor @ vector.unflatten(1, (groups, block))).flatten(1, 2)
            pushed = (factor.mT @ (inverse @ pushed).unflatten(1, (groups, block))).flatten(1, 2)
            largest = pushed.norm(dim=1)[:, 0].clamp_min(1e-300)
            vector = pushed
        usable = (failed == 0) & (bad == 0).all(dim=1)
        result = delta
        done = ~usable
        # as safe_bound.definite asks for; a row of a removed group has 1 on the diagonal
        shift = 2 * safe_bound.unit(hessian.shape[1]) * hessian.diagonal(dim1=1, dim2=2).sum(dim=1)
        empty = (1 - there) - shift[:, None] * there
        for share in (0.97, 0.8, 0.4):
            more = (share / largest)[:, None, None, None] * (factor @ factor.mT)
            trial = delta + torch.where(free[:, :, None, None], more, 0.0)
            _, wrong = torch.linalg.cholesky_ex(
                self._slack(hessian, trial) + torch.diag_embed(empty)
            )
            fresh = (wrong == 0) & ~done
            result = torch.where(fresh[:, None, None, None], trial, result)
            done = done | fresh
        return result
