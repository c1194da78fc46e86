"""Growing regularization, GReg-1 and GReg-2 (Wang, Qin, Zhang & Fu, ICLR 2021, arXiv 2012.09243).

A factor ρ_j for every group adds ρ_j·w to the gradient, after the loss's. Stage by stage:

    pick        GReg-2 only: every K_u steps ρ += δ_pick on all groups, until it is τ_pick; then the
                groups to remove are chosen by L1 norm. GReg-1 chooses them at the start.
    grow        every K_u steps ρ += δ on the groups to remove, until it passes τ, or the kept
                groups of every layer are so many times larger than its other ones; GReg-2
                meanwhile gives the kept a small negative factor, as the official code does.
    stabilise   ρ stays; then the groups are removed.

Defaults are those of the official code (github.com/MingSun-Tse/Regularization-Pruning), ImageNet;
its runs on CIFAR have K_u = 10 and 10 000 steps of stabilising. There GReg-2 stops growing layer by
layer; here growth ends for all layers together, as in GReg-1. A global budget in the place of
ratios by layer, and groups coupled over several layers, are ours.
"""

from __future__ import annotations

import math
from fnmatch import fnmatch
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method, Task
from mipprune.penalties.rows import GroupRows
from mipprune.runs.log import Log, LogEntry
from mipprune.structure.groups import Member

_MOMENTUM = 0.9  # of the magnitude ratio's running average
_LESS = 1 - 1e-9  # so that rounding does not decide whether a sum of δ has passed τ


class Settings(MethodConfig):
    """Growing regularization."""

    name: Literal["greg"] = "greg"
    version: Literal[1, 2] = Field(1, description="GReg-1: choose at once; 2: by response")
    ratios: dict[str, float] = Field(
        {},
        description="share of the groups to remove, by layer or pattern, such as "
        '{"layer1.*.conv1": 0.75}; without it the budget says how many go',
    )
    weights: Literal["filters", "channels"] = Field(
        "filters",
        description="the weights of a channel that are ranked and shrunk: the filters that make "
        "it, or the slices of the next layers that read it",
    )
    growth: float = Field(1e-4, gt=0, description="δ, what ρ grows by")
    ceiling: float = Field(1.0, gt=0, description="τ, at which growth ends")
    pick_growth: float = Field(1e-5, gt=0, description="GReg-2: δ while picking")
    pick_ceiling: float = Field(1e-2, gt=0, description="GReg-2: τ while picking")
    recover: float = Field(-1e-4, le=0, description="GReg-2: ρ of the kept groups during growth")
    every: int = Field(5, ge=1, description="K_u, training steps between two growths")
    magnitude_ratio: float = Field(
        1000.0, gt=1, description="of kept to other groups, in every layer, at which growth ends"
    )
    stabilise: int = Field(40_000, ge=0, description="training steps with ρ held")


