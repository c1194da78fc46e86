"""The two exact pruning problems of a small ReLU network.

    select   weights fixed:             min_y    Σ loss(f(x_i; y), T_i) + Σ_lk c_lk y_lk
    train    weights W on a grid too:   min_W,y  Σ loss(f(x_i; W, y), T_i) + Σ_lk c_lk y_lk

Here are their data, the objective of a choice by a forward pass, and heuristics for a first
incumbent; their MILPs are in :mod:`formulations.relu.milp`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from formulations.errors import InputError
from formulations.relu.bounds import Bounds, interval_bounds
from formulations.relu.losses import L1, find_loss
from formulations.relu.network import Network, Support

if TYPE_CHECKING:
    import pyomo.environ as pyo

Price = float | Sequence[float] | Sequence[Sequence[float]]
# Random starts of the training heuristic.
_STARTS = 50


@dataclass(frozen=True, eq=False)
class _Problem:
    """What both problems share; ``Selection`` and ``Training`` say which layers there are."""

    def _prepare(self, outputs: int) -> None:
        inputs = np.asarray(self.inputs, float)
        if inputs.ndim != 2 or inputs.size == 0:
            raise InputError(f"inputs must be a matrix, one sample a row: shape {inputs.shape}")
        if not np.isfinite(inputs).all():
            raise InputError("inputs hold a number that is not finite")
        loss = find_loss(self.loss)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "criterion", loss)
        object.__setattr__(self, "targets", loss.targets(self.targets, len(inputs), outputs))
        object.__setattr__(self, "prices", _prices(self.price, self.hidden))

    def objective(self, network: Network, support: Support) -> float:
        """Loss + prices of a full-width network of which ``support`` is kept."""
        loss = self.criterion.value(network.forward(self.inputs, support), self.targets)
        return loss + self.price_of(support)

    def price_of(self, support: Support) -> float:
        """Σ c_lk over the kept units."""
        return float(sum(c @ keep for c, keep in zip(self.prices, support, strict=True)))

    def model(self, bounds: Bounds | None = None) -> pyo.ConcreteModel:
        """The big-M MILP, with these bounds or those of interval arithmetic.

        See :mod:`formulations.relu.milp` for its algebra.
        """
        from formulations.relu import milp as network_models

        bounds = bounds or self.interval_bounds()
        model = self.layers(self.inputs, bounds)
        network_models.state_objective(model, self.criterion, self.targets, self.prices, bounds)
        return model

    def lp_bounds(self, bounds: Bounds | None = None, until: float = math.inf) -> Bounds:
        """Bounds tightened by linear programs; see :func:`network_models.lp_bounds`."""
        from formulations.relu.milp import lp_bounds

        return lp_bounds(self.head, bounds or self.interval_bounds(), self.exact_layers, until)


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
    inputs: np.ndarray
    targets: np.ndarray
    loss: str = "l1"
    price: Price = 0.1
    criterion: L1 = field(init=False, repr=False)
    prices: tuple[np.ndarray, ...] = field(init=False, repr=False)

    # pre-activations of the first layer are numbers, and the second is affine in the indicators
    # alone: intervals say there what linear programs would
    exact_layers = 2

    def __post_init__(self):
        self._prepare(self.network.outputs)
        if self.inputs.shape[1] != self.network.inputs:
            raise InputError(
                f"inputs have {self.inputs.shape[1]} features: the network takes "
                f"{self.network.inputs}"
            )

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        return self.network.hidden

    def interval_bounds(self) -> Bounds:
        """Bounds on every z by interval arithmetic."""
        return interval_bounds(self.inputs, self.network, self.network)

    def layers(self, inputs: np.ndarray, bounds: Bounds) -> pyo.ConcreteModel:
        """The MILP's layers, without an objective."""
        from formulations.relu.milp import selection_layers

        return selection_layers(self.network, inputs, bounds)

    def head(self, layers: int, sample: int, bounds: Bounds) -> pyo.ConcreteModel:
        """The first layers for one sample, the last of them as the output."""
        from formulations.relu.milp import selection_layers

        cut = Bounds(bounds.lower[:layers], bounds.upper[:layers])
        return selection_layers(self.network.head(layers), self.inputs[sample : sample + 1], cut)

    def first_choice(self, until: float = math.inf) -> tuple[Network, Support]:
        """A good support: from all units and from none, the best flip or swap until none helps.

        ``until`` is the value of ``time.perf_counter`` at which to be content.
        """
        sizes = np.cumsum(self.hidden)[:-1]
        total = sum(self.hidden)

        def value(keep: np.ndarray) -> float:
            return self.objective(self.network, tuple(np.split(keep, sizes)))

        moves = [*combinations(range(total), 1), *combinations(range(total), 2)]
        found = []
        for keep in (np.ones(total, bool), np.zeros(total, bool)):
            best = value(keep)
            while moves and time.perf_counter() < until:
                trials = [_flipped(keep, move) for move in moves]
                values = [value(trial) for trial in trials]
                at = int(np.argmin(values))
                if values[at] >= best:
                    break
                keep, best = trials[at], values[at]
            found.append((best, tuple(np.split(keep, sizes))))
        return self.network, min(found, key=lambda pair: pair[0])[1]

    def nothing(self) -> tuple[Network, Support]:
        """The choice that keeps no unit."""
        return self.network, tuple(np.zeros(width, bool) for width in self.hidden)

    def in_order(self, network: Network, support: Support) -> tuple[Network, Support]:
        """The choice as the MILP would have it: as it is."""
        return network, support

    def read(self, model: pyo.ConcreteModel) -> tuple[Network, Support]:
        """The choice that the values of the model's variables make."""
        return self.network, read_support(model, self.hidden)

    def assign(self, model: pyo.ConcreteModel, network: Network, support: Support) -> list:
        """(variable, value) of the binary variables for a choice."""
        from formulations.relu.milp import choice

        return choice(model, network.pre_activations(self.inputs, support), support)


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

    inputs: np.ndarray
    targets: np.ndarray
    hidden: Sequence[int]
    loss: str = "l1"
    price: Price = 0.1
    step: float = 0.5
    limit: float = 2.0
    outputs: int | None = None
    criterion: L1 = field(init=False, repr=False)
    prices: tuple[np.ndarray, ...] = field(init=False, repr=False)

    exact_layers = 1  # a first layer is a box of weights, of which intervals say everything

    def __post_init__(self):
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
        if self.outputs is None:
            shape = np.shape(self.targets)
            object.__setattr__(self, "outputs", shape[1] if len(shape) == 2 else 1)
        self._prepare(self.outputs)

    @property
    def half(self) -> int:
        """Grid points above zero."""
        return round(self.limit / self.step)

    @cached_property
    def grid(self) -> np.ndarray:
        """The values that a weight may take, ascending."""
        return self.step * np.arange(-self.half, self.half + 1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden units, outputs."""
        return (self.inputs.shape[1], *self.hidden, self.outputs)

    def interval_bounds(self) -> Bounds:
        """Bounds on every z by interval arithmetic."""
        return interval_bounds(self.inputs, *self._extremes())

    def _extremes(self) -> tuple[Network, Network]:
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        return tuple(
            Network([np.full(s, end) for s in shapes], [np.full(s[0], end) for s in shapes])
            for end in (-self.limit, self.limit)
        )

    def layers(self, inputs: np.ndarray, bounds: Bounds) -> pyo.ConcreteModel:
        """The MILP's layers, without an objective."""
        from formulations.relu.milp import break_symmetry, training_layers

        model = training_layers(self.hidden, self.outputs, self.step, self.half, inputs, bounds)
        break_symmetry(model, self.prices, self.sizes[0], self.half, self.step)
        return model

    def head(self, layers: int, sample: int, bounds: Bounds) -> pyo.ConcreteModel:
        """The first layers for one sample, the last of them as the output."""
        from formulations.relu.milp import training_layers

        widths, outputs = self.hidden[: layers - 1], self.sizes[layers]
        cut = Bounds(bounds.lower[:layers], bounds.upper[:layers])
        inputs = self.inputs[sample : sample + 1]
        return training_layers(widths, outputs, self.step, self.half, inputs, cut)

    def first_choice(self, until: float = math.inf) -> tuple[Network, Support]:
        """A good network: coordinate descent on the grid from random starts (a fixed seed).

        No descent starts after ``until``, a value of ``time.perf_counter``.
        """
        from formulations.relu.heuristics import grid_descent

        return grid_descent(self, _STARTS, np.random.default_rng(0), until)

    def nothing(self) -> tuple[Network, Support]:
        """The choice that keeps no unit, all its weights and biases zero."""
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        network = Network([np.zeros(shape) for shape in shapes], [np.zeros(n) for n, _ in shapes])
        return network, tuple(np.zeros(width, bool) for width in self.hidden)

    def in_order(self, network: Network, support: Support) -> tuple[Network, Support]:
        """The choice with its interchangeable units in the MILP's order."""
        from formulations.relu.heuristics import in_order

        return in_order(self, network, support)

    def read(self, model: pyo.ConcreteModel) -> tuple[Network, Support]:
        """The choice that the values of the model's variables make, weights put on the grid."""
        import pyomo.environ as pyo

        weights = [np.zeros((n, m + 1)) for m, n in pairwise(self.sizes)]
        for (layer, unit, j), weight in model.weight.items():
            weights[layer][unit, j] = np.round(pyo.value(weight) / self.step) * self.step
        support = read_support(model, self.hidden)
        return Network([w[:, :-1] for w in weights], [w[:, -1] for w in weights]), support

    def assign(self, model: pyo.ConcreteModel, network: Network, support: Support) -> list:
        """(variable, value) of the binary variables for a choice in the MILP's order."""
        from formulations.relu.milp import choice

        values = choice(model, network.pre_activations(self.inputs, support), support)
        for (layer, unit, j, t), bit in model.bit.items():
            row = np.append(network.weights[layer][unit], network.biases[layer][unit])
            values.append((bit, float(round(row[j] / self.step) + self.half >> t & 1)))
        return values


def read_support(model: pyo.ConcreteModel, hidden: Sequence[int]) -> Support:
    """Which units have y above ½."""
    return tuple(
        np.array([model.y[layer, unit].value > 0.5 for unit in range(width)], bool)
        for layer, width in enumerate(hidden)
    )


def _flipped(keep: np.ndarray, move: tuple[int, ...]) -> np.ndarray:
    trial = keep.copy()
    trial[list(move)] ^= True
    return trial


def _prices(price: Price, hidden: Sequence[int]) -> tuple[np.ndarray, ...]:
    layers = list(price) if np.iterable(price) else [price] * len(hidden)
    if len(layers) != len(hidden):
        raise InputError(f"{len(layers)} prices for {len(hidden)} hidden layers: one a layer fits")
    prices = []
    for layer, (value, units) in enumerate(zip(layers, hidden, strict=True)):
        if np.shape(value) not in ((), (units,)):
            raise InputError(
                f"prices of hidden layer {layer} have shape {np.shape(value)}: one number, or "
                f"{units}, fit"
            )
        value = np.broadcast_to(np.asarray(value, float), (units,)).copy()
        if not (np.isfinite(value) & (value >= 0)).all():
            raise InputError(f"prices must be finite and not negative: hidden layer {layer}")
        prices.append(value)
    return tuple(prices)
