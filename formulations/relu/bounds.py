"""ReLU with a keep-indicator as linear constraints, and bounds on what goes into it.

The big-M form of a ReLU (Fischetti & Jo 2018; Tjeng, Xiao & Tedrake 2019) with an indicator y that
switches the unit off. How good it is depends on the bounds: :func:`interval_bounds` propagates
intervals, :func:`formulations.relu.milp.lp_bounds` tightens them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.relu.network import Network


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds on the pre-activations z of every layer, unit and sample.

    Attributes
    ----------
    lower, upper : tuple of (n, n_l) arrays
        One array a layer, the outputs last.
    """

    lower: tuple[FloatArray, ...]
    upper: tuple[FloatArray, ...]

    def sample(self, index: int) -> Bounds:
        """The bounds of one sample."""
        pick = slice(index, index + 1)
        return Bounds(tuple(b[pick] for b in self.lower), tuple(b[pick] for b in self.upper))


def interval_bounds(inputs: FloatArray, low: Network, high: Network) -> Bounds:
    """Bound every z by interval arithmetic, whichever units are kept.

    With weights in [W⁻, W⁺], biases in [b⁻, b⁺] and h ∈ [0, u], u = max(0, z⁺) of the layer before
    (0 because a unit may be removed),

        z⁺ = b⁺ + Σ_j max(0, W⁺_kj) u_j,     z⁻ = b⁻ + Σ_j min(0, W⁻_kj) u_j,

    and in the first layer, of inputs x that are numbers,

        z⁺ = b⁺ + Σ_j max(W⁻_kj x_j, W⁺_kj x_j),     z⁻ with min.

    Parameters
    ----------
    inputs : (n, n_in) array
    low, high : Network
        Smallest and largest weights: twice the same network where they are fixed.
    """
    # x = x⁺ − x⁻, so that max(W⁻x, W⁺x) = W⁺x⁺ − W⁻x⁻
    positive, negative = np.maximum(0, inputs), np.maximum(0, -inputs)
    if all(np.array_equal(a, b) for a, b in zip(low.weights, high.weights, strict=True)):
        first = inputs @ low.weights[0].T
        lower, upper = [first + low.biases[0]], [first + high.biases[0]]
    else:
        w_low, w_high = low.weights[0].T, high.weights[0].T
        lower = [positive @ w_low - negative @ w_high + low.biases[0]]
        upper = [positive @ w_high - negative @ w_low + high.biases[0]]
    for layer in range(1, len(low.weights)):
        reach = np.maximum(0, upper[-1])
        lower.append(reach @ np.minimum(0, low.weights[layer]).T + low.biases[layer])
        upper.append(reach @ np.maximum(0, high.weights[layer]).T + high.biases[layer])
    return Bounds(tuple(lower), tuple(upper))


def relu_block(block: pyo.Block, z: pyo.Expression, y: pyo.Var, lower: float, upper: float) -> None:
    """State h = y·max(0, z) of one unit and sample.

    Parameters
    ----------
    block : pyomo Block
        Filled in place; offers ``h``.
    z : linear pyomo expression
        The pre-activation.
    y : binary pyomo variable
        1 if the unit is kept.
    lower, upper : float
        L ≤ z ≤ U, whichever units are kept.

    Variables
        h ∈ [0, U]    the activation
        z ∈ [L, U]    the pre-activation
        σ ∈ {0, 1}    1 if the unit is kept and active
    Constraints
        σ ≤ y
        h ≤ U σ
        h ≤ z − L (1 − σ)
        h ≥ z − U (1 − y)

    y = 0 gives σ = 0 and h = 0; y = 1, σ = 0 gives h = 0 ≥ z; y = 1, σ = 1 gives h = z ≥ 0. These
    are the projection onto (z, h, y, σ) of the disjunctive hull of the three cases, so that no
    inequality in these variables alone is tighter. Where the sign of z is known:
        U ≤ 0         h = 0
        L = U         h = U y                             (z is a number)
        L ≥ 0         σ = y, with L y ≤ h besides
    """
    if upper <= 0:
        block.h = pyo.Expression(expr=0.0)
        return
    if lower == upper:
        block.h = pyo.Expression(expr=upper * y)
        return
    block.h = pyo.Var(bounds=(0, upper))
    block.z = pyo.Var(bounds=(lower, upper))
    block.pre_activation = pyo.Constraint(expr=block.z == z)
    if lower >= 0:
        on = y
        block.floor = pyo.Constraint(expr=block.h >= lower * y)
    else:
        on = block.on = pyo.Var(domain=pyo.Binary)
        block.kept = pyo.Constraint(expr=on <= y)
    block.reach = pyo.Constraint(expr=block.h <= upper * on)
    block.above = pyo.Constraint(expr=block.h <= block.z - lower * (1 - on))
    block.below = pyo.Constraint(expr=block.h >= block.z - upper * (1 - y))
