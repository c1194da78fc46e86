"""The pruning MIP of a layer as a linear model, for solvers that know no squares.

Every square is stated from below by teeth that fold an interval in halves. With |x| ≤ h·y and
g₁ = y − |x|/h, g_{i+1} = min(2 g_i, 2(y − g_i)), the broken line

    s(x, y) = h² · [ (1 − 4⁻ⁿ)·y − Σ_{i ≤ n} 4^{1−i} g_i ]

lies between x²/y − 4⁻ⁿ·h²·y and x²/y: at y = 1 the sum is what piecewise interpolation on 2ⁿ equal
pieces of [−h, h] leaves of h² − x² (Yarotsky 2017), which is too little by at most 4⁻ⁿ·h², and s is
homogeneous like the perspective. As the objective asks for large g, the minimum may be written as
inequalities, also where y lies between 0 and 1 (Beach, Hildebrand & Huchette 2022): n columns and
2n rows a square, where tangents would take 2ⁿ rows. These are the perspective cuts of Frangioni &
Gentile (2006) at 2ⁿ points, none of which is written down.

Loss and shrinkage are sums of such squares. With G = FᵀF and FᵀE = B the loss is
c₀ − ½‖E‖² + ½‖U‖², U = F W − E. The empty choice has the objective c₀, so an optimum has |U| ≤ ‖E‖,
and bounds on |W| that follow alike. The optimum is at least L = min(c₀, the minimum of loss and
shrinkage + the smallest price), and as many teeth as keep the sum of all errors below a share of L
give a model whose optimum is below the true one by no more than that share of it. Its weights and
indicators are feasible as they are.

All this still holds with rows that a user adds, on weights or indicators, if they allow the empty
choice; and nothing has to be solved for the model to be written. Cuts in the indicators alone, as
:mod:`formulations.layer.solvers.outer_approximation` makes them, would be fewer, but hold near one
optimum only, which has to be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyomo.environ as pyo

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import valid_bounds
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_blocks import state_box
from formulations.layer.pyomo_model import state
from formulations.terms.term import Term

# tolerances of HiGHS, CBC and GLPK are absolute; more teeth are finer than them, too: 4⁻¹⁵ ≈ 10⁻⁹
_FINEST, _MOST_TEETH = 1e-6, 15


def linear_model(
    problem: LayerProblem,
    form: str = "perspective",
    cardinality: int | None = None,
    accuracy: float = 1e-3,
) -> pyo.ConcreteModel:
    """State the pruning MIP without squares, to an accuracy.

    Variables
        w[k,n], group[j].y, z[b] as of :func:`formulations.layer.pyomo_model.pyomo_model`
        u[r,n]                    F W − E, whose squares are the loss
        group[j].v                y in the squares, with the perspective
        group[j].g, squares.g     teeth of the squares of weights and of u
    Constraints
        v_j ≤ y_j
        u_r = F_r W − E_r, and for every square over y (v, or 1)
        g_1 ≤ y + x/h,  g_1 ≤ y − x/h,  g_{i+1} ≤ 2 g_i,  g_{i+1} ≤ 2 (y − g_i)

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖².
    form : {"perspective", "big-m"}
        Whether the squares of the shrinkage are over y.
    cardinality : int, optional
        K, the largest number of groups kept.
    accuracy : float
        The model's optimum is below the true one by at most this share of it.

    Raises
    ------
    InputError
        Another φ, an unknown form, no bounds on the weights, an accuracy that is not between 0 and
        1 or finer than linear solvers are, on data of this scale.
    """
    if form not in ("perspective", "big-m"):
        raise InputError(f"unknown form {form!r}: one of perspective, big-m")
    if problem.term.ridge is None or problem.term.profile.ball:
        raise InputError("a linear model takes φ = a‖w‖², with bounds on single weights if any")
    if not 0 < accuracy < 1:
        raise InputError(f"the accuracy must lie between 0 and 1: it is {accuracy:g}")
    box = valid_bounds(problem, problem.constant)
    if not np.isfinite(box).all():
        raise InputError("a linear model needs a bound on every weight: give a bound M")
    error = 0.5 * accuracy * _least(problem)
    if error < 0.5 * _FINEST:
        raise InputError(
            f"an accuracy of {accuracy:g} is {2 * error:.1g} in the objective, and solvers see "
            f"nothing below {_FINEST:g}: take a larger one, or scale the data"
        )
    group = partial(_group, perspective=form == "perspective", error=error / box.size)
    model = state(problem, group, box, box, partial(_loss, error=error), cardinality)
    model.doc = (
        f"{form} form without squares: optimum below the true one by {accuracy:g} of it or less"
    )
    return model


def factored_loss(problem: LayerProblem) -> tuple[FloatArray, FloatArray, float]:
    """F (R, D), E (R, O) and r: the loss less its extraction is r + ½‖F W − E‖²."""
    values, vectors = np.linalg.eigh(problem.curvature)
    seen = values > len(values) * np.finfo(float).eps * values[-1]
    root, basis = np.sqrt(values[seen])[:, None], vectors[:, seen].T
    target = basis @ problem.cross / root
    return root * basis, target, problem.constant - 0.5 * float((target**2).sum())


def _least(problem: LayerProblem) -> float:
    """A lower bound on the optimum: no group, or one at least and the best loss and shrinkage."""
    dense = np.linalg.lstsq(problem.hessian, problem.cross)[0]
    best = problem.constant - 0.5 * float(np.vdot(problem.cross, dense))
    best = max(0.0, best - 1e-12 * problem.constant)
    return min(problem.constant, best + float(problem.price.min()))


def _group(
    block: pyo.Block,
    weights: Sequence[pyo.Var],
    term: Term,
    bounds: Sequence[float],
    *,
    perspective: bool,
    error: float,
) -> None:
    """State one group's term, its error at most ``error`` a weight."""
    block.y = pyo.Var(domain=pyo.Binary, doc="1 if the group is kept")
    if not perspective:
        state_box(block, weights, bounds)
    over = 1.0
    if perspective:
        # nothing is gained by v < y; CBC 2.10 spoils rows of teeth that hold the binary itself
        over = block.v = pyo.Var(bounds=(0, 1), doc="y in the squares, continuous")
        block.share = pyo.Constraint(expr=block.v <= block.y, doc="v <= y")
    ridge = 0.0 if term.ridge is None else float(term.ridge)
    teeth = _teeth(ridge * max(bounds) ** 2, error)
    squares = _squares(block, weights, bounds, over, teeth)
    block.cost = pyo.Expression(expr=ridge * squares + float(term.price) * block.y)