class GReg(Method[Settings]):
    """GReg on one network. See :class:`mipprune.methods.base.Method`.

    Raises
    ------
    InputError
        Without trained weights; with neither or both of ratios and a budget; if the regularize
        phase is too short for all stages.
    """

    LOG: ClassVar[Log] = {
        "stage": LogEntry("stage: 0 pick, 1 grow, 2 stabilise", "stage"),
        "factor_max": LogEntry("penalty factor ρ of the groups", "ρ"),
        "factor_min": LogEntry("penalty factor ρ of the groups", "ρ"),
        "magnitude_kept": LogEntry("mean magnitude of the groups", "L1 norm per weight"),
        "magnitude_removed": LogEntry("mean magnitude of the groups", "L1 norm per weight"),
    }
    needs_budget = False

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        if not task.trained:
            raise InputError(
                "method=greg prunes a trained network: give init=WEIGHTS or pretrain.epochs=N"
            )
        if bool(settings.ratios) == (self.target is not None):
            raise InputError("method=greg needs either method.ratios or a budget, one of them")
        if task.granularity == "link" and settings.weights == "channels":
            raise InputError("single weights belong to no channel: set method.weights=filters")
        if not task.resumed:
            self._check_length()
        groups = task.groups
        role = "producer" if settings.weights == "filters" else "consumer"
        parameters = task.parameters
        members = [m for m in groups.members if m.role == role and parameters[m.tensor].dim() > 1]
        self._weights = GroupRows(parameters, members, groups.count)
        self._sizes = self._weights.sizes()
        self._layers = _layers(members)
        self.stage = "pick" if settings.version == 2 else "grow"
        self.factor = torch.zeros(groups.count, dtype=torch.float64, device=self._weights.device)
        self.removed = torch.zeros(groups.count, dtype=torch.bool, device=self._weights.device)
        self.step, self.held = 0, 0
        self.ratio: dict[str, float] = {}
        chosen = self._choose()  # also checks the ratios
        self._affected = self._in_pruned_layers()
        if settings.version == 1:
            self.removed = chosen

    def _check_length(self) -> None:
        given, task = self.settings, self.task
        picks = math.ceil(given.pick_ceiling / given.pick_growth * _LESS)
        picks = picks if given.version == 2 else 0
        height = given.ceiling - picks * given.pick_growth
        updates = picks + math.floor(height / given.growth / _LESS) + 1
        needed = (updates - 1) * given.every + 1 + given.stabilise
        if needed > task.steps:
            raise InputError(
                f"method=greg takes up to {needed:,} training steps, regularize.epochs gives "
                f"{task.steps:,}: raise it, or method.growth, or lower method.stabilise"
            )

    # ---- which groups go ------------------------------------------------------------------------

    def scores(self) -> FloatArray:
        """Mean |w| of every group, (groups,)."""
        return self._magnitude().double().cpu().numpy()

    def _magnitude(self) -> torch.Tensor:
        return self._weights.norm(order=1) / self._sizes

    def _choose(self) -> torch.Tensor:
        """The groups to remove by L1 norm now, (groups,) bool."""
        groups, scores = self.task.groups, self.scores()
        if self.target is not None:
            # comparable between layers: relative to the layer's mean
            relative = np.zeros(len(scores))
            for group in self._layers.values():
                relative[group] = scores[group] / max(scores[group].mean(), 1e-30)
            kept = self.within_budget(relative)
        else:
            kept = np.ones(groups.count, bool)
            for pattern, ratio in self.settings.ratios.items():
                matching = [g for name, g in groups.layers.items() if fnmatch(name, pattern)]
                if not matching or not 0 <= ratio < 1:
                    raise InputError(
                        f"method.ratios {pattern}={ratio:g}: name prunable layers "
                        f"({', '.join(list(groups.layers)[:4])}, …) and a share in [0, 1)"
                    )
                for group in matching:
                    group = group[group >= 0]
                    count = min(math.ceil(ratio * len(group)), len(group) - 1)
                    kept[group[np.argsort(scores[group], kind="stable")[:count]]] = False
        return torch.from_numpy(~kept).to(self._weights.device)

    def select(self) -> BoolArray:
        """The groups to keep, (groups,) bool."""
        return ~self.removed.cpu().numpy()

    # ---- training -------------------------------------------------------------------------------

    def after_backward(self) -> None:
        """Let ρ grow when it is time, and add ρ_j·w to the gradient."""
        if self.stage in ("pick", "grow") and self.step % self.settings.every == 0:
            self._update()
        elif self.stage == "stabilise":
            self.held += 1
            self.done = self.held >= self.settings.stabilise
        self._weights.add_to_gradients_(self.factor)
        self.step += 1

    def _update(self) -> None:
        given = self.settings
        if self.stage == "pick":
            # by the count of updates: sums of δ would drift
            count = self.step // given.every + 1
            self.factor[self._affected] = count * given.pick_growth
            if count >= math.ceil(given.pick_ceiling / given.pick_growth * _LESS):
                self.removed = self._choose()
                self.stage = "grow"
            return
        self.factor += given.growth * self.removed.to(self.factor)
        if given.version == 2:
            self.factor.masked_fill_(~self.removed & self._affected, given.recover)
        if float(self.factor.max()) * _LESS > given.ceiling or self._far_apart():
            self.stage = "stabilise"
            self.done = given.stabilise == 0

    def _in_pruned_layers(self) -> torch.Tensor:
        """Groups of the layers that have a ratio; all groups without ratios, (groups,) bool."""
        inside = torch.full_like(self.removed, not self.settings.ratios)
        for name, group in self.task.groups.layers.items():
            if any(r > 0 and fnmatch(name, p) for p, r in self.settings.ratios.items()):
                inside[group[group >= 0]] = True
        return inside

    def _far_apart(self) -> bool:
        """Whether in every layer the kept groups are ``magnitude_ratio`` times the other ones."""
        if self.task.granularity == "link":  # as in the official code: there it is not looked at
            return False
        # looked at layer by layer: on the CPU, so that a GPU is waited for twice, not for each
        size, removed, far = self._magnitude().cpu(), self.removed.cpu(), True
        for name, group in self._layers.items():
            gone = removed[group]
            if bool(gone.any()) and not bool(gone.all()):
                of = size[group]
                ratio = float(of[~gone].mean() / of[gone].mean().clamp(min=1e-30))
                old = self.ratio.get(name, ratio)
                self.ratio[name] = _MOMENTUM * old + (1 - _MOMENTUM) * ratio
                far &= self.ratio[name] >= self.settings.magnitude_ratio
        return far

    # ---- records --------------------------------------------------------------------------------

    def log(self) -> dict[str, float]:
        """The stage (0 pick, 1 grow, 2 stabilise), the largest and least ρ, the magnitude ratio."""
        size, gone = self._magnitude(), self.removed
        other = float(size[gone].mean()) if bool(gone.any()) else math.nan
        return {
            "stage": ("pick", "grow", "stabilise").index(self.stage),
            "factor_max": float(self.factor.max()),
            "factor_min": float(self.factor.min()),
            "magnitude_kept": float(size[~gone].mean()),
            **({} if math.isnan(other) else {"magnitude_removed": other}),
        }

    def facts(self) -> dict[str, Any]:
        """The stage reached and the steps taken."""
        return {"stage": self.stage, "steps": self.step}

    def state_dict(self) -> dict[str, Any]:
        """Stage, counters, factors and choices."""
        return {
            **super().state_dict(),
            "stage": self.stage,
            "step": self.step,
            "held": self.held,
            "ratio": self.ratio,
            "factor": self.factor,
            "removed": self.removed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.stage, self.step, self.held = state["stage"], state["step"], state["held"]
        self.ratio = dict(state["ratio"])
        device = self._weights.device
        self.factor, self.removed = state["factor"].to(device), state["removed"].to(device)


def _layers(members: list[Member]) -> dict[str, IntArray]:
    """Groups of every tensor, without those of no group."""
    return {m.tensor: np.unique(m.group[m.group >= 0]) for m in members if (m.group >= 0).any()}


METHOD = GReg
