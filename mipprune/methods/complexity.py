"""Complexity-aware training with Bernoulli gates (Guenter & Sideris 2024, arXiv 2411.09127).

Independent gates ξ ~ Bernoulli(θ) multiply channels (units) and residual branches (blocks):

    J(W, θ) = E_ξ[L] + decay/2·‖W‖² + ν·C(θ),     C = σ·C_blocks + (1 − σ)·C_units,
    each of the two κ·E[MACs]/MACs₀ + (1 − κ)·E[params]/params₀.

C_blocks is the expectation over the blocks' gates with all channels there, C_units over the
channels' gates with all blocks there. θ moves by projected SGD on [0, 1], ∂E[L]/∂θ estimated from
∂L/∂ξ at samples (mipprune.methods.shared.gates.difference). J is multilinear in θ, so its minima
are deterministic networks. What a gate at 0 multiplies is removed for good while training goes on:
the step gets cheaper. From scratch; the weights' decay is the optimizer's.

Of the paper only the abstract was at hand (and that of its companion, arXiv 2406.04549, where gates
are on layers): this cost and the estimator are our reconstruction. So is the budget, for which ν is
steered along a straight line from the dense cost to the budget's, below which no gate falls.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import ADAPTATIONS, Method, Task
from mipprune.methods.shared.gates import ExpectedCost, Gates, difference, sample
from mipprune.penalties.rows import GroupRows
from mipprune.runs.log import Log, LogEntry
from mipprune.structure.allocation import remove_below
from mipprune.structure.cost import Cost

_MEMORY = 0.98  # of the running mean of ∂J/∂θ, a step
_STEER = 1.05  # factor by which ν answers to a cost off its line, up or down
_ARRIVAL = 0.6  # share of the phase after which the line is at the budget


class Settings(MethodConfig):
    """Complexity-aware training."""

    name: Literal["complexity"] = "complexity"
    nu: float = Field(1.0, ge=0, description="ν, weight of the complexity; with a budget, at first")
    sigma: float = Field(
        0.5, ge=0, le=1, description="σ, share of whole blocks in the complexity; 0: channels only"
    )
    kappa: float = Field(
        1.0, ge=0, le=1, description="κ, share of MACs in the complexity, the rest is parameters"
    )
    theta: float = Field(0.9, gt=0, le=1, description="θ of every gate at the start")
    rate: float = Field(
        0.01,
        gt=0,
        description="learning rate of θ: what a gate loses a step at ν = 1 if the loss does not "
        "need it; falls with the phase's learning rate",
    )
    explore: float = Field(
        0.1, gt=0, lt=0.5, description="least probability of either value of a gate in a sample"
    )
    begin: float = Field(
        0.1, ge=0, lt=1, description="share of the phase after which the gates begin to move"
    )
    close: float = Field(
        0.1, ge=0, lt=1, description="share of the phase, at its end, in which open gates close"
    )


class Complexity(Method[Settings]):
    """Gates on one network. See :class:`mipprune.methods.base.Method`.

    Raises
    ------
    InputError
        If single weights are to be pruned, or σ > 0 and the network has no removable blocks.
    """

    LOG: ClassVar[Log] = {
        "nu": LogEntry("price ν of the cost", "ν"),
        "expected_macs": LogEntry(
            "expected cost", "share of the dense network", "kept MACs %", 100.0
        ),
        "expected_params": LogEntry("expected cost", "share of the dense network"),
        "open_gates": LogEntry("gates neither open nor closed", "gates"),
        "groups": LogEntry("groups left", "groups"),
        "blocks": LogEntry("residual blocks left", "blocks"),
    }
    needs_budget, removes_blocks, changes_forward = False, True, True

    def __init__(self, settings: Settings, task: Task) -> None:
        super().__init__(settings, task)
        _channel_cost(task)
        if settings.sigma > 0 and not task.groups.blocks and not task.resumed:
            raise InputError(
                f"method.sigma={settings.sigma:g} asks for gates on residual blocks: this network "
                "has none that can be removed; set method.sigma=0"
            )
        if settings.sigma == 0 and task.granularity == "block":
            raise InputError("granularity=block asks for gates on blocks: set method.sigma > 0")
        self.nu, self.step, self._adapted = settings.nu, 0, 0
        self._dense = dict(task.cost.dense)
        self._top = 0.0  # highest learning rate so far
        self._met = False  # whether the expected cost is below its line to the budget
        self._attach(task)
        # gates of any size move alike: a diagonal preconditioner, which moves no minimum
        self._scale = 1 / self.complexity_gradient()
        self.gates.theta.fill_(settings.theta)
        self._mean = torch.zeros_like(self.gates.theta)  # of ∂J/∂θ, over the last steps

    def _attach(self, task: Task) -> None:
        self.task, cost = task, _channel_cost(task)
        sigma = self.settings.sigma
        self._device = next(task.network.parameters()).device
        self.gates = Gates(task.network, task.groups, units=sigma < 1, blocks=sigma > 0)
        self._cost = {
            unit: ExpectedCost(cost, unit, self._dense[unit]) for unit in ("macs", "params")
        }

    # ---- training -------------------------------------------------------------------------------

    def before_step(self) -> None:
        """Draw the gates of every image."""
        generator = torch.Generator().manual_seed(self.task.seed * 1_000_003 + self.step)
        drawn = sample(self._probability(), self.task.batch, generator)
        self.gates.values = drawn.requires_grad_(True)

    def before_pass(self, images: slice) -> None:
        """Hand the gates of these images to the network."""
        self.gates.select(images)

    def _probability(self) -> torch.Tensor:
        """θ, so far from 0 and 1 that both values of a gate are seen."""
        explore = self.settings.explore
        return self.gates.theta.clamp(explore, 1 - explore)

    def after_step(self, lr: float) -> None:
        """θ ← clip(θ − η·∂J/∂θ, 0, 1); a gate that reached 0 stays there."""
        self.step += 1
        self._top = max(self._top, lr)
        if self.step <= self.settings.begin * self.task.steps or not len(self.gates.theta):
            return
        theta, values = self.gates.theta, self.gates.values
        if values.grad is None:
            raise RuntimeError("the gates of this step took no part in the loss")
        gradient = difference(values.grad, values.detach(), self._probability())
        gradient = self.task.ranks.mean_(gradient)
        gradient += self.nu * self.complexity_gradient()
        self._mean.lerp_(gradient, 1 - _MEMORY)
        left = self.task.steps - self.step
        if left >= self.settings.close * self.task.steps:
            move = self.settings.rate * lr / self._top * self._scale * gradient
            move = move.clamp(max=0) if self._met else move
        else:
            down = self._closes()
            move = torch.where(down, theta, theta - 1) / (left + 1)
        self.gates.theta = torch.where(theta > 0, (theta - move).clamp(0, 1), 0.0)

    def _closes(self) -> torch.Tensor:
        """Which gates end at 0.

        Of a multilinear J every θ has its minimum at an end, that to which −∂J/∂θ points. Once a
        budget is met, those below ½.
        """
        if self.target is not None:
            unit, share = self.target
            if self.task.cost.value(self._alive(0.5), unit) <= share * self._dense[unit]:
                return self.gates.theta < 0.5
        return self._mean > 0

    def complexity(self, theta: torch.Tensor) -> torch.Tensor:
        """C(θ), a scalar in float64."""
        sigma, kappa = self.settings.sigma, self.settings.kappa
        units, blocks = self._split(theta.double().cpu())
        total = torch.zeros((), dtype=torch.float64)
        for unit, share in (("macs", kappa), ("params", 1 - kappa)):
            if share == 0:
                continue
            cost = self._cost[unit]
            if sigma > 0:
                total = total + share * sigma * cost.value(torch.ones_like(units), blocks)
            if sigma < 1:
                total = total + share * (1 - sigma) * cost.value(units, torch.ones_like(blocks))
        return total

    def complexity_gradient(self) -> torch.Tensor:
        """∂C/∂θ, (gates,)."""
        if not len(self.gates.theta):  # all removed
            return self.gates.theta
        theta = self.gates.theta.clone().double().cpu().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.complexity(theta), theta)
        return gradient.to(self.gates.theta)

    def _split(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """θ of the channels and of the blocks; 1 where they have no gates."""
        groups = self.task.groups
        count = self.gates.units
        units = theta[:count] if count else theta.new_ones(groups.count)
        blocks = theta[count:]
        return units, blocks if len(blocks) else theta.new_ones(len(groups.blocks))

    def _expected(self, unit: str) -> float:
        """Share of the dense cost that is expected to stay, all gates taken together."""
        units, blocks = self._split(self.gates.theta.double().cpu())
        return float(self._cost[unit].value(units, blocks))

    def adapt(self) -> None:
        """With a budget, steer ν; while the expected cost is below its line no gate falls."""
        self._adapted += 1
        if self.target is None:
            return
        unit, share = self.target
        begin = self.settings.begin * ADAPTATIONS
        travelled = (self._adapted - begin) / (_ARRIVAL * ADAPTATIONS - begin)
        line = 1 - (1 - share) * min(1.0, max(0.0, travelled))
        self._met = self._expected(unit) <= line
        self.nu *= 1 / _STEER if self._met else _STEER

    # ---- removal --------------------------------------------------------------------------------

    def survivors(self) -> BoolArray | None:
        """The groups without a gate at 0, if others are left in the network."""
        kept = self._alive(0.0)
        if units := self.gates.units:  # what its layer cannot do without is open
            theta = self.gates.theta[:units]
            theta[torch.from_numpy(kept).to(theta.device) & (theta == 0)] = 1
        return None if kept.all() else kept

    def _alive(self, threshold: float) -> BoolArray:
        """Groups whose gate and whose block's gate are above a threshold.

        A layer is emptied only with its block, where blocks may go.
        """
        groups = self.task.groups
        units, blocks = (part.cpu().numpy() for part in self._split(self.gates.theta))
        kept = remove_below(self.task.cost, units, threshold)
        if self.settings.sigma > 0:
            dead = groups.emptied(units > threshold)
            for value, (name, inner) in zip(blocks, groups.blocks.items(), strict=True):
                if value <= threshold or name in dead:
                    kept[inner] = False
        return kept

    def follow(self, task: Task, kept: BoolArray) -> None:
        """Gates of what is left, θ with them; those that a layer cannot do without open."""
        old_blocks = list(self.task.groups.blocks)
        self.gates.remove()
        stay = list(kept) if self.gates.units else []
        if self.settings.sigma > 0:
            stay += [name in task.groups.blocks for name in old_blocks]
        chosen = torch.tensor(stay, device=self._device)
        theta = self.gates.theta[chosen]
        self._scale, self._mean = self._scale[chosen], self._mean[chosen]
        self._attach(task)
        self.gates.theta = torch.where(theta > 0, theta, 1.0)

    def detach(self) -> None:
        """Remove the gates."""
        self.gates.remove()

    def scores(self) -> FloatArray:
        """θ of every group, times its block's; the norm of its scales decides between equals."""
        units, blocks = (part.double().numpy() for part in self._split(self.gates.theta.cpu()))
        scores = units.copy()
        for value, inner in zip(blocks, self.task.groups.blocks.values(), strict=True):
            scores[inner] *= value
        weights = GroupRows(self.task.parameters, self.task.groups.scales(), len(scores))
        norm = weights.norm().double().cpu().numpy()
        return scores + 1e-6 * norm / norm.max()

    def select(self) -> BoolArray:
        """Groups with gates above ½; with a budget that they exceed, fewer, by θ."""
        kept = self._alive(0.5)
        if self.target is None:
            return kept
        unit, share = self.target
        cost = self.task.cost
        if cost.value(kept, unit) > share * self._dense[unit]:
            # what a gate has closed stays closed, though a threshold would empty no layer
            kept &= self.within_budget(np.where(kept, self.scores(), 0), self._dense[unit])
        return self.task.groups.settle(kept)

    # ---- records --------------------------------------------------------------------------------

    def log(self) -> dict[str, float]:
        """ν, the expected cost, gates that are neither 0 nor 1, groups and blocks left."""
        return {
            "nu": self.nu,
            "expected_macs": self._expected("macs"),
            "expected_params": self._expected("params"),
            "open_gates": int(((self.gates.theta > 0) & (self.gates.theta < 1)).sum()),
            "groups": self.task.groups.count,
            "blocks": len(self.task.groups.blocks),
        }

    def facts(self) -> dict[str, Any]:
        """Gates that had not ended at 0 or 1, blocks left, and ν."""
        return {
            "open_gates": int(((self.gates.theta > 0) & (self.gates.theta < 1)).sum()),
            "blocks_left": list(self.task.groups.blocks),
            "nu": self.nu,
        }

    def state_dict(self) -> dict[str, Any]:
        """θ, its scale, counters, and the dense cost, which has gone."""
        return {
            **super().state_dict(),
            "theta": self.gates.theta,
            "scale": self._scale,
            "mean": self._mean,
            "nu": self.nu,
            "step": self.step,
            "adapted": self._adapted,
            "top": self._top,
            "met": self._met,
            "dense": self._dense,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self._dense = state["dense"]
        self.gates.remove()
        self._attach(self.task)
        self.gates.theta = state["theta"].to(self._device)
        self._scale, self._mean = (state[name].to(self._device) for name in ("scale", "mean"))
        self.nu, self.step, self._adapted = state["nu"], state["step"], state["adapted"]
        self._top, self._met = state["top"], state["met"]


def _channel_cost(task: Task) -> Cost:
    if not isinstance(task.cost, Cost):
        raise InputError("method=complexity removes channels physically: granularity=link has none")
    return task.cost


METHOD = Complexity
