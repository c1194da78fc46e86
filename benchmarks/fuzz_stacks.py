"""Random stacks of layer problems, and what must hold of every choice: against enumeration.

What a choice attains is computed exactly, for the floating-point weights of its refits, in rational
numbers: a bound that is above it by rounding alone is found, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np

from formulations import LayerProblem, Stack, choose, square
from formulations.errors import InputError
from formulations.layer.refit import refit


@dataclass
class Case:
    """A stack, and how it is solved."""

    seed: int
    stack: Stack
    gap: float
    nodes: int

    def __str__(self) -> str:
        blocks = ", ".join(f"{p.block}×{p.outputs}" for p in self.stack.problems)
        return (
            f"stack {self.seed}: {self.stack.groups} groups of layers {blocks}, "
            f"c0 {self.stack.constant:.2g}, gap {self.gap:g}, {self.nodes} nodes"
        )


def stack_case(seed: int) -> Case:
    """The stack of a seed: two or three layers of the same groups."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(2, 7))
    scale = 10.0 ** (rng.uniform(-9, 9) if rng.random() < 0.4 else 0.0)
    problems = tuple(_problem(rng, groups, scale) for _ in range(rng.integers(2, 4)))
    gap = float(rng.choice([1e-2, 1e-3, 1e-5]))
    return Case(seed, Stack(problems), gap, int(rng.choice([0, 4, 16, 64])))


def _problem(rng: np.random.Generator, groups: int, scale: float) -> LayerProblem:
    """A layer with columns that are independent, correlated, doubled or of other scales."""
    block, outputs, count = (int(rng.integers(1, top)) for top in (4, 4, 40))
    width = groups * block
    inputs, kind = rng.standard_normal((count, width)), rng.integers(0, 5)
    if kind == 1:
        share = rng.choice([0.9, 0.9999])
        inputs = share * rng.standard_normal((count, 1)) + (1 - share**2) ** 0.5 * inputs
    elif kind == 2:
        inputs[:, rng.integers(0, width)] = inputs[:, rng.integers(0, width)]
        inputs[:, rng.integers(0, width)] = 0.0
    elif kind == 3:
        inputs *= (10.0 ** rng.uniform(-3, 3, groups)).repeat(block)
    if not inputs.any():
        inputs[0, 0] = 1.0
    truth = (
        rng.standard_normal((width, outputs)) * (rng.random(groups) < 0.7).repeat(block)[:, None]
    )
    noise = 10.0 ** rng.uniform(-6, 0) * rng.standard_normal((count, outputs))
    size = float((inputs**2).sum()) / inputs.size
    weight = size * 10.0 ** rng.uniform(-6, 0)
    # prices of the terms are left aside in a stack
    term = square(weight * scale**2, 1.0)
    return LayerProblem.from_data(scale * inputs, scale * (inputs @ truth + noise), term, block)


def supports(groups: int, kept: int) -> Iterator[np.ndarray]:
    """All choices of so many groups; fewer are never better."""
    for chosen in combinations(range(groups), kept):
        support = np.zeros(groups, bool)
        support[list(chosen)] = True
        yield support


def attained(stack: Stack, support: np.ndarray) -> Fraction:
    """Loss and shrinkage of a support with the refits' weights, exactly."""
    total = Fraction(0)
    for problem in stack.problems:
        weights = refit(problem, support)
        total += Fraction(problem.constant)
        alive = np.flatnonzero(weights.any(axis=1))
        w = [[Fraction(float(x)) for x in weights[k]] for k in alive]
        gram = [[Fraction(float(problem.gram[k, i])) for i in alive] for k in alive]
        ridge = np.broadcast_to(problem.term.weight, (problem.groups,)).repeat(problem.block)
        for o in range(problem.outputs):
            for at, k in enumerate(alive):
                pushed = sum(g * row[o] for g, row in zip(gram[at], w, strict=True))
                total += w[at][o] * (pushed / 2 - Fraction(float(problem.cross[k, o])))
                total += Fraction(float(ridge[k])) * w[at][o] ** 2
    return total


def faults(case: Case, seconds: float = float("inf")) -> tuple[list[str], str]:
    """What does not hold of the choices of every number of groups, a line each; their status."""
    stack, lines, worst = case.stack, [], set()
    for kept in range(stack.groups + 1):
        told = f"{case}, {kept} kept"
        try:
            found = choose(stack, kept, gap=case.gap, nodes=case.nodes, seconds=seconds)
        except InputError as error:
            worst.add(f"refused: {error}")
            continue
        except Exception as error:
            lines.append(f"{told}: {type(error).__name__}: {error}")
            continue
        worst.add(str(found.status))
        optimum = min(attained(stack, support) for support in supports(stack.groups, kept))
        if not np.isfinite(found.bound) or Fraction(found.bound) > optimum:
            over = float((Fraction(found.bound) - optimum) / optimum) if optimum else np.inf
            lines.append(f"{told}: the bound is {over:.2g} above the optimum {float(optimum):.8g}")
        reached = attained(stack, found.support)
        off = abs(float(reached - Fraction(found.objective)))
        if off > 1e-9 * max(stack.constant, float(reached)):
            lines.append(
                f"{told}: a choice worth {float(reached):.8g} is said to be {found.objective:.8g}"
            )
        lost = float(reached - optimum)
        if lost > found.gap * found.objective + 1e-12 * stack.constant:
            lines.append(f"{told}: {lost:.2g} are lost, the gap says {found.gap:.2g}")
        if found.support.sum() != kept:
            lines.append(f"{told}: {int(found.support.sum())} are kept")
    return lines, next((name for name in ("tree", "root", "trivial") if name in worst), "refused")
