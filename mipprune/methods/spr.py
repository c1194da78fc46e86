"""Structured Perspective Regularization (Cacciola, Frangioni, Li & Lodi 2022, arXiv 2206.14056).

Every group of the network pays the projected perspective h of its pruning term
λ·[α·φ(w) + (1−α)·u_j·c·y], u_j the group's own MACs or parameters, mean 1. φ and c are those of a
derivation (formulations.derive): SPR's own is φ = ‖w‖², c = 1, and any other trains the same way.
The keep-score y*(w_j) says which groups stay. With a budget, λ is raised until the groups above
the threshold cost no more than the budget, and the widths are then allocated exactly
(mipprune.allocation): a group is worth c_j·y*(w_j), what the relaxed MIP pays to keep it. The score
alone would charge for a group's cost twice, as c_j is in it already: y* = ‖w_j‖/r*, r*² = c_j/a for
the square.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.catalogue import find
from formulations.derive import Derivation
from formulations.errors import InputError
from formulations.terms import Term
from mipprune.allocation import allocate
from mipprune.config import BudgetConfig, SprConfig
from mipprune.cost import Cost
from mipprune.groups import Groups, Member
from mipprune.penalties import GroupPenalty


class Spr:
    """SPR on one network. See :class:`mipprune.methods.Method`.

    Parameters
    ----------
    config : SprConfig
    network : nn.Module
        At its initial weights: M is measured on them.
    groups : Groups
    cost : Cost
    budget : BudgetConfig
        With neither MACs nor parameters, groups below the threshold are removed.

    Raises
    ------
    InputError
        If the budget cannot be met by this network, or the term cannot be used.
    """

    def __init__(
        self,
        config: SprConfig,
        network: nn.Module,
        groups: Groups,
        cost: Cost,
        budget: BudgetConfig,
    ):
        self.config, self.groups, self.cost, self.budget = config, groups, cost, budget
        self.target = budget.target()
        parameters = dict(network.named_parameters())
        size = cost.marginal(config.unit)
        members = groups.scales() if config.weights == "scales" else groups.producers()
        derivation = find(config.term)
        bound = self._bound(derivation, parameters, members)
        self.bounds = {
            name: float(bound[group[group >= 0]].max()) for name, group in groups.layers.items()
        }
        # at λ = 1; `lam` scales it
        self._unit = self._term(derivation, size / size.mean(), bound)
        like = next(iter(parameters.values()))
        self.lam, self.done = config.lam, False
        self.penalty = GroupPenalty(parameters, members, groups.count, self._unit.scaled(self.lam))
        self._outside = torch.zeros((), dtype=torch.int64, device=like.device)
        if self.target is not None:
            # an unreachable budget is an error before training, not after
            self._allocate(np.zeros(groups.count))

    def _bound(self, derivation: Derivation, parameters, members: list[Member]) -> np.ndarray:
        """M of every group: the term's own, or a multiple of the layer's initial max |w|."""
        if derivation.bounded or derivation.block_price or not self.config.bound:
            return np.full(self.groups.count, derivation.bound)
        peaks = _initial_peaks(parameters, members, self.groups.count, derivation.ball)
        return peaks * self.config.bound

    def _term(self, derivation: Derivation, size: np.ndarray, bound: np.ndarray) -> Term:
        """λ = 1: α·φ and (1 − α)·u·c; with nested indicators every layer is a block."""
        alpha = self.config.alpha
        price = derivation.price * (1 - alpha) * size
        if derivation.block_price:
            blocks = np.zeros(self.groups.count, int)
            for number, group in enumerate(self.groups.layers.values()):
                blocks[group[group >= 0]] = number
            _, blocks = np.unique(blocks, return_inverse=True)
            block_price = derivation.block_price * (1 - alpha)
            return derivation.nested(blocks, block_price, price, alpha)
        term = derivation.term(price, bound, alpha)
        if np.isinf(np.minimum(term.radius, term.bound)).any():
            raise InputError(
                f"method.term={self.config.term}: φ grows too slowly to pay for every group, whose "
                "keep-score would be 0 whatever its weights: lower the price, or give method.bound"
            )
        return term

    def after_backward(self) -> None:
        """Add the gradient of h, where the configuration asks for gradient steps."""
        if self.config.step == "gradient":
            self.penalty.add_gradient_()

    def after_step(self, lr: float) -> None:
        """Proximal step of length lr, or the projection onto the box."""
        if self.config.step == "proximal":
            self.penalty.prox_(lr)
        else:
            self._outside += self.penalty.project_()

    def adapt(self) -> None:
        """With a budget: done if the groups above the threshold cost no more, else raise λ."""
        if self.target is None:
            return
        unit, share = self.target
        self.done = self.cost.value(self._above_threshold(), unit) <= share * self.cost.dense[unit]
        if not self.done:
            self._set_lam(self.lam * self.config.growth)

    def select(self) -> np.ndarray:
        """The groups to keep, (groups,) bool: of most worth in the budget, or by threshold."""
        if self.target is None:
            return self._above_threshold()
        return self._allocate(self._unit.price * self._scores())

    def log(self) -> dict[str, float]:
        """λ, h, MACs kept by the threshold, share of the groups in each regime, box corrections."""
        macs = self.cost.value(self._above_threshold(), "macs") / self.cost.dense["macs"]
        shares = {f"regime_{name}": share for name, share in self.penalty.regimes().items()}
        outside = int(self._outside)
        self._outside.zero_()
        return {
            "lam": self.lam,
            "penalty": float(self.penalty.value()),
            "macs_above_threshold": macs,
            "groups_outside_box": outside,
            **shares,
        }

    def state_dict(self) -> dict[str, Any]:
        """λ, whether done, and the initial bounds, which a resumed run cannot measure again."""
        return {
            "lam": self.lam,
            "done": self.done,
            "bound": self._unit.bound.tolist(),
            "bounds": self.bounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        if self._unit.blocks is None:
            self._unit = self._unit.bounded_by(np.array(state["bound"]))
        self.bounds = state["bounds"]
        self.done = state["done"]
        self._set_lam(state["lam"])

    def _set_lam(self, lam: float) -> None:
        self.lam = lam
        like = self.penalty.term.price
        self.penalty.term = self._unit.scaled(lam).to(like)

    def _allocate(self, worth: np.ndarray) -> np.ndarray:
        unit, share = self.target
        multiple, floor = self.budget.multiple, self.budget.floor
        return allocate(self.cost, worth, unit, share, multiple=multiple, floor=floor)

    def _scores(self) -> np.ndarray:
        """Keep-scores, not cut at 1, so that they rank the kept groups too."""
        return self.penalty.term.uncapped_indicator(*self.penalty.norms()).cpu().numpy()

    def _above_threshold(self) -> np.ndarray:
        return self.cost.remove_below(self._scores(), self.config.threshold)


def _initial_peaks(parameters, members: list[Member], count: int, ball: bool) -> np.ndarray:
    """Largest initial |w| over the layers that a group's members belong to, (groups,).

    For a ball the largest initial ‖w‖₂ of a row stands for |w|.
    """
    peak = np.zeros(count)
    for member in members:
        owners = member.group[member.group >= 0]
        weights = parameters[member.tensor].detach().double().movedim(member.axis, 0)
        rows = weights.reshape(len(member.group), -1)
        largest = float(rows.norm(dim=1).max() if ball else rows.abs().max())
        peak[owners] = np.maximum(peak[owners], largest)
    return peak