def _loss(model: pyo.ConcreteModel, problem: LayerProblem, *, error: float) -> pyo.Expression:
    """The loss less its extraction, its error at most ``error`` in all."""
    factor, target, constant = factored_loss(problem)
    half = float(np.linalg.norm(target)) * (1 + 1e-9)
    model.R = pyo.RangeSet(0, len(factor) - 1)
    model.u = pyo.Var(
        model.R, model.N, bounds=(-half, half), doc="F w - E: half its squares are the loss"
    )
    model.residual = pyo.Constraint(
        model.R,
        model.N,
        rule=lambda m, r, n: (
            sum(float(factor[r, k]) * m.w[k, n] for k in m.K) - m.u[r, n] == float(target[r, n])
        ),
        doc="u = F w - E",
    )
    columns = list(model.u.values())
    model.squares = pyo.Block()
    teeth = _teeth(0.5 * half**2 * len(columns), error)
    squares = _squares(model.squares, columns, [half] * len(columns), 1.0, teeth)
    return constant + 0.5 * squares


def _teeth(size: float, error: float) -> int:
    """The n with size·4⁻ⁿ ≤ error."""
    if size <= error:
        return 1
    teeth = math.ceil(0.5 * math.log2(size / error))
    if teeth > _MOST_TEETH:
        raise InputError("the numbers are too far apart for this accuracy: take a larger one")
    return teeth


def _squares(
    block: pyo.Block,
    entries: Sequence[pyo.Var],
    half: Sequence[float],
    over: pyo.Var | float,
    teeth: int,
) -> pyo.Expression:
    """Σ_k s(x_k, y) of this module's head, its teeth stated in place.

    Parameters
    ----------
    block : pyomo Block
    entries : list of pyomo variables
        x.
    half : list of float
        h of each.
    over : pyomo variable or 1
        y.
    teeth : int
        n.
    """
    seen = [k for k, h in enumerate(half) if h > 0]  # the others are 0
    block.g = pyo.Var(seen, range(teeth), domain=pyo.NonNegativeReals, doc="teeth of a square")

    def rise(b: pyo.Block, k: int, i: int) -> pyo.Expression:
        return b.g[k, i] <= (2 * b.g[k, i - 1] if i else over + entries[k] / half[k])

    def fall(b: pyo.Block, k: int, i: int) -> pyo.Expression:
        return b.g[k, i] <= (2 * (over - b.g[k, i - 1]) if i else over - entries[k] / half[k])

    block.rise = pyo.Constraint(seen, range(teeth), rule=rise, doc="a tooth's way up")
    block.fall = pyo.Constraint(seen, range(teeth), rule=fall, doc="a tooth's way down")
    return sum(
        half[k] ** 2
        * ((1 - 4.0**-teeth) * over - sum(4.0**-i * block.g[k, i] for i in range(teeth)))
        for k in seen
    )
