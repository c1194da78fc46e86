"""Random layer problems, and what must hold of every answer: checked against brute force.

A bound is compared with what a choice attains, and that value is computed exactly: the loss of
floating-point weights in rational numbers, φ to fifty digits. So no tolerance hides a bound that is
above the optimum by rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import mpmath
import numpy as np
from scipy.optimize import minimize

from formulations import LayerProblem, Term, derive, solve
from formulations.errors import InputError
from formulations.layer.refit import refit

DIGITS = 50
# φ by name: the expression, how it is written with mpmath, and its derivative over r
PHI: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "square": ("a*r**2", lambda r: r**2, lambda r: 2.0 + 0 * r),
    "mcp": ("a*r**2", lambda r: r**2, lambda r: 2.0 + 0 * r),
    "power": ("a*r**(3/2)", lambda r: r ** mpmath.mpf(1.5), lambda r: 1.5 * r**-0.5),
    "quartic": ("a*r**4", lambda r: r**4, lambda r: 4 * r**2),
    "elastic-net": ("a*(r**2 + r)", lambda r: r**2 + r, lambda r: 2 + 1 / r),
    "pseudo-huber": (
        "a*(sqrt(1 + r**2) - 1)",
        lambda r: mpmath.sqrt(1 + r**2) - 1,
        lambda r: 1 / np.sqrt(1 + r**2),
    ),
    "log-cosh": (
        "a*log(cosh(r))",
        lambda r: mpmath.log(mpmath.cosh(r)),
        lambda r: np.tanh(r) / r,
    ),
}
# φ with a scale of their own: weights are to be of the order of 1
SCALED = ("pseudo-huber", "log-cosh", "elastic-net")
SOLVERS = (
    ("branch-and-bound", {}),
    ("branch-and-bound", {"extraction": "none"}),
    ("branch-and-bound", {"extraction": "ascent"}),
    ("branch-and-bound", {"extraction": "sdp"}),
    ("highs", {}),
    ("highs", {"extraction": "schur"}),
    ("highs", {"extraction": "ascent"}),
    ("highs", {"extraction": "sdp"}),
    ("highs", {"form": "big-m"}),
    ("scip", {}),
    ("scip", {"form": "perspective"}),
)


@dataclass
class Case:
    """A problem, how it is solved, and how φ is written."""

    seed: int
    phi: str
    problem: LayerProblem
    solver: str
    options: dict[str, Any]
    cardinality: int | None
    gap: float

    def __str__(self) -> str:
        told = ", ".join(f"{key}={value}" for key, value in self.options.items())
        bound = float(np.min(self.problem.term.bound))
        return (
            f"layer {self.seed}: {self.phi}, {self.problem.groups} groups of {self.problem.block}, "
            f"{self.problem.outputs} outputs, c0 {self.problem.constant:.2g}, M {bound:.3g}, "
            f"{self.solver}({told}), cardinality {self.cardinality}, gap {self.gap:g}"
        )


# a derivation takes up to seconds, and serves all seeds
_derived = cache(derive)


def phi_of(seed: int) -> str:
    """The name of a seed's φ."""
    return _phi(np.random.default_rng(seed))


def _phi(rng: np.random.Generator) -> str:
    return str(rng.choice(list(PHI), p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))


def layer_case(seed: int) -> Case:
    """The problem of a seed."""
    rng = np.random.default_rng(seed)
    phi = _phi(rng)
    groups, block = int(rng.integers(2, 8)), int(rng.choice([1, 1, 2, 3]))
    outputs, count = int(rng.integers(1, 4)), int(rng.integers(3, 60))
    width = groups * block
    inputs = _inputs(rng, count, groups, width)
    truth = (
        rng.standard_normal((width, outputs)) * (rng.random(groups) < 0.6).repeat(block)[:, None]
    )
    outcome = inputs @ truth + 10.0 ** rng.uniform(-8, 0) * rng.standard_normal((count, outputs))
    scale = 10.0 ** (rng.uniform(-12, 12) if rng.random() < 0.6 else 0.0)
    out_scale = scale if rng.random() < 0.5 else 10.0 ** rng.uniform(-12, 12)
    if phi in SCALED:
        out_scale = scale
    inputs, outcome = scale * inputs, out_scale * outcome
    term = _term(rng, phi, inputs, outcome, groups, block)
    problem = LayerProblem.from_data(inputs, outcome, term, block)
    solver, options = _solver(rng, phi, problem)
    cardinality = int(rng.integers(0, groups + 1)) if rng.random() < 0.4 else None
    gap = float(rng.choice([1e-3, 1e-4, 1e-6, 1e-8]))
    return Case(seed, phi, problem, solver, options, cardinality, gap)


