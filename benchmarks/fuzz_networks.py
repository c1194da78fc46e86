"""Random toy networks, and what must hold of every answer: checked against brute force.

The value of a choice is computed exactly, in rational numbers, so that no tolerance hides a bound
that is above the optimum by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np

from formulations import Network, Selection, solve
from formulations.errors import InputError
from formulations.relu.enumeration import rounding
from formulations.relu.network import Support

# of a network's hidden units, in all
UNITS = 10
# HiGHS takes a gap for closed that is below it
ABSOLUTE = {"enumeration": 0.0, "highs": 2e-6}


@dataclass
class Case:
    """A problem and how it is solved."""

    seed: int
    problem: Selection
    solver: str
    gap: float

    def __str__(self) -> str:
        sizes = "-".join(
            str(n) for n in (self.problem.network.inputs, *self.problem.hidden, self.outputs)
        )
        return (
            f"network {self.seed}: {sizes}, {len(self.problem.inputs)} samples, "
            f"{self.problem.loss}, {self.solver}, gap {self.gap:g}"
        )

    @property
    def outputs(self) -> int:
        """Of the network."""
        return self.problem.network.outputs


def network_case(seed: int) -> Case:
    """The problem of a seed: one to three hidden layers, of any scale where no MILP is solved."""
    rng = np.random.default_rng(seed)
    solver = str(rng.choice(list(ABSOLUTE)))
    depth = int(rng.integers(1, 4))
    hidden = [int(rng.integers(1, UNITS // depth + 1)) for _ in range(depth)]
    sizes = [int(rng.integers(1, 4)), *hidden, int(rng.integers(1, 3))]
    spread = 6 if solver == "enumeration" else 1
    network = _network(rng, sizes, spread)
    inputs = 10.0 ** rng.uniform(-spread, spread) * rng.standard_normal(
        (int(rng.integers(1, 7)), sizes[0])
    )
    if rng.random() < 0.2:
        inputs[-1] = inputs[0]
    loss = str(rng.choice(["l1", "hinge", "squared"]))
    outputs = network.forward(inputs)
    if loss == "hinge":
        targets = rng.choice([-1.0, 1.0], size=outputs.shape)
    else:
        targets = outputs + rng.choice([0.0, 0.5]) * outputs.std() * rng.standard_normal(
            outputs.shape
        )
    return Case(
        seed,
        Selection(network, inputs, targets, loss, _prices(rng, network, inputs, targets, loss)),
        solver,
        float(rng.choice([1e-3, 1e-4, 1e-5])),
    )


def _network(rng: np.random.Generator, sizes: list[int], spread: float) -> Network:
    """With biases or without; units that are doubled, without weights, or never active."""
    weights, biases = [], []
    for before, after in pairwise(sizes):
        scale = 10.0 ** (rng.uniform(-spread, spread) / 3)
        weight = scale * rng.standard_normal((after, before))
        bias = np.zeros(after) if rng.random() < 0.4 else scale * rng.standard_normal(after)
        kind, unit = rng.random(), int(rng.integers(after))
        if kind < 0.15:
            weight[unit], bias[unit] = weight[0], bias[0]
        elif kind < 0.3:
            weight[unit] = 0.0
        elif kind < 0.45:
            weight[unit], bias[unit] = -np.abs(weight[unit]), -np.abs(bias[unit])
        weights.append(weight)
        biases.append(bias)
    return Network(weights, biases)


def _prices(
    rng: np.random.Generator,
    network: Network,
    inputs: np.ndarray,
    targets: np.ndarray,
    loss: str,
) -> Any:
    """In the units of the loss of no units: none, one, one a layer or one a unit."""
    nothing = tuple(np.zeros(units, bool) for units in network.hidden)
    worth = Selection(network, inputs, targets, loss, 0.0).objective(network, nothing)
    price = (worth or 1.0) * 10.0 ** rng.uniform(-3, 0)
    kind = rng.integers(4)
    if kind == 0:
        return 0.0
    if kind == 1:
        return price
    if kind == 2:
        return [price * rng.uniform(0, 2) for _ in network.hidden]
    return [
        price * rng.uniform(0, 2, units) * (rng.random(units) < 0.8) for units in network.hidden
    ]


def attained(problem: Selection, support: Support) -> Fraction:
    """The objective of a choice, exactly."""
    network, value = problem.network, Fraction(0)
    layers = [
        ([[Fraction(float(w)) for w in row] for row in weight], [Fraction(float(b)) for b in bias])
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]
    for sample, targets in zip(problem.inputs, problem.targets, strict=True):
        h = [Fraction(float(x)) for x in sample]
        for layer, (weight, bias) in enumerate(layers):
            z = [
                b + sum(w * a for w, a in zip(row, h, strict=True))
                for row, b in zip(weight, bias, strict=True)
            ]
            h = z
            if layer < len(support):
                h = [max(Fraction(0), a) * int(k) for a, k in zip(z, support[layer], strict=True)]
        for f, target in zip(h, targets, strict=True):
            value += _loss(problem.loss, f, Fraction(float(target)))
    for price, keep in zip(problem.prices, support, strict=True):
        value += sum((Fraction(float(c)) for c in price[keep]), Fraction(0))
    return value


def _loss(name: str, output: Fraction, target: Fraction) -> Fraction:
    if name == "hinge":
        return max(Fraction(0), 1 - output * target)
    return abs(output - target) if name == "l1" else (output - target) ** 2


def best(problem: Selection) -> Fraction:
    """The least that a choice attains: the best few by float, exactly."""
    ends = np.cumsum(problem.hidden)[:-1]
    found = []
    for keep in product((False, True), repeat=sum(problem.hidden)):
        support = tuple(np.split(np.array(keep), ends))
        found.append((problem.objective(problem.network, support), keep, support))
    found.sort(key=lambda item: item[:2])
    return min(attained(problem, support) for _, _, support in found[:3])


def faults(case: Case, seconds: float = float("inf")) -> tuple[list[str], str]:
    """What does not hold of the answer to a case, a line each, and its status."""
    problem = case.problem
    try:
        found = solve(problem, solver=case.solver, gap=case.gap, seconds=seconds)
    except InputError as error:
        return [], f"refused: {error}"
    except Exception as error:
        return [f"{case}: {type(error).__name__}: {error}"], "failed"
    lines, optimum = [], best(problem)
    if not np.isfinite(found.bound) or Fraction(found.bound) > optimum:
        over = float(Fraction(found.bound) - optimum) if np.isfinite(found.bound) else np.inf
        lines.append(f"{case}: the bound is {over:.2g} above the optimum {float(optimum):.8g}")
    lost = float(Fraction(found.objective) - optimum)
    within = max(case.gap * abs(found.objective), ABSOLUTE[case.solver])
    if found.status == "optimal" and max(lost, found.objective - found.bound) > within:
        lines.append(
            f"{case}: optimal {found.objective:.8g} from {found.bound:.8g}, "
            f"the optimum is {float(optimum):.8g}"
        )
    nothing = tuple(np.zeros(units, bool) for units in problem.hidden)
    size = problem.objective(problem.network, nothing)
    # an enumeration closes every gap that is above its rounding
    closed = case.solver == "enumeration" and case.gap * found.objective > rounding(problem)
    if closed and found.status == "numerical":
        lines.append(f"{case}: {found.status} {found.objective:.8g} from {found.bound:.8g}")
    reached = float(attained(problem, found.support))
    if abs(reached - found.objective) > 1e-9 * max(size, abs(reached)):
        lines.append(f"{case}: a choice worth {reached:.8g} is said to be {found.objective:.8g}")
    left = found.network.forward(problem.inputs)
    kept = problem.network.forward(problem.inputs, found.support)
    if not np.allclose(left, kept, rtol=1e-9, atol=1e-9 * np.abs(kept).max()):
        lines.append(f"{case}: the network that is left computes something else")
    return lines, str(found.status)
