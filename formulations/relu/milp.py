"""The MILPs of exact network pruning as Pyomo models: select units, or train and select at once.

Both are made of the ReLU blocks of :mod:`formulations.relu.bounds`; they differ in what a layer's
weights are: numbers, or points of a grid in binary expansion. ``L`` layers, the last one the
output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.relu.bounds import Bounds, relu_block
from formulations.relu.losses import L1
from formulations.relu.network import Network, Support
from formulations.solving.deadline import Deadline
from formulations.solving.milp import Milp

# Linear programs answer up to their tolerance: their bounds are moved outwards by this.
_SAFETY = 1e-7
# Tangents violated by less are not worth a row.
_VIOLATED = 1e-7
# Largest coefficient of a unit's key in the symmetry-breaking order.
_KEY = 1000

Activations = Sequence[pyo.Expression]
Assignment = tuple[pyo.Var, float]
Pause = Callable[[], None]
# (layer, unit, sample, activations of the layer before) to the unit's pre-activation
Affine = Callable[[int, int, int, Activations], pyo.Expression]


def selection_layers(
    network: Network, inputs: FloatArray, bounds: Bounds, pause: Pause
) -> pyo.ConcreteModel:
    """State the layers of a network with fixed weights, whose hidden units may be removed.

    ``pause`` is called now and then, here and below: what it raises breaks the work off.

    Sets
        l = 0 … L−1 layers, k units of a layer, i samples
    Variables
        y_lk ∈ {0, 1}   unit k of hidden layer l is kept
        f_ik            outputs
    Constraints
        z_0ik = Σ_j W_0kj x_ij + b_0k
        h_lik = y_lk·max(0, z_lik)                        see relu_block
        z_lik = Σ_j W_lkj h_{l−1,ij} + b_lk
        f_ik = z_{L−1,ik}
    """

    def affine(layer: int, unit: int, sample: int, before: Activations) -> pyo.Expression:
        weights, bias = network.weights[layer][unit], network.biases[layer][unit]
        if layer == 0:
            return float(weights @ inputs[sample] + bias)
        terms = (float(w) * h for w, h in zip(weights, before, strict=True) if w)
        return float(bias) + pyo.quicksum(terms)

    model = pyo.ConcreteModel()
    _layers(model, network.hidden, network.outputs, inputs, bounds, affine, pause)
    return model


def training_layers(
    widths: Sequence[int],
    outputs: int,
    step: float,
    half: int,
    inputs: FloatArray,
    bounds: Bounds,
    pause: Pause,
) -> pyo.ConcreteModel:
    """State layers whose weights are points of the grid {−half·step, …, half·step}.

    Sets
        l = 0 … L−1 layers, k units of a layer, j its inputs and the bias, i samples, t bits
    Variables
        y_lk ∈ {0, 1}      unit k of hidden layer l is kept
        β_lkjt ∈ {0, 1}    bits of the weights
        p_lkjit ≥ 0        products β_lkjt·h_{l−1,ij}, l ≥ 1
        f_ik               outputs
    Constraints
        w_lkj = step·(Σ_t 2^t β_lkjt − half),   Σ_t 2^t β_lkjt ≤ 2·half
        |w_lkj| ≤ step·half·y_lk,  step·half·y_{l−1,j}    weights of a removed unit are 0
        z_0ik = Σ_j w_0kj x_ij + w_0k,bias
        h_lik = y_lk·max(0, z_lik)                        see relu_block
        z_lik = step·Σ_j (Σ_t 2^t p_lkjit − half·h_{l−1,ij}) + w_lk,bias
        f_ik = z_{L−1,ik}
    with the products exact for a binary β and h ∈ [0, U] (McCormick 1976)
        p ≤ U β,   p ≤ h,   p ≥ h − U (1 − β)
    and, redundant at binary β but not in the relaxation, the products of the grid's upper end with
    h ≥ 0 and with U − h ≥ 0
        Σ_t 2^t p_t ≤ 2·half·h
        2·half·(U − h) − Σ_t 2^t (U β_t − p_t) ≥ 0
    """
    model = pyo.ConcreteModel()
    sizes = [inputs.shape[1], *widths, outputs]
    bits = range(int(2 * half).bit_length())
    entries = [
        (layer, unit, j)
        for layer in range(len(sizes) - 1)
        for unit in range(sizes[layer + 1])
        for j in range(sizes[layer] + 1)
    ]
    model.bit = pyo.Var(entries, bits, domain=pyo.Binary)
    model.weight = pyo.Expression(
        entries, rule=lambda m, *e: step * (sum(2**t * m.bit[*e, t] for t in bits) - half)
    )
    model.limits = pyo.ConstraintList()
    model.products = pyo.ConstraintList()
    model.product = pyo.Var(pyo.Any, domain=pyo.NonNegativeReals, dense=False)

    def product(layer: int, unit: int, j: int, sample: int, h: pyo.Expression) -> pyo.Expression:
        """w·h, exactly."""
        reach = float(max(0.0, bounds.upper[layer - 1][sample, j]))
        if reach == 0:
            return 0.0
        p = [model.product[layer, unit, j, sample, t] for t in bits]
        beta = [model.bit[layer, unit, j, t] for t in bits]
        for one, bit in zip(p, beta, strict=True):
            model.products.add(one <= reach * bit)
            model.products.add(one <= h)
            model.products.add(one >= h - reach * (1 - bit))
        whole = sum(2**t * p[t] for t in bits)
        model.products.add(whole <= 2 * half * h)
        rest = sum(2**t * (reach * beta[t] - p[t]) for t in bits)
        model.products.add(2 * half * (reach - h) - rest >= 0)
        return step * (whole - half * h)

    def affine(layer: int, unit: int, sample: int, before: Activations) -> pyo.Expression:
        bias = model.weight[layer, unit, sizes[layer]]
        if layer == 0:
            x = inputs[sample]
            return bias + sum(float(x[j]) * model.weight[0, unit, j] for j in range(sizes[0]))
        return bias + sum(product(layer, unit, j, sample, h) for j, h in enumerate(before))

    _layers(model, widths, outputs, inputs, bounds, affine, pause)
    for layer, unit, j in entries:
        model.limits.add(sum(2**t * model.bit[layer, unit, j, t] for t in bits) <= 2 * half)
        ends = [(layer, unit)] if layer < len(widths) else []
        ends += [(layer - 1, j)] if layer and j < sizes[layer] else []
        for end in ends:
            model.limits.add(model.weight[layer, unit, j] <= step * half * model.y[end])
            model.limits.add(model.weight[layer, unit, j] >= -step * half * model.y[end])
    return model


def break_symmetry(
    model: pyo.ConcreteModel, prices: Sequence[FloatArray], inputs: int, half: int, step: float
) -> None:
    """Order the interchangeable units of every hidden layer of a training model, in place.

    Any permutation of a layer's units of equal price leaves outputs and price unchanged, so that
    one order of each class is enough. For consecutive units j, k of equal price

        y_j ≥ y_k                               kept units first
        κ_j ≥ κ_k − K (1 − y_k)                 kept units by key,

    κ = Σ_i B^{r−i} w_i / step over the unit's first r + 1 incoming weights, B = 2·half + 1: the
    lexicographic order of those weights, as many as keep B^r small. K is the largest |κ|; the
    weights of a removed unit are 0, and so is its key.
    """
    model.order = pyo.ConstraintList()
    base = 2 * half + 1
    sizes = [inputs, *(len(price) for price in prices)]
    for layer, price in enumerate(prices):
        # the bias is the last of the incoming weights, and taken first
        places = [sizes[layer], *range(sizes[layer])]
        places = places[: 1 + int(np.log(_KEY) / np.log(base))]
        factor = [base**e for e in reversed(range(len(places)))]
        largest = half * sum(factor)

        keys = [
            sum(f * model.weight[layer, unit, j] for f, j in zip(factor, places, strict=True))
            * (1 / step)
            for unit in range(sizes[layer + 1])
        ]

        for value in np.unique(price):
            same = [int(unit) for unit in np.flatnonzero(price == value)]
            for j, k in pairwise(same):
                model.order.add(model.y[layer, j] >= model.y[layer, k])
                model.order.add(keys[j] >= keys[k] - largest * (1 - model.y[layer, k]))


def state_objective(
    model: pyo.ConcreteModel,
    loss: L1,
    targets: FloatArray,
    prices: Sequence[FloatArray],
    bounds: Bounds,
) -> None:
    """State the objective of a model with layers, in place.

    Variables
        e_ik ≥ 0    loss of output k for sample i
    Constraints
        e_ik ≥ slope·f_ik + intercept      for every line of the loss
    Objective
        min Σ_ik e_ik + Σ_lk c_lk y_lk
    """
    model.e = pyo.Var(model.f.index_set(), domain=pyo.NonNegativeReals)
    model.lines = pyo.ConstraintList()
    for i, k in model.f:
        ends = float(bounds.lower[-1][i, k]), float(bounds.upper[-1][i, k])
        for slope, intercept in loss.lines(float(targets[i, k]), *ends):
            model.lines.add(model.e[i, k] >= slope * model.f[i, k] + intercept)
    price = sum(float(prices[layer][unit]) * y for (layer, unit), y in model.y.items())
    model.objective = pyo.Objective(expr=pyo.quicksum(model.e.values()) + price)


def cut(model: pyo.ConcreteModel, loss: L1, targets: FloatArray) -> int:
    """Add the loss's tangents that the model's point violates; how many there were."""
    found = 0
    for at, f in model.f.items():
        line = loss.tangent(f.value, targets[at])
        if line is not None and model.e[at].value < line[0] * f.value + line[1] - _VIOLATED:
            model.lines.add(model.e[at] >= line[0] * f + line[1])
            found += 1
    return found


def lp_bounds(
    head: Callable[[int, int, Bounds], pyo.ConcreteModel],
    bounds: Bounds,
    first: int = 0,
    deadline: Deadline | None = None,
) -> Bounds:
    """Tighten bounds by linear programs: min and max of each z over the relaxation before it.

    Every layer is taken as the output of the network that ends there, one sample at a time, with
    the bounds of the layers before already tightened. Never looser than what comes in.

    Parameters
    ----------
    head : callable
        (layers, sample, bounds) to the layer model of that sample that ends after so many layers.
    bounds : Bounds
        Valid ones to start from.
    first : int
        First layer to tighten.
    deadline : Deadline, optional
        When it is over, the rest is left as it is.
    """
    lower, upper = ([b.copy() for b in side] for side in (bounds.lower, bounds.upper))
    for layer in range(first, len(lower)):
        for sample in range(len(lower[0])):
            known = Bounds(tuple(lower), tuple(upper)).sample(sample)
            model = head(layer + 1, sample, known)
            lp = Milp(model, relaxed=True)
            for (_, unit), output in model.f.items():
                for side, sign, pick in ((lower, 1, max), (upper, -1, min)):
                    if deadline is not None and deadline.over:
                        return Bounds(tuple(lower), tuple(upper))
                    value = lp.minimise(output, sign)
                    if value is not None:
                        tight = sign * (value - _SAFETY * (1 + abs(value)))
                        side[layer][sample, unit] = pick(side[layer][sample, unit], tight)
    return Bounds(tuple(lower), tuple(upper))


def choice(
    model: pyo.ConcreteModel, before: Sequence[FloatArray], support: Support
) -> list[Assignment]:
    """(variable, value) of y and σ for a support and the pre-activations that it leads to."""
    values = [(y, float(support[layer][unit])) for (layer, unit), y in model.y.items()]
    for (layer, i, unit), block in model.relu.items():
        if block.component("on") is not None:
            on = support[layer][unit] and before[layer][i, unit] > 0
            values.append((block.on, float(on)))
    return values


def read_support(model: pyo.ConcreteModel, hidden: Sequence[int]) -> Support:
    """Which units have y above ½."""
    return tuple(
        np.array([model.y[layer, unit].value > 0.5 for unit in range(width)], bool)
        for layer, width in enumerate(hidden)
    )


def _layers(
    model: pyo.ConcreteModel,
    widths: Sequence[int],
    outputs: int,
    inputs: FloatArray,
    bounds: Bounds,
    affine: Affine,
    pause: Pause,
) -> None:
    samples = range(len(inputs))
    units = [(layer, unit) for layer, width in enumerate(widths) for unit in range(width)]
    # a unit that no sample activates, of no price, is in no row: it stays removed
    model.y = pyo.Var(units, domain=pyo.Binary, initialize=0)
    model.relu = pyo.Block([(layer, i, unit) for layer, unit in units for i in samples])

    def before(layer: int, i: int) -> Activations:
        """Activations that enter a layer."""
        return [model.relu[layer - 1, i, j].h for j in range(widths[layer - 1])] if layer else []

    for layer, unit in units:
        for i in samples:
            pause()
            relu_block(
                model.relu[layer, i, unit],
                affine(layer, unit, i, before(layer, i)),
                model.y[layer, unit],
                float(bounds.lower[layer][i, unit]),
                float(bounds.upper[layer][i, unit]),
            )
    last = len(widths)
    model.f = pyo.Var(
        [(i, k) for i in samples for k in range(outputs)],
        bounds=lambda _, i, k: (float(bounds.lower[last][i, k]), float(bounds.upper[last][i, k])),
    )
    model.outputs = pyo.ConstraintList()
    for i, k in model.f:
        pause()
        model.outputs.add(model.f[i, k] == affine(last, k, i, before(last, i)))
