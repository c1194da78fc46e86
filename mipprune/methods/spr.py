"""Structured Perspective Regularization (Cacciola, Frangioni, Li & Lodi 2022, arXiv 2206.14056).

Every group of the network pays the projected perspective h of its pruning term
λ·[α·φ(w) + (1−α)·u_j·c·y], u_j the group's own MACs or parameters, mean 1. φ and c are those of a
derivation (formulations.symbolic.derivation): SPR's own is φ = ‖w‖², c = 1, and any other trains
the same way. The keep-score y*(w_j) says which groups stay. With a budget, λ is raised until the
groups above the threshold cost no more than the budget, and the widths are then allocated exactly
(mipprune.structure.allocation): a group is worth c_j·y*(w_j), what the relaxed MIP pays to keep it.
The score alone would charge for a group's cost twice, as c_j is in it already: y* = ‖w_j‖/r*, r*² =
c_j/a for the square.

With granularity=block the indicators of a residual block's channels are nested in the block's own,
y_j ≤ z (formulations.terms.nested; docs/theory.md, "Nested indicators"): a block whose z falls to
the threshold goes as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from formulations.symbolic.catalogue import find
from formulations.symbolic.derivation import Derivation
from formulations.terms.term import Term
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import ADAPTATIONS, Method, Task
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.runs.log import Log, LogEntry
from mipprune.structure.allocation import allocate, remove_below
from mipprune.structure.groups import Groups, Member
from mipprune.structure.widths import WidthOptions


class Settings(MethodConfig):
    """Structured Perspective Regularization, λ·[α·φ(w) + (1−α)·u·c·y], |w| ≤ M·y."""

    name: Literal["spr"] = "spr"
    term: str = Field(
        "square",
        description="φ and c: a name of `mipprune derive --list`, FILE.py:NAME with a derivation, "
        "or an expression in r such as r**3; the square is SPR itself",
    )
    lam: float = Field(0.01, gt=0, description="λ, weight of the regularizer at the start")
    alpha: float = Field(0.1, gt=0, lt=1, description="α, share of the shrinkage, at the start")
    alpha_end: float | None = Field(
        None, gt=0, lt=1, description="α at the end of the phase, reached linearly; null: constant"
    )
    weights: Literal["scales", "all"] = Field(
        "scales",
        description="what a group's norm is of: its BatchNorm weights and biases where it has "
        "them (BatchNorm divides a filter's own norm out), or all weights that produce it",
    )
    unit: Literal["macs", "params"] = Field("macs", description="what u counts; its mean is 1")
    bound: float | None = Field(
        4.0,
        gt=0,
        description="M as a multiple of the layer's initial max |w|; null: no bound. "
        "A term's own bound comes first",
    )
    block_price: float = Field(
        0.3,
        gt=0,
        description="granularity=block: price of a residual block beside its channels', "
        "as a share of theirs together",
    )
    step: Literal["proximal", "gradient"] = Field(
        "proximal", description="proximal step (exact zeros) or gradient added after backward"
    )
    threshold: float = Field(
        0.01, ge=0, lt=1, description="a group counts as removed at a keep-score y* up to this"
    )
    growth: float = Field(
        1.05, ge=1, description="with a budget: λ grows by this, up to 100 times, until it is met"
    )
    lam_end: float | None = Field(
        None,
        gt=0,
        description="without a budget: λ at the end of the phase, reached geometrically; "
        "null: constant",
    )


class Spr(Method[Settings]):
    """SPR on one network. See :class:`mipprune.methods.base.Method`.

    With neither a budget of MACs nor of parameters, groups below the threshold are removed.

    Raises
    ------
    InputError
        If the budget cannot be met by this network, or the term cannot be used.
    """

    LOG: ClassVar[Log] = {
        "lam": LogEntry("weight λ of the regularizer", "λ"),
        "alpha": LogEntry("α of the term", "α"),
        "penalty": LogEntry("penalty", "penalty"),
        "macs_above_threshold": LogEntry(
            "MACs above the threshold", "share of the dense MACs", "kept MACs %", 100.0
        ),
        "groups_outside_box": LogEntry("groups corrected into their box", "groups"),
        **{
            f"regime_{name}": LogEntry(
                "groups in each regime of the penalty", "share of the groups"
            )
            for name in ("free", "bound", "kept", "zero")
        },
    }
    needs_budget, removes_blocks = False, True

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        groups = task.groups
        size = task.cost.marginal(settings.unit)
        self._size = size / size.mean()
        members = groups.scales() if settings.weights == "scales" else groups.producers()
        derivation = find(settings.term)
        bound = self._bound(derivation, members)
        self.bounds = {
            name: float(bound[group[group >= 0]].max()) for name, group in groups.layers.items()
        }
        self._derivation = derivation
        self.lam, self.alpha, self._adapted = settings.lam, settings.alpha, 0
        self.parts = self._divide(derivation, members, bound)
        like = next(iter(task.parameters.values()))
        self._outside = torch.zeros((), dtype=torch.int64, device=like.device)

    # ---- the regularizer ------------------------------------------------------------------------

    def _divide(
        self, derivation: Derivation, members: list[Member], bound: FloatArray
    ) -> list[PenaltyPart]:
        """The groups by kind of term: those nested in blocks, and all others."""
        count = self.task.groups.count
        if derivation.block_price:  # the term's own: every layer is a block
            blocks = np.zeros(count, int)
            for number, group in enumerate(self.task.groups.layers.values()):
                blocks[group[group >= 0]] = number
            return [PenaltyPart(self, members, np.arange(count), bound, blocks)]
        if self.task.granularity != "block":
            return [PenaltyPart(self, members, np.arange(count), bound)]
        blocks = np.full(count, -1)
        for number, group in enumerate(self.task.groups.blocks.values()):
            blocks[group] = number
        parts = [PenaltyPart(self, members, np.flatnonzero(blocks >= 0), bound, blocks)]
        if (blocks < 0).any():
            parts.append(PenaltyPart(self, members, np.flatnonzero(blocks < 0), bound))
        return parts

    def term(self, chosen: IntArray, bound: FloatArray, blocks: IntArray | None) -> Term:
        """At λ = 1: α·φ and (1 − α)·u·c of the chosen groups, nested in their blocks if given."""
        derivation, alpha = self._derivation, self.alpha
        price = derivation.price * (1 - alpha) * self._size[chosen]
        if blocks is not None:
            _, blocks = np.unique(blocks[chosen], return_inverse=True)
            if derivation.block_price:
                return derivation.nested(blocks, derivation.block_price * (1 - alpha), price, alpha)
            block_price = self.settings.block_price * np.bincount(blocks, price)
            nested = find(self.settings.term, block_price=1.0)
            return nested.nested(blocks, block_price, price, alpha)
        term = derivation.term(price, bound[chosen], alpha)
        if np.isinf(np.minimum(term.radius, term.bound)).any():
            raise InputError(
                f"method.term={self.settings.term}: φ grows too slowly to pay for every group, "
                "whose keep-score would be 0 whatever its weights: lower the price, or give "
                "method.bound"
            )
        return term

    def _bound(self, derivation: Derivation, members: list[Member]) -> FloatArray:
        """M of every group: the term's own, or a multiple of the layer's initial max |w|."""
        count = self.task.groups.count
        if derivation.bounded or derivation.block_price or not self.settings.bound:
            return np.full(count, derivation.bound)
        peaks = _initial_peaks(self.task.parameters, members, count, derivation.ball)
        return peaks * self.settings.bound

    # ---- training -------------------------------------------------------------------------------

    def after_backward(self) -> None:
        """Add the gradient of h, where the configuration asks for gradient steps."""
        if self.settings.step == "gradient":
            for part in self.parts:
                part.penalty.add_gradient_()

    def after_step(self, lr: float) -> None:
        """Proximal step of length lr, or the projection onto the box."""
        for part in self.parts:
            if self.settings.step == "proximal":
                part.penalty.prox_(lr)
            else:
                self._outside += part.penalty.project_()

    def adapt(self) -> None:
        """λ and α by their schedules; done if a budget is met by the groups above the threshold."""
        if self.target is not None:
            unit, share = self.target
            cost = self.task.cost
            self.done = cost.value(self._above_threshold(), unit) <= share * cost.dense[unit]
            if self.done:
                return
            self.lam *= self.settings.growth
        self._adapted += 1
        given = self.settings
        share = min(1.0, self._adapted / ADAPTATIONS)
        if self.target is None and given.lam_end is not None:
            self.lam = given.lam * (given.lam_end / given.lam) ** share
        if given.alpha_end is not None:
            self.alpha = given.alpha + share * (given.alpha_end - given.alpha)
        self.update()

    def update(self) -> None:
        """Hand λ and α on to the penalties."""
        for part in self.parts:
            part.update(self)

    # ---- removal --------------------------------------------------------------------------------

    def select(self) -> BoolArray:
        """The groups to keep, (groups,) bool: of most worth in the budget, or by threshold."""
        if self.target is None:
            return self._above_threshold()
        cost, (unit, share) = self.task.cost, self.target
        dropped, budget = self._dead_blocks(), self.task.budget
        options: WidthOptions = {"multiple": budget.multiple, "floor": budget.floor}
        if dropped is not None:
            left = self.task.groups.settle(~dropped)
            if cost.value(left, unit) <= share * cost.dense[unit]:
                return left
            options["dropped"] = dropped
        worth = self._gather(lambda part: part.unit.price * part.scores())
        return allocate(cost, worth, unit, share, **options)

    def scores(self) -> FloatArray:
        """Keep-scores, not cut at 1, so that they rank the kept groups too."""
        return self._gather(PenaltyPart.scores)

    def _gather(self, function: Callable[[PenaltyPart], FloatArray]) -> FloatArray:
        values = np.zeros(self.task.groups.count)
        for part in self.parts:
            values[part.chosen] = function(part)
        return values

    def _above_threshold(self) -> BoolArray:
        scores, dropped = self.scores(), self._dead_blocks()
        kept = remove_below(self.task.cost, scores, self.settings.threshold)
        return kept if dropped is None else kept & ~dropped

    def _dead_blocks(self) -> BoolArray | None:
        """The channels of the blocks that go as a whole, (groups,) bool."""
        if self.task.granularity != "block":
            return None
        scores = self.scores()
        dropped = np.zeros(len(scores), bool)
        for group in self.task.groups.blocks.values():
            dropped[group] = scores[group].max() <= self.settings.threshold
        return dropped

    # ---- records --------------------------------------------------------------------------------

    def log(self) -> dict[str, float]:
        """λ, h, MACs kept by the threshold, share of the groups in each regime, box corrections."""
        cost, count = self.task.cost, self.task.groups.count
        macs = cost.value(self._above_threshold(), "macs") / cost.dense["macs"]
        shares: dict[str, float] = {}
        for part in self.parts:
            for name, share in part.penalty.regimes().items():
                key = f"regime_{name}"
                shares[key] = shares.get(key, 0.0) + share * len(part.chosen) / count
        outside = int(self._outside)
        self._outside.zero_()
        return {
            "lam": self.lam,
            "alpha": self.alpha,
            "penalty": sum(float(part.penalty.value()) for part in self.parts),
            "macs_above_threshold": macs,
            "groups_outside_box": outside,
            **shares,
        }

    def facts(self) -> dict[str, Any]:
        """λ at the end and the bounds M, by layer."""
        return {"lam": self.lam, "bounds": self.bounds}

    def state_dict(self) -> dict[str, Any]:
        """λ, α, and the initial bounds, which a resumed run cannot measure again."""
        return {
            **super().state_dict(),
            "lam": self.lam,
            "alpha": self.alpha,
            "adapted": self._adapted,
            "bound": torch.from_numpy(self._gather(lambda part: part.bound)),
            "bounds": self.bounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.lam, self.alpha, self._adapted = state["lam"], state["alpha"], state["adapted"]
        self.bounds = state["bounds"]
        for part in self.parts:
            part.bound = state["bound"].numpy()[part.chosen]
        self.update()


class PenaltyPart:
    """The penalty of some of the groups, all with the same kind of term."""

    def __init__(
        self,
        spr: Spr,
        members: list[Member],
        chosen: IntArray,
        bound: FloatArray,
        blocks: IntArray | None = None,
    ) -> None:
        self.chosen, self.bound, self._blocks = chosen, bound[chosen], blocks
        number = np.full(spr.task.groups.count + 1, -1)  # the last for −1
        number[chosen] = np.arange(len(chosen))
        members = [Member(m.tensor, m.axis, number[m.group], m.role) for m in members]
        members = [m for m in members if (m.group >= 0).any()]
        self.unit = self._term(spr)
        groups = Groups(len(chosen), tuple(members))
        self.penalty = GroupPenalty(spr.task.network, groups, self.unit.scaled(spr.lam))

    def _term(self, spr: Spr) -> Term:
        bound = np.full(spr.task.groups.count, np.inf)
        bound[self.chosen] = self.bound
        return spr.term(self.chosen, bound, self._blocks)

    def update(self, spr: Spr) -> None:
        """Take over λ, α and the bounds."""
        like = self.penalty.term.price
        self.unit = self._term(spr)
        self.penalty.term = self.unit.scaled(spr.lam).to(like)

    def scores(self) -> FloatArray:
        """Keep-scores, not cut at 1, (chosen groups,)."""
        return self.penalty.keep_scores()


def _initial_peaks(
    parameters: Mapping[str, nn.Parameter], members: list[Member], count: int, ball: bool
) -> FloatArray:
    """Largest initial |w| over the layers that a group's members belong to, (groups,).

    For a ball the largest initial ‖w‖₂ of a row stands for |w|.
    """
    peak = np.zeros(count)
    for member in members:
        owners = member.group[member.group >= 0]
        weights = parameters[member.tensor].detach().double()
        if ball and member.axis is not None:
            rows = weights.movedim(member.axis, 0).reshape(len(member.group), -1)
            largest = float(rows.norm(dim=1).max())
        else:
            largest = float(weights.abs().max())
        peak[owners] = np.maximum(peak[owners], largest)
    return peak


METHOD = Spr
