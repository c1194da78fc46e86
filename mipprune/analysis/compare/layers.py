"""A layer problem: exact, relaxed, trained, and by the usual heuristics.

The trained row minimises the perspective relaxation in PyTorch by proximal gradient with the
trainer's own penalty: it must reach that relaxation's value and stay below the exact optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from formulations.api import relax, solve
from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.solvers import branch_and_bound
from formulations.solving.result import Progress, Solution, check_cardinality, relative_gap
from mipprune.analysis.compare.heuristics import best_count, group_lasso, magnitude, train_spr
from mipprune.analysis.compare.rows import make_row, solution_row
from mipprune.config.compare import CompareConfig

_EXTRACTIONS = ("schur", "ascent", "sdp")
# prices of a sweep, as multiples of the problem's own
_SPREAD = 30.0


def compare_layer(
    problem: LayerProblem,
    config: CompareConfig,
    report: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Solve, relax, train: one row a way of pruning.

    Parameters
    ----------
    problem : LayerProblem
    config : CompareConfig
        Solver, tolerance, time limit, λ, and how many prices to sweep.
    report : callable
        Called with what is being worked on.

    Returns
    -------
    dict
        ``rows`` (:func:`mipprune.analysis.compare.rows.make_row`), ``progress`` (seconds,
        objective, bound and nodes of the exact solve) and ``sweep`` (:func:`sweep_prices`; empty
        without one).
    """
    problem = bounded(problem)
    progress: list[dict[str, float]] = []

    def follow(state: Progress) -> None:
        progress.append(
            {
                "seconds": state.seconds,
                "objective": state.objective,
                "bound": state.bound,
                "nodes": state.nodes,
            }
        )
        report(
            f"exact: incumbent {state.objective:.6g}, bound {state.bound:.6g}, gap "
            f"{state.gap:.2%}, {state.nodes} nodes, {state.seconds:.0f} s"
        )

    report("exact")
    exact = _solve(problem, config, follow)
    progress.append(
        {
            "seconds": exact.seconds,
            "objective": exact.objective,
            "bound": exact.bound,
            "nodes": exact.nodes,
        }
    )
    rows = [solution_row("exact", exact, exact)]
    for name, solution in _relaxations(problem, config, report):
        rows.append(solution_row(name, solution, exact))
    rows += _trained(problem, config, exact, report)
    most = check_cardinality(config.cardinality, problem.groups)
    heuristics = {
        "group-lasso": lambda: group_lasso(problem, most, config.time_limit),
        "magnitude": lambda: magnitude(problem, most),
    }
    for name, work in heuristics.items():
        report(name)
        start = time.perf_counter()
        support = work()
        objective = problem.objective(refit(problem, support), support)
        seconds = time.perf_counter() - start
        rows.append(make_row(name, objective, support, exact=exact, seconds=seconds))
    return {"rows": rows, "progress": progress, "sweep": sweep_prices(problem, config, report)}


def _solve(
    problem: LayerProblem, config: CompareConfig, follow: Callable[[Progress], None] | None = None
) -> Solution:
    return solve(
        problem,
        solver=config.solver,
        gap=config.tolerance,
        seconds=config.time_limit,
        cardinality=config.cardinality,
        on_progress=None if config.solver == "scip" else follow,
    )


def _relaxations(
    problem: LayerProblem, config: CompareConfig, report: Callable[[str], None]
) -> Iterator[tuple[str, Solution]]:
    limits: dict[str, Any] = {"seconds": config.time_limit, "cardinality": config.cardinality}
    report("big-m-relaxation")
    yield "big-m-relaxation", relax(problem, "big-m", **limits)
    report("perspective-relaxation")
    if problem.plain:
        yield (
            "perspective-relaxation",
            branch_and_bound.relax(problem, cardinality=config.cardinality),
        )
    else:
        yield "perspective-relaxation", relax(problem, "perspective", **limits)
    if not problem.plain:
        return
    for rule in _EXTRACTIONS:
        name = f"perspective+{rule}"
        report(name)
        try:
            relaxed = branch_and_bound.relax(
                problem, extraction=rule, cardinality=config.cardinality
            )
        except (InputError, RuntimeError):
            # the semidefinite program: too large, its solver not installed, or at a loss
            continue
        yield name, relaxed


def _trained(
    problem: LayerProblem, config: CompareConfig, exact: Solution, report: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """At λ = 1 the relaxation itself; for every configured λ the best number of the ranked groups.

    They rank by y.
    """
    report("spr-trained")
    start = time.perf_counter()
    weights = train_spr(problem, config.time_limit)
    value, bound = problem.relaxed_objective(weights), problem.dual_bound(weights)
    yield make_row(
        "spr-trained",
        value,
        problem.term.keep(problem.by_group(weights)) > 0.5,
        exact=exact,
        bound=bound,
        gap=relative_gap(value, bound),
        seconds=time.perf_counter() - start,
        status="trained",
    )
    for lam in config.lam:
        report(f"spr λ={lam:g}")
        start = time.perf_counter()
        weights = train_spr(problem, config.time_limit, lam)
        scores = problem.term.uncapped_indicator(*problem.term.measure(problem.by_group(weights)))
        most = check_cardinality(config.cardinality, problem.groups)
        support = best_count(problem, most, scores)
        objective = problem.objective(refit(problem, support), support)
        seconds = time.perf_counter() - start
        yield make_row(f"spr λ={lam:g}, ranked", objective, support, exact=exact, seconds=seconds)


def sweep_prices(
    problem: LayerProblem, config: CompareConfig, report: Callable[[str], None]
) -> list[dict[str, float]]:
    """The trade-off curve: loss against kept groups over prices, exact and relaxed.

    Returns
    -------
    list of dict
        ``price`` (times the problem's own), ``exact_kept``, ``exact_loss``, ``exact_gap`` of the
        MIP, ``relaxed_kept`` (Σ y), ``relaxed_loss`` of the trained relaxation, and
        ``rounded_kept``, ``rounded_loss`` of its support at y > ½ after a refit. A cardinality
        limits the exact and the rounded support, not the relaxation.
    """
    points: list[dict[str, float]] = []
    if problem.term.blocks is not None:
        return points
    for factor in np.geomspace(1 / _SPREAD, _SPREAD, config.sweep) if config.sweep else ():
        report(f"price × {factor:.3g}")
        priced = replace(problem, term=problem.term.priced(factor * problem.term.price))
        exact = _solve(priced, config)
        weights = train_spr(priced, config.time_limit)
        keep = priced.term.keep(priced.by_group(weights))
        most = check_cardinality(config.cardinality, problem.groups)
        first = np.zeros(problem.groups, bool)
        first[np.argsort(-keep)[:most]] = True
        rounded = (keep > 0.5) & first
        points.append(
            {
                "price": float(factor),
                "exact_kept": exact.kept,
                "exact_loss": priced.loss(exact.weights),
                "exact_gap": exact.gap,
                "relaxed_kept": float(keep.sum()),
                "relaxed_loss": priced.loss(weights),
                "rounded_kept": int(rounded.sum()),
                "rounded_loss": priced.loss(refit(priced, rounded)),
            }
        )
    return points
