"""Directional pruning: gRDA and its structured form, no retraining.

Chao, Wang, Xing & Cheng, NeurIPS 2020, arXiv 2006.09358; Li et al. 2021, arXiv 2107.05328.

    a_{n+1} = a_n − γ_n·∇L(w_n),  a_0 = w_0;     w_{n+1} = S(a_{n+1}, g_{n+1}),
    g_{n+1} = g_n + c·γ_n^{1/2+μ}·((n+1)^μ − n^μ),

S the soft-thresholding of every entry; with a constant learning rate g_n = c·γ^{1/2+μ}·n^μ. The
increments follow the authors' code (github.com/donlan2710/gRDA-Optimizer): that is how g answers
to a learning-rate schedule. The structured form thresholds whole groups: S(a_j, √d_j·g), d_j the
number of weights, so that g means the same per weight. Of the structured papers only the abstracts
were at hand: √d_j, and the alternating variant (``period`` − 1 steps of SGD, in which the
accumulator moves along, and then a structured step), are our reconstruction. So is the budget: with
``growth`` above 1 c grows until the groups at zero meet it, and what is missing goes at the end.
Weights outside the groups, such as BatchNorm's at granularity=link, are plain SGD's; the authors'
code thresholds them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, overload

import torch
from pydantic import Field
from torch import nn

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.penalties.rows import GroupRows
from mipprune.runs.log import Log, LogEntry
from mipprune.structure.allocation import remove_below


class Settings(MethodConfig):
    """Directional pruning: gRDA with granularity=link, structured otherwise."""

    name: Literal["directional"] = "directional"
    c: float = Field(5e-4, ge=0, description="strength of the threshold; 0: plain SGD")
    mu: float = Field(0.51, gt=0.5, lt=1, description="μ, how the threshold grows; up to 0.55")
    weights: Literal["scales", "all"] = Field(
        "all", description="what a group's norm is of, as for spr"
    )
    period: int = Field(
        1, ge=1, description="alternating variant: every so many steps a thresholded one, else SGD"
    )
    growth: float = Field(
        1.0, ge=1, description="with a budget: c grows by this, up to 100 times, until it is met"
    )


class GRDA(torch.optim.Optimizer):
    """Generalized regularized dual averaging, elementwise or by groups.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        γ; may change from step to step.
    c, mu : float
        Of the threshold g.
    groups : GroupRows, optional
        Weights that are thresholded in groups; all others are SGD's. Without it every entry of
        every parameter is thresholded by itself, as in the authors' code.
    period : int
        Threshold in every so many steps only.
    weight_decay : float
        Added to the gradient, as part of the loss.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        c: float,
        mu: float,
        *,
        groups: GroupRows | None = None,
        period: int = 1,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "c": c, "mu": mu, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "steps": 0, "threshold": 0.0})
        self._period, self._groups = period, groups
        self._root = None if groups is None else groups.sizes().sqrt()
        everything = self.param_groups[0]["params"]
        thresholded = [rows.parameter for rows in groups.rows] if groups else everything
        self._accumulating = dict.fromkeys(thresholded)  # an ordered set

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. The accumulator a starts as a copy of the weights.

        Parameters
        ----------
        closure : callable, optional
            Fills the gradients and returns the loss, which the step then returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (settings,) = self.param_groups
        lr, mu, n = settings["lr"], settings["mu"], settings["steps"]
        settings["threshold"] += settings["c"] * lr ** (0.5 + mu) * ((n + 1) ** mu - n**mu)
        settings["steps"] = n + 1
        for weight in self._accumulating:
            if not self.state[weight]:
                self.state[weight]["accumulator"] = weight.detach().clone()
        trained = [weight for weight in settings["params"] if weight.grad is not None]
        if trained:
            gradients = [weight.grad for weight in trained]
            changes = torch._foreach_add(gradients, trained, alpha=settings["weight_decay"])
            torch._foreach_mul_(changes, -lr)
            torch._foreach_add_(trained, changes)
            own = [
                (self.state[weight]["accumulator"], change)
                for weight, change in zip(trained, changes, strict=True)
                if weight in self._accumulating
            ]
            if own:
                torch._foreach_add_(*map(list, zip(*own, strict=True)))
        if settings["steps"] % self._period == 0:
            self._threshold(settings["threshold"])
        return loss

    def _threshold(self, threshold: float) -> None:
        """W = S(a, g)."""
        weights = list(self._accumulating)
        torch._foreach_copy_(weights, [self.state[weight]["accumulator"] for weight in weights])
        if self._groups is None or self._root is None:
            sizes = torch._foreach_abs(weights)
            torch._foreach_sub_(sizes, threshold)
            torch._foreach_clamp_min_(sizes, 0)
            torch._foreach_sign_(weights)
            torch._foreach_mul_(weights, sizes)
        else:
            norm = self._groups.norm()
            factor = torch.clamp(1 - threshold * self._root / norm.clamp(min=1e-30), min=0)
            self._groups.scale_(factor)


