"""The two exact pruning problems of a small ReLU network.

    select   weights fixed:             min_y    Σ loss(f(x_i; y), T_i) + Σ_lk c_lk y_lk
    train    weights W on a grid too:   min_W,y  Σ loss(f(x_i; W, y), T_i) + Σ_lk c_lk y_lk

Here are their data, the objective of a choice by a forward pass, and heuristics for a first
incumbent; their MILPs are in :mod:`formulations.relu.milp`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import ClassVar

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.relu import heuristics, milp
from formulations.relu.bounds import Bounds, interval_bounds
from formulations.relu.losses import L1, find_loss
from formulations.relu.milp import Assignment, Pause
from formulations.relu.network import Network, Support
from formulations.solving.deadline import Deadline

Price = float | Sequence[float] | Sequence[Sequence[float]]
# Random starts of the training heuristic.
_STARTS = 50
# Outputs of all choices that are computed in seconds.
_COUNTABLE = 2**30


class _Problem(ABC):
    """What both problems share; ``Selection`` and ``Training`` say which layers there are."""

    inputs: FloatArray
    targets: FloatArray
    loss: str
    price: Price
    criterion: L1
    prices: tuple[FloatArray, ...]
    # layers whose bounds by intervals are as tight as those by linear programs
    exact_layers: ClassVar[int]

    def _prepare(self, hidden: Sequence[int], outputs: int) -> None:
        inputs = np.asarray(self.inputs, float)
        if inputs.ndim != 2 or inputs.size == 0:
            raise InputError(f"inputs must be a matrix, one sample a row: shape {inputs.shape}")
        if not np.isfinite(inputs).all():
            raise InputError("inputs hold a number that is not finite")
        loss = find_loss(self.loss)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "criterion", loss)
        object.__setattr__(self, "targets", loss.targets(self.targets, len(inputs), outputs))
        object.__setattr__(self, "prices", _prices(self.price, hidden))

    def objective(self, network: Network, support: Support) -> float:
        """Loss + prices of a full-width network of which ``support`` is kept."""
        loss = self.criterion.value(network.forward(self.inputs, support), self.targets)
        return loss + self.price_of(support)

    def price_of(self, support: Support) -> float:
        """Σ c_lk over the kept units."""
        return float(sum(c @ keep for c, keep in zip(self.prices, support, strict=True)))

    def model(self, bounds: Bounds | None = None, pause: Pause = lambda: None) -> pyo.ConcreteModel:
        """State the big-M MILP, with these bounds or those of interval arithmetic.

        See :mod:`formulations.relu.milp` for its algebra. ``pause`` is called now and then, what it
        raises breaks the work off.
        """
        bounds = bounds or self.interval_bounds()
        model = self.layers(self.inputs, bounds, pause)
        milp.state_objective(model, self.criterion, self.targets, self.prices, bounds)
        return model

    def lp_bounds(self, bounds: Bounds | None = None, deadline: Deadline | None = None) -> Bounds:
        """Tighten bounds by linear programs; see :func:`formulations.relu.milp.lp_bounds`."""
        bounds = bounds or self.interval_bounds()
        return milp.lp_bounds(self.head, bounds, self.exact_layers, deadline)

    @abstractmethod
    def interval_bounds(self) -> Bounds:
        """Bounds on every z by interval arithmetic."""

    @abstractmethod
    def layers(
        self, inputs: FloatArray, bounds: Bounds, pause: Pause = lambda: None
    ) -> pyo.ConcreteModel:
        """State the MILP's layers for (n, n_in) inputs, without an objective."""

    @abstractmethod
    def head(self, layers: int, sample: int, bounds: Bounds) -> pyo.ConcreteModel:
        """State the first layers for one sample, the last of them as the output."""

    @abstractmethod
    def first_choice(self, deadline: Deadline) -> tuple[Network, Support]:
        """A good choice by a heuristic, that is content with less when its time is over."""

    @abstractmethod
    def nothing(self) -> tuple[Network, Support]:
        """The choice that keeps no unit."""

    @abstractmethod
    def in_order(self, network: Network, support: Support) -> tuple[Network, Support]:
        """The choice with its interchangeable units in the MILP's order."""

    @abstractmethod
    def read(self, model: pyo.ConcreteModel) -> tuple[Network, Support]:
        """The choice that the values of the model's variables make."""

    @abstractmethod
    def assign(
        self, model: pyo.ConcreteModel, network: Network, support: Support
    ) -> list[Assignment]:
        """(variable, value) of the binary variables for a choice in the MILP's order."""


