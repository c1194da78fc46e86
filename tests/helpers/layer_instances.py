"""Small layer problems and their answers by enumeration, shared by the tests of this folder."""

import itertools

import numpy as np
from hypothesis import strategies as st
from scipy.optimize import minimize

from formulations import LayerProblem, square


def layer_data(seed: int, inputs: int, outputs: int, samples: int | None = None):
    """Correlated inputs X (n, D) and noisy outputs Y (n, O) of which some inputs do not matter."""
    rng = np.random.default_rng(seed)
    n = samples or 3 * inputs + 5
    x = rng.normal(size=(n, inputs)) @ (np.eye(inputs) + 0.3 * rng.normal(size=(inputs, inputs)))
    true = rng.normal(size=(inputs, outputs)) * (rng.random(inputs) < 0.6)[:, None]
    return x, x @ true + 0.5 * rng.normal(size=(n, outputs))


def layer_problem(
    seed: int, *, groups=5, block=1, outputs=1, shrinkage=0.05, price=0.2, bound=np.inf
) -> LayerProblem:
    """A random layer problem of the given sizes and term."""
    x, y = layer_data(seed, groups * block, outputs)
    return LayerProblem.from_data(x, y, square(shrinkage, price, bound), block)


@st.composite
def layer_problems(draw, max_groups=6, max_size=14, bounds=(np.inf, 0.8, 0.2)) -> LayerProblem:
    """Layer problems of every kind: block and outputs above 1, prices a group, with and without M.

    The price is measured by c₀/G, so that neither nothing nor everything is always kept.
    """
    groups = draw(st.integers(2, max_groups))
    block = draw(st.integers(1, max(1, min(3, max_size // groups))))
    outputs = draw(st.integers(1, 3))
    x, y = layer_data(draw(st.integers(0, 10_000)), groups * block, outputs)
    energy = float((y * y).sum() / (2 * len(y)))
    price = energy / groups * 10 ** draw(st.floats(-2.5, 0.3))
    if draw(st.booleans()):
        price = price * np.array(
            draw(st.lists(st.floats(0.2, 5), min_size=groups, max_size=groups))
        )
    term = square(10 ** draw(st.floats(-2, 0.5)), price, draw(st.sampled_from(bounds)))
    return LayerProblem.from_data(x, y, term, block)


def all_supports(groups: int) -> list[np.ndarray]:
    """Every subset of the groups, as (G,) masks."""
    return [np.array(mask) for mask in itertools.product([False, True], repeat=groups)]


def direct_objective(problem: LayerProblem, weights: np.ndarray, support: np.ndarray) -> float:
    """The MIP's objective written out with loops over the groups."""
    value = problem.constant
    for column in range(weights.shape[1]):
        w = weights[:, column]
        value += 0.5 * w @ problem.gram @ w - problem.cross[:, column] @ w
    for j in range(problem.groups):
        a, c = (
            float(np.broadcast_to(p, (problem.groups,))[j])
            for p in (problem.term.ridge, problem.term.price)
        )
        rows = slice(j * problem.block, (j + 1) * problem.block)
        value += a * float((weights[rows] ** 2).sum()) + (c if support[j] else 0.0)
    return float(value)


def direct_refit(problem: LayerProblem, support: np.ndarray) -> np.ndarray:
    """Best weights on a support: least squares, and projected quasi-Newton where M binds."""
    groups = problem.groups
    a = np.repeat(np.broadcast_to(problem.term.ridge, (groups,)), problem.block)
    m = np.repeat(np.broadcast_to(problem.term.bound, (groups,)), problem.block)
    rows = np.repeat(support, problem.block)
    weights = np.zeros_like(problem.cross)
    if not rows.any():
        return weights
    hessian, m = (problem.gram + 2 * np.diag(a))[np.ix_(rows, rows)], m[rows]
    for column, cross in enumerate(problem.cross[rows].T):
        fit = np.linalg.lstsq(hessian, cross, rcond=None)[0]
        if (np.abs(fit) > m).any():
            fit = minimize(
                lambda w, cross=cross: (0.5 * w @ hessian @ w - cross @ w, hessian @ w - cross),
                np.clip(fit, -m, m),
                jac=True,
                bounds=[(-b, b) for b in m],
                method="L-BFGS-B",
                options={"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10},
            ).x
        weights[rows, column] = fit
    return weights


def brute_force(problem: LayerProblem) -> tuple[float, np.ndarray, np.ndarray]:
    """Optimum, support and weights by enumeration of every support with :func:`direct_refit`."""
    best = (np.inf, None, None)
    for support in all_supports(problem.groups):
        weights = direct_refit(problem, support)
        value = direct_objective(problem, weights, support)
        if value < best[0]:
            best = (value, support, weights)
    return best