class Directional(Method[Settings]):
    """gRDA on one network. See :class:`mipprune.methods.base.Method`.

    Raises
    ------
    InputError
        If SGD's momentum is asked for: the method's theory has none.
    """

    LOG: ClassVar[Log] = {
        "threshold": LogEntry("threshold of the weights", "threshold"),
        "c": LogEntry("constant c of the threshold", "c"),
        "zero": LogEntry("groups at zero", "share of the groups", "groups at zero %", 100.0),
    }
    needs_budget = False

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        if task.optimizer.momentum:
            raise InputError(
                "method=directional is an optimizer without momentum: set optimizer.momentum=0"
            )
        groups = task.groups
        members = groups.scales() if settings.weights == "scales" else groups.producers()
        self._weights = GroupRows(task.parameters, members, groups.count)
        self._optimizer: GRDA | None = None

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """gRDA, which takes the place of SGD."""
        given = self.settings
        self._optimizer = GRDA(
            parameters,
            0.0,  # set at every step
            given.c,
            given.mu,
            groups=self._weights,
            period=given.period,
            weight_decay=self.task.optimizer.weight_decay,
        )
        return self._optimizer

    def adapt(self) -> None:
        """With a budget that the groups at zero do not meet, a stronger threshold."""
        if self.target is None:
            return
        unit, share = self.target
        cost = self.task.cost
        if cost.value(remove_below(cost, self.scores(), 0.0), unit) > share * cost.dense[unit]:
            self._running()["c"] *= self.settings.growth

    def _running(self) -> dict[str, Any]:
        """The optimizer's c and threshold, as they are now."""
        if self._optimizer is None:
            raise RuntimeError("nothing is trained yet: the optimizer was not asked for")
        (settings,) = self._optimizer.param_groups
        return settings

    def scores(self) -> FloatArray:
        """‖w_j‖/√d_j, (groups,)."""
        return (self._weights.norm() / self._weights.sizes().sqrt()).double().cpu().numpy()

    def select(self) -> BoolArray:
        """The groups other than zero; with a budget that they exceed, fewer, by norm."""
        cost = self.task.cost
        kept = remove_below(cost, self.scores(), 0.0)
        if self.target is None:
            return kept
        unit, share = self.target
        free = self.task.budget.multiple == 1 and self.task.budget.floor == 0
        met = cost.value(kept, unit) <= share * cost.dense[unit]
        return kept if met and free else super().select()

    def log(self) -> dict[str, float]:
        """The threshold g, c, and the share of groups at zero."""
        settings = self._running()
        zero = float((self._weights.norm() == 0).float().mean())
        return {"threshold": settings["threshold"], "c": settings["c"], "zero": zero}

    def facts(self) -> dict[str, Any]:
        """The threshold at the end, and c."""
        settings = self._running()
        return {"threshold": settings["threshold"], "c": settings["c"]}


METHOD = Directional