@dataclass(frozen=True, eq=False)
class Selection(_Problem):
    """Which hidden units of a trained network to keep, its weights as they are.

    Parameters
    ----------
    network : Network
    inputs : (n, n_in) array
    targets : (n, n_out) array
        Or (n,) for one output; for the hinge loss ±1, or class numbers (n,).
    loss : {"l1", "hinge", "squared"}
        Summed over samples and outputs.
    price : float, or one a hidden layer, or one a unit of every layer
        c ≥ 0 of keeping a unit.

    Raises
    ------
    InputError
        Naming what does not fit.
    """

    network: Network
    inputs: FloatArray
    targets: FloatArray
    loss: str = "l1"
    price: Price = 0.1
    criterion: L1 = field(init=False, repr=False)
    prices: tuple[FloatArray, ...] = field(init=False, repr=False)

    # pre-activations of the first layer are numbers, and the second is affine in the indicators
    # alone: intervals say there what linear programs would
    exact_layers = 2

    def __post_init__(self) -> None:
        self._prepare(self.network.hidden, self.network.outputs)
        if self.inputs.shape[1] != self.network.inputs:
            raise InputError(
                f"inputs have {self.inputs.shape[1]} features: the network takes "
                f"{self.network.inputs}"
            )

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        return self.network.hidden

    @cached_property
    def useful(self) -> Support:
        """The units that some sample may activate; the others do nothing but cost."""
        bounds = self.interval_bounds()
        return tuple(upper.max(axis=0) > 0 for upper in bounds.upper[:-1])

    @property
    def countable(self) -> bool:
        """Whether all choices of useful units can be tried in seconds."""
        units = sum(int(useful.sum()) for useful in self.useful)
        return units + np.log2(self.targets.size) <= np.log2(_COUNTABLE)

    def interval_bounds(self) -> Bounds:
        """Bounds on every z by interval arithmetic."""
        return interval_bounds(self.inputs, self.network, self.network)

    def layers(
        self, inputs: FloatArray, bounds: Bounds, pause: Pause = lambda: None
    ) -> pyo.ConcreteModel:
        """State the MILP's layers for (n, n_in) inputs, without an objective."""
        return milp.selection_layers(self.network, inputs, bounds, pause)

    def head(self, layers: int, sample: int, bounds: Bounds) -> pyo.ConcreteModel:
        """State the first layers for one sample, the last of them as the output."""
        cut = Bounds(bounds.lower[:layers], bounds.upper[:layers])
        inputs = self.inputs[sample : sample + 1]
        return milp.selection_layers(self.network.head(layers), inputs, cut, lambda: None)

    def first_choice(self, deadline: Deadline) -> tuple[Network, Support]:
        """A good support: from all units and from none, the best flip or swap until none helps."""
        sizes = np.cumsum(self.hidden)[:-1]
        total = sum(self.hidden)

        def value(keep: BoolArray) -> float:
            return self.objective(self.network, tuple(np.split(keep, sizes)))

        moves = [*combinations(range(total), 1), *combinations(range(total), 2)]
        found = []
        for keep in (np.ones(total, bool), np.zeros(total, bool)):
            best = value(keep)
            while moves and not deadline.over:
                trials = []
                for move in moves:
                    if deadline.over:
                        break
                    trial = _flipped(keep, move)
                    trials.append((value(trial), move))
                least, move = min(trials, default=(best, ()))
                if least >= best:
                    break
                keep, best = _flipped(keep, move), least
            found.append((best, tuple(np.split(keep, sizes))))
        return self.network, min(found, key=lambda pair: pair[0])[1]

    def nothing(self) -> tuple[Network, Support]:
        """The choice that keeps no unit."""
        return self.network, tuple(np.zeros(width, bool) for width in self.hidden)

    def in_order(self, network: Network, support: Support) -> tuple[Network, Support]:
        """As it is: no units are interchangeable."""
        return network, support

    def read(self, model: pyo.ConcreteModel) -> tuple[Network, Support]:
        """The choice that the values of the model's variables make."""
        return self.network, milp.read_support(model, self.hidden)

    def assign(
        self, model: pyo.ConcreteModel, network: Network, support: Support
    ) -> list[Assignment]:
        """(variable, value) of the binary variables for a choice in the MILP's order."""
        return milp.choice(model, network.pre_activations(self.inputs, support), support)