def _inputs(rng: np.random.Generator, count: int, groups: int, width: int) -> np.ndarray:
    """Columns: independent, correlated, nearly the same, doubled or zero, and of other scales."""
    inputs = rng.standard_normal((count, width))
    kind = rng.integers(0, 5)
    if kind == 1:
        share = rng.choice([0.9, 0.99, 0.9999])
        inputs = share * rng.standard_normal((count, 1)) + (1 - share**2) ** 0.5 * inputs
    elif kind == 2:
        inputs[:, rng.integers(0, width)] = inputs[:, rng.integers(0, width)]
        inputs[:, rng.integers(0, width)] = 0.0
    elif kind == 3:
        inputs *= (10.0 ** rng.uniform(-4, 4, groups)).repeat(width // groups)
    elif kind == 4:
        inputs = np.maximum(inputs @ rng.standard_normal((width, width)), 0)
    if not inputs.any():
        inputs[0, 0] = 1.0
    return inputs


def _term(
    rng: np.random.Generator,
    phi: str,
    inputs: np.ndarray,
    outcome: np.ndarray,
    groups: int,
    block: int,
) -> Term:
    """Shrinkage and price in the units of the data, and now and then a bound."""
    loss = max(float((outcome**2).sum()) / (2 * len(inputs)), 1e-300)
    gram = inputs.T @ inputs / len(inputs)
    length = (loss / max(float(np.trace(gram)), 1e-300)) ** 0.5  # of usual weights
    price = loss * 10.0 ** rng.uniform(-6, 0)
    if rng.random() < 0.3:
        price = price * rng.uniform(0.5, 2.0, groups)
    bound = np.inf if rng.random() < 0.7 else length * 10.0 ** rng.uniform(-1, 1)
    if phi in SCALED:  # below, √(1 + r²) − 1 and the like cancel, which bounds do not cover
        bound = max(bound, 0.1)
    if phi == "mcp":
        weight = 0.4 * float(np.linalg.eigvalsh(gram)[0])
        if weight > 1e-10 * float(np.trace(gram)):
            return _derived("a*r**2", extract="a").term(price, bound, weight=weight)
        phi = "square"
    unit = _derived(PHI[phi][0])
    # what φ takes of the loss at the usual length
    at = {"square": length**2, "power": length**1.5, "quartic": length**4}.get(phi)
    at = min(length, length**2) if at is None else at
    weight = loss / max(at, 1e-300) * 10.0 ** rng.uniform(-6, -1)
    return unit.term(price, bound, weight=weight)


def _solver(
    rng: np.random.Generator, phi: str, problem: LayerProblem
) -> tuple[str, dict[str, Any]]:
    """One that takes the problem, the usual one most often."""
    if rng.random() < 0.4:
        return SOLVERS[0][0], dict(SOLVERS[0][1])
    fitting = [
        (solver, options)
        for solver, options in SOLVERS
        if (problem.plain or options.get("extraction") not in ("ascent", "sdp"))
        and (solver != "scip" or problem.term.ridge is not None)
    ]
    solver, options = fitting[int(rng.integers(len(fitting)))]
    return solver, dict(options)


# ---- what a choice attains ----------------------------------------------------------------------


def supports(groups: int, most: int) -> Iterator[np.ndarray]:
    """All choices of at most so many groups."""
    for choice in product((False, True), repeat=groups):
        if sum(choice) <= most:
            yield np.array(choice)


def attained(case: Case, weights: np.ndarray, support: np.ndarray) -> Fraction:
    """The objective of weights (D, O) on a support, exactly (φ to fifty digits)."""
    problem, term = case.problem, case.problem.term
    w = [[Fraction(float(x)) for x in row] for row in weights]
    alive = [k for k in range(len(w)) if any(w[k])]
    value = Fraction(problem.constant)
    for o in range(problem.outputs):
        for k in alive:
            pushed = sum(Fraction(float(problem.gram[k, i])) * w[i][o] for i in alive)
            value += w[k][o] * (pushed / 2 - Fraction(float(problem.cross[k, o])))
    shape = (problem.groups,)
    numbers = (np.broadcast_to(v, shape) for v in (term.price, term.weight, term.extract))
    with mpmath.workdps(DIGITS):
        for j, (price, weight, extract) in enumerate(zip(*numbers, strict=True)):
            if not support[j]:
                continue
            rows = range(j * problem.block, (j + 1) * problem.block)
            square = sum(x * x for k in rows for x in w[k])
            root = mpmath.sqrt(mpmath.mpf(square.numerator) / square.denominator)
            parts = PHI[case.phi][1](root)
            value += Fraction(float(price)) + Fraction(float(weight)) * _fraction(parts)
            value -= Fraction(float(extract)) * square
    return value


def _fraction(value: Any) -> Fraction:
    """An mpmath number as the rational that it is."""
    sign, mantissa, exponent, _ = mpmath.mpf(value)._mpf_
    return Fraction((-1) ** sign * int(mantissa)) * Fraction(2) ** exponent


def refitted(case: Case, support: np.ndarray) -> np.ndarray:
    """Weights (D, O) of a support by SciPy, from the project's: the better ones by float."""
    problem = case.problem
    own = refit(problem, support)
    if not support.any() or problem.plain or problem.term.ridge is not None:
        return own  # a linear solve, or a box-constrained quadratic
    rows, term = problem.rows(support), problem.term
    gram, cross = problem.gram[np.ix_(rows, rows)], problem.cross[rows]
    limit = problem.per_row(term.bound)[rows][:, None] * np.ones_like(cross)
    weight = np.broadcast_to(term.weight, (problem.groups,))[support]
    size = max(float(np.abs(own).max()), 1e-300)

    def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = size * flat.reshape(cross.shape)
        parts = w.reshape(len(weight), -1)
        norm = np.maximum(np.sqrt((parts**2).sum(axis=1)), 1e-300)
        image = gram @ w
        paid = term.take(np.ones(problem.groups, bool)).take(support).phi(norm).sum()
        value = 0.5 * np.vdot(w, image) - np.vdot(cross, w) + problem.constant + paid
        with np.errstate(all="ignore"):
            along = weight * PHI[case.phi][2](norm)
        slope = image - cross + (along[:, None] * parts).reshape(w.shape)
        return value / problem.constant, (size / problem.constant) * slope.ravel()

    ends = (limit / size).ravel()
    bounds = [(-b, b) if np.isfinite(b) else (None, None) for b in ends]
    start = (own[rows] / size).ravel()
    options = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-12}
    with np.errstate(all="ignore"):
        found = minimize(
            function, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
    if not np.isfinite(found.fun) or found.fun >= function(start)[0]:
        return own
    other = np.zeros_like(own)
    other[rows] = np.clip(size * found.x.reshape(cross.shape), -limit, limit)
    return other


def best(case: Case) -> Fraction:
    """The least that a choice attains: the best few by float, exactly."""
    problem = case.problem
    most = problem.groups if case.cardinality is None else case.cardinality
    found = []
    for support in supports(problem.groups, most):
        weights = refitted(case, support)
        found.append((problem.objective(weights, support), support, weights))
    found.sort(key=lambda item: item[0])
    return min(attained(case, weights, support) for _, support, weights in found[:3])


# ---- what must hold ------------------------------------------------------------------------------


def faults(case: Case, seconds: float = float("inf")) -> tuple[list[str], str]:
    """What does not hold of the answer to a case, a line each, and its status.

    A limit of so many seconds may be passed by a twentieth, or 0.2 s, of processor time.
    """
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = solve(
                case.problem,
                solver=case.solver,
                gap=case.gap,
                seconds=seconds,
                cardinality=case.cardinality,
                **case.options,
            )
    except InputError as error:
        return [], f"refused: {error}"
    except Exception as error:
        return [f"{case}: {type(error).__name__}: {error}"], "failed"
    lines, spent = [], time.process_time() - start
    if spent > seconds + max(0.2, 0.05 * seconds):
        lines.append(f"{case}: {spent:.1f} s of processor time at a limit of {seconds:g} s")
    optimum, problem = best(case), case.problem
    if not np.isfinite(found.objective) or Fraction(found.bound) > optimum:
        over = float((Fraction(found.bound) - optimum) / abs(optimum)) if optimum else np.inf
        lines.append(f"{case}: the bound is {over:.2g} above the optimum {float(optimum):.8g}")
    lost = float(Fraction(found.objective) - optimum)
    if found.status == "optimal" and lost > case.gap * abs(found.objective):
        lines.append(f"{case}: optimal {found.objective:.8g}, the optimum is {float(optimum):.8g}")
    most = problem.groups if case.cardinality is None else case.cardinality
    limit = np.broadcast_to(problem.per_row(problem.term.bound)[:, None], problem.cross.shape)
    if found.support.sum() > most or (np.abs(found.weights) > limit * (1 + 1e-12)).any():
        lines.append(f"{case}: its choice is not allowed")
    reached = float(attained(case, found.weights, found.support))
    if abs(reached - found.objective) > 1e-9 * max(problem.constant, abs(reached)):
        lines.append(f"{case}: weights worth {reached:.8g} are said to be {found.objective:.8g}")
    return lines, str(found.status)
