"""Fully connected ReLU networks in NumPy, and the answers of exact pruning for one.

With inputs x, weights W_l ∈ R^{n_l × n_{l−1}} and biases b_l of the layers l = 0 … L−1,

    z_0 = W_0 x + b_0,   h_l = y_l ∘ max(0, z_l),   z_{l+1} = W_{l+1} h_l + b_{l+1},

z_{L−1} is the output, and y_l ∈ {0, 1}^{n_l} says which hidden units are kept. What is solved on
such a network is in :mod:`formulations.relu.solve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.solving.result import Bounded, Status

# Which units of each hidden layer are kept: one (n_l,) bool array a layer.
Support = tuple[BoolArray, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A fully connected network with ReLU between its layers.

    Parameters
    ----------
    weights : sequence of (n_l, n_{l−1}) arrays
        From the inputs to the outputs.
    biases : sequence of (n_l,) arrays

    Raises
    ------
    InputError
        Naming the layer whose shape does not chain, or whose number is not finite.
    """

    weights: Sequence[FloatArray]
    biases: Sequence[FloatArray]

    def __post_init__(self) -> None:
        for name in ("weights", "biases"):
            arrays = tuple(np.array(value, float) for value in getattr(self, name))
            object.__setattr__(self, name, arrays)
        if not self.weights or len(self.weights) != len(self.biases):
            raise InputError(
                f"{len(self.weights)} weight matrices and {len(self.biases)} biases: "
                "equal, positive numbers fit"
            )
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.ndim != 2:
                raise InputError(f"weights[{layer}] must be a matrix: its shape is {weight.shape}")
            if layer and weight.shape[1] != self.weights[layer - 1].shape[0]:
                raise InputError(
                    f"weights[{layer}] takes {weight.shape[1]} inputs, but layer {layer - 1} has "
                    f"{self.weights[layer - 1].shape[0]} units"
                )
            if bias.shape != weight.shape[:1]:
                raise InputError(
                    f"biases[{layer}] has shape {bias.shape}: ({weight.shape[0]},) fits"
                )
            for name, value in (("weights", weight), ("biases", bias)):
                if not np.isfinite(value).all():
                    raise InputError(f"{name}[{layer}] holds a number that is not finite")

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return int(self.weights[0].shape[1])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        return tuple(len(bias) for bias in self.biases[:-1])

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.biases[-1])

    @property
    def everything(self) -> Support:
        """The support that keeps every hidden unit."""
        return tuple(np.ones(units, bool) for units in self.hidden)

    def pre_activations(self, x: FloatArray, support: Support | None = None) -> list[FloatArray]:
        """Compute z_l of every layer, the outputs last: (n, n_l) arrays for inputs (n, n_in).

        Units outside ``support`` have activation 0; their own z is still given.
        """
        return pre_activations(self.weights, self.biases, x, support or self.everything)

    def activations(self, x: FloatArray, support: Support | None = None) -> list[FloatArray]:
        """Compute h_l of every hidden layer, (n, n_l) arrays, 0 for units outside ``support``."""
        support = support or self.everything
        before = self.pre_activations(x, support)[:-1]
        return [np.maximum(0, z) * keep for z, keep in zip(before, support, strict=True)]

    def forward(self, x: FloatArray, support: Support | None = None) -> FloatArray:
        """Outputs (n, n_out) for inputs (n, n_in)."""
        return self.pre_activations(x, support)[-1]

    def prune(self, support: Support) -> Network:
        """The smaller network that is left of the units of ``support``."""
        ends = np.ones(self.inputs, bool), np.ones(self.outputs, bool)
        keep = [ends[0], *support, ends[1]]
        return Network(
            [w[np.ix_(keep[i + 1], keep[i])] for i, w in enumerate(self.weights)],
            [b[keep[i + 1]] for i, b in enumerate(self.biases)],
        )

    def head(self, layers: int) -> Network:
        """The first ``layers`` layers, the last one of them without its ReLU."""
        return Network(self.weights[:layers], self.biases[:layers])


def pre_activations(
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray],
    x: FloatArray,
    support: Support,
) -> list[FloatArray]:
    """Compute z_l of every layer, for arrays that need not be a checked :class:`Network`."""
    before: list[FloatArray] = []
    h = x
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        before.append(h @ weight.T + bias)
        if layer < len(support):
            h = np.maximum(0, before[-1]) * support[layer]
    return before


@dataclass(frozen=True, eq=False)
class NetworkSolution(Bounded):
    """A choice of hidden units (and of weights, in training) with a proved bound.

    Attributes
    ----------
    objective : float
        Loss + prices of the incumbent, from a forward pass of its network.
    bound : float
        Proved lower bound on the optimum. Of an enumeration it holds in exact arithmetic; of HiGHS
        up to its tolerances, for which 1e-7 of it is taken off.
    status : Status
        How the solve ended. Never infeasible: a network without hidden units is always allowed.
    support : tuple of (n_l,) bool arrays
        Kept units of every hidden layer.
    network : Network
        What is left: removed units are physically gone.
    activations : tuple of (n, kept_l) arrays
        Hidden activations of what is left, one array a hidden layer.
    loss : float
        The incumbent's loss alone.
    nodes : int
        Branch-and-bound nodes, over all solves; 0 of an enumeration.
    seconds : float
        Wall time, bounds and heuristics included.
    solver : str
        Engine and form.
    """

    objective: float
    bound: float
    status: Status
    support: Support
    network: Network
    activations: tuple[FloatArray, ...]
    loss: float
    nodes: int
    seconds: float
    solver: str

    @property
    def kept(self) -> int:
        """Number of hidden units kept."""
        return sum(int(keep.sum()) for keep in self.support)


@dataclass(frozen=True, eq=False)
class NetworkRelaxation(Bounded):
    """The linear relaxation of a big-M model, and the network that rounding makes of it.

    The names are those of :class:`formulations.Solution` of a relaxed layer problem.

    Attributes
    ----------
    objective : float
        Value of the relaxation.
    bound : float
        Proved lower bound on it, and so on the optimum, up to HiGHS's tolerances.
    status : Status
        How the solve ended; at a time limit, what was proved until then.
    indicator : tuple of (n_l,) arrays
        y ∈ [0, 1] of the hidden units.
    support : tuple of (n_l,) bool arrays
        Units with y above ½.
    network : Network
        What is left of the units of ``support`` (in training: with the weights on the grid that
        are nearest to the relaxation's).
    rounded : float
        Loss + prices of this network: an upper bound on the optimum.
    seconds : float
        Wall time.
    solver : str
        Engine and form.
    """

    objective: float
    bound: float
    status: Status
    indicator: tuple[FloatArray, ...]
    support: Support
    network: Network
    rounded: float
    seconds: float
    solver: str

    @property
    def kept(self) -> int:
        """Number of hidden units in ``support``."""
        return sum(int(keep.sum()) for keep in self.support)