@dataclass(frozen=True, eq=False)
class Training(_Problem):
    """Weights on a grid and the hidden units to keep, at once.

    Parameters
    ----------
    inputs, targets, loss, price
        As in :class:`Selection`.
    hidden : sequence of int
        Units that each hidden layer has at most.
    step, limit : float
        Weights and biases are multiples of ``step`` from −``limit`` to ``limit``, itself one.
    outputs : int, optional
        Outputs of the network; needed with class numbers as targets.

    Raises
    ------
    InputError
        Naming what does not fit.
    """

    inputs: FloatArray
    targets: FloatArray
    hidden: Sequence[int]
    loss: str = "l1"
    price: Price = 0.1
    step: float = 0.5
    limit: float = 2.0
    outputs: int | None = None
    criterion: L1 = field(init=False, repr=False)
    prices: tuple[FloatArray, ...] = field(init=False, repr=False)

    exact_layers = 1  # a first layer is a box of weights, of which intervals say everything

    def __post_init__(self) -> None:
        widths = tuple(self.hidden)
        if not widths or not all(isinstance(n, int | np.integer) and n > 0 for n in widths):
            raise InputError(f"hidden must be positive whole numbers: it is {list(widths)}")
        if not (np.isfinite(self.step) and np.isfinite(self.limit) and 0 < self.step <= self.limit):
            raise InputError(
                f"the grid needs 0 < step ≤ limit: they are {self.step:g} and {self.limit:g}"
            )
        if abs(self.half * self.step - self.limit) > 1e-9 * self.limit:
            raise InputError(f"limit {self.limit:g} is not a multiple of step {self.step:g}")
        object.__setattr__(self, "hidden", widths)
        outputs = self.outputs
        if outputs is None:
            shape = np.shape(self.targets)
            outputs = int(shape[1]) if len(shape) == 2 else 1
        object.__setattr__(self, "outputs", outputs)
        self._prepare(widths, outputs)

    @property
    def half(self) -> int:
        """Grid points above zero."""
        return round(self.limit / self.step)

    @cached_property
    def grid(self) -> FloatArray:
        """The values that a weight may take, ascending."""
        return np.asarray(self.step * np.arange(-self.half, self.half + 1), float)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden units, outputs."""
        return (self.inputs.shape[1], *self.hidden, self.targets.shape[1])

    def interval_bounds(self) -> Bounds:
        """Bounds on every z by interval arithmetic."""
        return interval_bounds(self.inputs, *self._extremes())

    def _extremes(self) -> tuple[Network, Network]:
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        low, high = (
            Network([np.full(s, end) for s in shapes], [np.full(s[0], end) for s in shapes])
            for end in (-self.limit, self.limit)
        )
        return low, high

    def layers(
        self, inputs: FloatArray, bounds: Bounds, pause: Pause = lambda: None
    ) -> pyo.ConcreteModel:
        """State the MILP's layers for (n, n_in) inputs, without an objective."""
        model = milp.training_layers(
            *(self.hidden, self.sizes[-1], self.step, self.half, inputs, bounds, pause)
        )
        milp.break_symmetry(model, self.prices, self.sizes[0], self.half, self.step)
        return model

    def head(self, layers: int, sample: int, bounds: Bounds) -> pyo.ConcreteModel:
        """State the first layers for one sample, the last of them as the output."""
        widths, outputs = self.hidden[: layers - 1], self.sizes[layers]
        cut = Bounds(bounds.lower[:layers], bounds.upper[:layers])
        inputs = self.inputs[sample : sample + 1]
        return milp.training_layers(
            widths, outputs, self.step, self.half, inputs, cut, lambda: None
        )

    def first_choice(self, deadline: Deadline) -> tuple[Network, Support]:
        """A good network: coordinate descent on the grid from random starts (a fixed seed)."""
        return heuristics.grid_descent(self, _STARTS, np.random.default_rng(0), deadline)

    def nothing(self) -> tuple[Network, Support]:
        """The choice that keeps no unit, all its weights and biases zero."""
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        network = Network([np.zeros(shape) for shape in shapes], [np.zeros(n) for n, _ in shapes])
        return network, tuple(np.zeros(width, bool) for width in self.hidden)

    def in_order(self, network: Network, support: Support) -> tuple[Network, Support]:
        """The choice with its interchangeable units in the MILP's order."""
        return heuristics.in_order(self, network, support)

    def read(self, model: pyo.ConcreteModel) -> tuple[Network, Support]:
        """The choice that the values of the model's variables make, weights put on the grid."""
        weights = [np.zeros((n, m + 1)) for m, n in pairwise(self.sizes)]
        for (layer, unit, j), weight in model.weight.items():
            weights[layer][unit, j] = np.round(pyo.value(weight) / self.step) * self.step
        support = milp.read_support(model, self.hidden)
        return Network([w[:, :-1] for w in weights], [w[:, -1] for w in weights]), support

    def assign(
        self, model: pyo.ConcreteModel, network: Network, support: Support
    ) -> list[Assignment]:
        """(variable, value) of the binary variables for a choice in the MILP's order."""
        values = milp.choice(model, network.pre_activations(self.inputs, support), support)
        for (layer, unit, j, t), bit in model.bit.items():
            row = np.append(network.weights[layer][unit], network.biases[layer][unit])
            values.append((bit, float(round(row[j] / self.step) + self.half >> t & 1)))
        return values


def _flipped(keep: BoolArray, move: tuple[int, ...]) -> BoolArray:
    trial = keep.copy()
    trial[list(move)] ^= True
    return trial


def _prices(price: Price, hidden: Sequence[int]) -> tuple[FloatArray, ...]:
    layers: list[ArrayLike] = list(price) if isinstance(price, Iterable) else [price] * len(hidden)
    if len(layers) != len(hidden):
        raise InputError(f"{len(layers)} prices for {len(hidden)} hidden layers: one a layer fits")
    prices = []
    for layer, (value, units) in enumerate(zip(layers, hidden, strict=True)):
        if np.shape(value) not in ((), (units,)):
            raise InputError(
                f"prices of hidden layer {layer} have shape {np.shape(value)}: one number, or "
                f"{units}, fit"
            )
        own = np.broadcast_to(np.asarray(value, float), (units,)).copy()
        if not (np.isfinite(own) & (own >= 0)).all():
            raise InputError(f"prices must be finite and not negative: hidden layer {layer}")
        prices.append(own)
    return tuple(prices)
