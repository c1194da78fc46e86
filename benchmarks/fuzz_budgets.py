"""Random budget problems, and what must hold of every answer: checked against enumeration.

Costs are Python's integers and values rational numbers here, so that nothing is off by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from formulations import BilinearCost, BudgetProblem, Limit, solve
from formulations.errors import InputError

# a bound on a sum of values may be off by this share of what they are in all
ROUNDING = 1e-9


@dataclass
class Case:
    """A problem, how it is solved, and what may be refused of it."""

    seed: int
    problem: BudgetProblem
    gap: float
    huge: bool

    def __str__(self) -> str:
        problem = self.problem
        return (
            f"budget {self.seed}: {'×'.join(str(len(w)) for w in problem.widths)} widths, "
            f"{len(problem.limits)} limits, {len(problem.floors)} floors, "
            f"values to {max(float(np.abs(v).max()) for v in problem.values):.2g}, gap {self.gap:g}"
        )


def budget_case(seed: int) -> Case | None:
    """The problem of a seed; None where it is refused, as numbers beyond 64 bits are."""
    rng = np.random.default_rng(seed)
    classes, layers = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    huge = bool(rng.random() < 0.15)
    widths = [_widths(rng) for _ in range(classes)]
    values = [_values(rng, len(w)) for w in widths]
    scale = 10.0 ** (rng.uniform(-12, 12) if rng.random() < 0.3 else 0.0)
    widest = np.array([w[-1] for w in widths])
    limits = [
        _limit(rng, _cost(rng, classes, layers, huge), widest) for _ in range(rng.integers(0, 3))
    ]
    rows = int(rng.choice([0, 0, 1, 2]))
    floors = rng.integers(0, 3, (rows, classes))
    sizes = (floors @ widest * rng.uniform(0, 1, rows)).astype(int)
    try:
        problem = BudgetProblem(widths, [scale * v for v in values], limits, floors, sizes)
    except InputError:
        if huge:
            return None
        raise
    return Case(seed, problem, float(rng.choice([1e-3, 1e-4, 1e-6, 1e-8])), huge)


def _widths(rng: np.random.Generator) -> np.ndarray:
    """Multiples of a number, often a single one."""
    count = 1 if rng.random() < 0.25 else int(rng.integers(2, 7))
    first = int(rng.integers(0, 3))
    return np.asarray(rng.integers(1, 9) * np.arange(first, first + count))


def _values(rng: np.random.Generator, count: int) -> np.ndarray:
    """Concave, rising and falling, with ties, or all zero."""
    kind = rng.integers(0, 4)
    gains = rng.random(count - 1)
    if kind == 0:
        gains = np.sort(gains)[::-1]
    elif kind == 1:
        gains = gains - 0.5
    elif kind == 2:
        gains = rng.integers(-1, 3, count - 1).astype(float)
    else:
        gains = 0.0 * gains
    return rng.choice([0.0, -1.0, 0.3]) + np.append(0.0, np.cumsum(gains))


def _cost(rng: np.random.Generator, classes: int, layers: int, huge: bool) -> BilinearCost:
    """Layers that classes share, some that cost nothing."""
    owned = rng.integers(0, 3, (2, classes, layers)) * (rng.random((2, classes, layers)) < 0.5)
    fixed = rng.integers(0, 3, (2, layers))
    factor = 2 ** int(rng.integers(20, 56)) if huge else 1
    coefficient = factor * rng.integers(0, 9, layers) * (rng.random(layers) < 0.8)
    return BilinearCost(coefficient, fixed[0], owned[0], fixed[1], owned[1])


def _limit(rng: np.random.Generator, cost: BilinearCost, widest: np.ndarray) -> Limit:
    """A range that often leaves something out."""
    whole = cost_of(cost, widest)
    most = int(Fraction(float(rng.uniform(0.3, 1.1))) * whole)
    return Limit(cost, most, int(Fraction(float(rng.choice([0, 0, 0.5, 0.8]))) * most))


def cost_of(cost: BilinearCost, widths: np.ndarray) -> int:
    """The cost of widths in Python's integers."""
    total, chosen = 0, [int(n) for n in widths]
    for layer, coefficient in enumerate(cost.coefficient):
        rows, columns = int(cost.fixed_rows[layer]), int(cost.fixed_columns[layer])
        for number, width in enumerate(chosen):
            rows += int(cost.owned_rows[number, layer]) * width
            columns += int(cost.owned_columns[number, layer]) * width
        total += int(coefficient) * rows * columns
    return total


def allowed(problem: BudgetProblem, widths: np.ndarray) -> bool:
    """Whether widths meet all limits and floors."""
    for floor, size in zip(problem.floors, problem.floor_sizes, strict=True):
        if sum(int(f) * int(n) for f, n in zip(floor, widths, strict=True)) < int(size):
            return False
    return all(
        limit.at_least <= cost_of(limit.cost, widths) <= limit.at_most for limit in problem.limits
    )


def best(problem: BudgetProblem) -> Fraction | None:
    """The largest value of allowed widths, or None."""
    found = []
    for choice in product(*(range(len(w)) for w in problem.widths)):
        if allowed(problem, problem.at(choice)):
            found.append(worth(problem, choice))
    return max(found, default=None)


def worth(problem: BudgetProblem, choice: tuple[int, ...]) -> Fraction:
    """The value of a choice, exactly."""
    parts = (Fraction(float(v[k])) for v, k in zip(problem.values, choice, strict=True))
    return sum(parts, Fraction(0))


def faults(case: Case | None, seconds: float = float("inf")) -> tuple[list[str], str]:
    """What does not hold of the answer to a case, a line each, and its status."""
    if case is None:
        return [], "refused"
    problem, optimum = case.problem, best(case.problem)
    try:
        found = solve(problem, gap=case.gap, seconds=seconds)
    except InputError as error:
        late = seconds < float("inf") and "in time" in str(error)
        if optimum is None or late:
            return [], f"refused: {error}"
        return [f"{case}: refused ({error}), but {float(optimum):.8g} is there"], "refused"
    except Exception as error:
        return [f"{case}: {type(error).__name__}: {error}"], "failed"
    if optimum is None:
        return [f"{case}: widths {found.widths} are not allowed: none are"], str(found.status)
    lines, size = [], sum(float(np.abs(values).max()) for values in problem.values)
    if Fraction(found.bound) < optimum - Fraction(ROUNDING * size):
        under = float(optimum - Fraction(found.bound))
        lines.append(f"{case}: the bound is {under:.2g} below the optimum {float(optimum):.8g}")
    lost = float(optimum - Fraction(found.value))
    if found.status == "optimal" and lost > case.gap * abs(found.value) + ROUNDING * size:
        lines.append(f"{case}: optimal {found.value:.8g}, the optimum is {float(optimum):.8g}")
    if not allowed(problem, found.widths):
        lines.append(f"{case}: widths {found.widths} are not allowed")
    choice = tuple(
        int(np.flatnonzero(w == n)[0]) for w, n in zip(problem.widths, found.widths, strict=True)
    )
    if abs(float(worth(problem, choice) - Fraction(found.value))) > ROUNDING * size:
        lines.append(f"{case}: widths {found.widths} are not worth {found.value:.8g}")
    costs = tuple(cost_of(limit.cost, found.widths) for limit in problem.limits)
    if found.costs != costs:
        lines.append(f"{case}: costs {found.costs} are {costs}")
    return lines, str(found.status)
