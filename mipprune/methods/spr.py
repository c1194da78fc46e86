"""Structured Perspective Regularization (Cacciola, Frangioni, Li & Lodi 2022, arXiv 2206.14056).

Every group of the network pays the projected perspective h of its pruning term (formulations.terms)
with a = λα, c = λ(1−α)u_j, u_j the group's own MACs or parameters, mean 1. The keep-score y*(w_j)
ranks the groups. With a budget, λ is raised until the groups above the threshold cost no more than
the budget, and the ranking then meets it exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from formulations.terms import Square
from mipprune.config import SprConfig
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
    budget : (unit, share) or None
        ``("macs", 0.5)`` keeps half of the MACs; None removes below the threshold.

    Raises
    ------
    InputError
        If the budget cannot be met by this network.
    """

    def __init__(
        self,
        config: SprConfig,
        network: nn.Module,
        groups: Groups,
        cost: Cost,
        budget: tuple[str, float] | None,
    ):
        self.config, self.groups, self.cost, self.budget = config, groups, cost, budget
        parameters = dict(network.named_parameters())
        size = cost.marginal(config.unit)
        members = groups.scales() if config.weights == "scales" else groups.producers()
        largest = _initial_peaks(parameters, members, groups.count)
        self.bounds = {
            name: float(largest[group[group >= 0]].max()) * (config.bound or float("inf"))
            for name, group in groups.layers.items()
        }
        bound = largest * config.bound if config.bound else np.full(groups.count, np.inf)
        like = next(iter(parameters.values()))
        # at λ = 1; `lam` scales it
        unit = Square.spr(1.0, config.alpha, size / size.mean(), bound)
        self._unit = Square(
            *(
                torch.as_tensor(v, dtype=like.dtype, device=like.device)
                for v in (unit.shrinkage, unit.price, unit.bound)
            )
        )
        self.lam, self.done = config.lam, False
        self.penalty = GroupPenalty(parameters, members, groups.count, self._unit.scaled(self.lam))
        self._outside = torch.zeros((), dtype=torch.int64, device=like.device)
        if budget is not None:
            self.select()  # an unreachable budget is an error before training, not after

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
        if self.budget is None:
            return
        unit, share = self.budget
        self.done = self.cost.value(self._above_threshold(), unit) <= share * self.cost.dense[unit]
        if not self.done:
            self._set_lam(self.lam * self.config.growth)

    def select(self) -> np.ndarray:
        """The groups to keep, (groups,) bool: by budget and ranking, or by the threshold."""
        if self.budget is None:
            return self._above_threshold()
        unit, share = self.budget
        return self.cost.remove_lowest(self._scores(), share, unit)

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
        bound = torch.as_tensor(state["bound"]).to(self._unit.bound)
        self._unit = Square(self._unit.shrinkage, self._unit.price, bound)
        self.bounds = state["bounds"]
        self.done = state["done"]
        self._set_lam(state["lam"])

    def _set_lam(self, lam: float) -> None:
        self.lam = lam
        self.penalty.term = self._unit.scaled(lam)

    def _scores(self) -> np.ndarray:
        """Keep-scores, not cut at 1, so that they rank the kept groups too."""
        return self.penalty.term.uncapped_indicator(*self.penalty.norms()).cpu().numpy()

    def _above_threshold(self) -> np.ndarray:
        return self.cost.remove_below(self._scores(), self.config.threshold)


def _initial_peaks(parameters, members: list[Member], count: int) -> np.ndarray:
    """Largest initial |w| over the layers that a group's members belong to, (groups,)."""
    peak = np.zeros(count)
    for member in members:
        owners = member.group[member.group >= 0]
        largest = float(parameters[member.tensor].detach().abs().max())
        peak[owners] = np.maximum(peak[owners], largest)
    return peak
