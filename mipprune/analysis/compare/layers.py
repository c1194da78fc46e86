"""A layer problem: exact, relaxed, trained, and by the usual heuristics.

The trained row minimises the perspective relaxation in PyTorch by proximal gradient with the
trainer's own penalty: it must reach that relaxation's value and stay below the exact optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from formulations.api import relax, solve
from formulations.arrays import BoolArray
from formulations.errors import InputError
from formulations.layer.big_m import bounded
from formulations.layer.problem import LayerProblem
from formulations.layer.refit import refit
from formulations.layer.solvers import branch_and_bound
from formulations.solving.deadline import Deadline
from formulations.solving.result import Progress, Solution, Status, check_cardinality
from mipprune.analysis.compare.comparison import Comparison, Job
from mipprune.analysis.compare.heuristics import best_count, group_lasso, magnitude, train_spr
from mipprune.analysis.compare.rows import ended, make_row, solution_row

_EXTRACTIONS = ("schur", "ascent", "sdp")
# prices of a sweep, as multiples of the problem's own
_SPREAD = 30.0
# and the one at which the limit on the number of groups decides how many there are
_FREE = 1e-3


def layer_jobs(problem: LayerProblem, comparison: Comparison) -> list[Job]:
    """Solve, relax, train: one row a way of pruning; then the trade-off curves, where asked for.

    Parameters
    ----------
    problem : LayerProblem
    comparison : Comparison
        To which the jobs add their rows. Of its settings solver, tolerance, λ, cardinality and how
        many prices to sweep are heard.
    """
    work = _LayerWork(problem, comparison)
    return work.rows() + work.curves()


class _LayerWork:
    """The jobs of one layer problem, and the exact solution once it is known."""

    def __init__(self, problem: LayerProblem, comparison: Comparison) -> None:
        self.problem, self.comparison, self.config = problem, comparison, comparison.config
        self.most = check_cardinality(self.config.cardinality, problem.groups)
        # a support without prices: of loss and shrinkage alone
        self.nothing = np.zeros(problem.groups, bool)
        self.exact: Solution

    def rows(self) -> list[Job]:
        """The exact row first: all others are compared with it."""
        jobs = [Job("exact", self._exact)]
        limits = {"cardinality": self.config.cardinality}
        plain = self.problem.plain
        jobs.append(self._relaxation("big-m-relaxation", relax, form="big-m", **limits))
        if plain:
            jobs.append(
                self._relaxation("perspective-relaxation", branch_and_bound.relax, **limits)
            )
        else:
            jobs.append(self._relaxation("perspective-relaxation", relax, **limits))
        jobs += [
            self._relaxation(
                f"perspective+{rule}", branch_and_bound.relax, extraction=rule, **limits
            )
            for rule in (_EXTRACTIONS if plain else ())
        ]
        jobs.append(Job("spr-trained", self._trained))
        choices: dict[str, Callable[[Deadline], BoolArray]] = {
            f"spr λ={lam:g}, ranked": partial(self._ranked, lam=lam) for lam in self.config.lam
        }
        choices["group-lasso"] = partial(group_lasso, self.problem, self.most)
        choices["magnitude"] = partial(magnitude, self.problem, self.most)
        return jobs + [self._choice(name, choose) for name, choose in choices.items()]

    def curves(self) -> list[Job]:
        """The exact solution for every number of groups, and exact and relaxed ones over prices."""
        # nested indicators have more prices than one
        if not self.config.sweep or self.problem.term.blocks is not None:
            return []
        numbers = range(self.most + 1)
        factors = np.geomspace(1 / _SPREAD, _SPREAD, self.config.sweep).tolist()
        return [
            *(Job(f"{kept} groups", partial(self._of_number, kept)) for kept in numbers),
            *(Job(f"price × {factor:.3g}", partial(self._at_price, factor)) for factor in factors),
        ]

    def _solve(
        self,
        problem: LayerProblem,
        deadline: Deadline,
        most: int | None,
        follow: Callable[[Progress], None] | None = None,
    ) -> Solution:
        solver = self.config.solver
        return solve(
            problem,
            solver=solver,
            gap=self.config.tolerance,
            seconds=deadline.seconds,
            cardinality=most,
            on_progress=None if solver == "scip" else follow,
        )

    def _exact(self, deadline: Deadline) -> Status:
        work = self.comparison
        self.exact = self._solve(self.problem, deadline, self.config.cardinality, work.follow)
        work.follow(
            Progress(self.exact.objective, self.exact.bound, self.exact.nodes, self.exact.seconds)
        )
        work.rows.append(solution_row("exact", self.exact, self.exact))
        return self.exact.status

    def _relaxation(self, name: str, solver: Callable[..., Solution], **options: Any) -> Job:
        def work(deadline: Deadline) -> Status | None:
            try:
                solution = solver(self.problem, seconds=deadline.seconds, **options)
            except InputError:
                if options.get("extraction") != "sdp":
                    raise
                # the semidefinite program: too large, its solver not installed, or at a loss
                return None
            self.comparison.rows.append(solution_row(name, solution, self.exact))
            return solution.status

        return Job(name, work)

    def _trained(self, deadline: Deadline) -> None:
        """At λ = 1 the relaxation itself."""
        problem = self._boxed(self.problem, deadline)
        weights = train_spr(problem, deadline)
        self.comparison.rows.append(
            make_row(
                "spr-trained",
                problem.relaxed_objective(weights),
                problem.term.keep(problem.by_group(weights)) > 0.5,
                exact=self.exact,
                bound=problem.dual_bound(weights),
                seconds=deadline.elapsed,
                status=ended(deadline, "trained"),
            )
        )

    def _ranked(self, deadline: Deadline, lam: float) -> BoolArray:
        """Trained at λ, the best number of the groups as y ranks them."""
        problem = self._boxed(self.problem, deadline)
        weights = train_spr(problem, deadline, lam)
        scores = problem.term.uncapped_indicator(*problem.term.measure(problem.by_group(weights)))
        return best_count(self.problem, self.most, scores, deadline)

    def _choice(self, name: str, choose: Callable[[Deadline], BoolArray]) -> Job:
        def work(deadline: Deadline) -> None:
            support = choose(deadline)
            self.comparison.rows.append(
                make_row(
                    name,
                    self.problem.objective(refit(self.problem, support), support),
                    support,
                    exact=self.exact,
                    seconds=deadline.elapsed,
                    status=ended(deadline),
                )
            )

        return Job(name, work)

    def _of_number(self, kept: int, deadline: Deadline) -> Status:
        """A point of the front: prices, which reach its convex hull alone, hardly count."""
        free = self._priced(_FREE)
        exact = self._solve(free, deadline, kept)
        self.comparison.front.append(
            {
                "kept": exact.kept,
                "loss": free.objective(exact.weights, self.nothing),
                "gap": exact.gap,
                "status": exact.status,
            }
        )
        return exact.status

    def _at_price(self, factor: float, deadline: Deadline) -> Status:
        """A point of the sweep. A cardinality limits the choices, not the relaxation."""
        priced = self._priced(factor)
        exact = self._solve(priced, deadline, self.config.cardinality)
        if exact.status == Status.INTERRUPTED:
            return exact.status
        training = Deadline(deadline.seconds, deadline.clock)
        boxed = self._boxed(priced, training)
        weights = train_spr(boxed, training)
        keep = boxed.term.keep(boxed.by_group(weights))
        first = np.zeros(priced.groups, bool)
        first[np.argsort(-keep)[: self.most]] = True
        rounded = (keep > 0.5) & first
        prices = priced.term.prices(keep)
        self.comparison.sweep.append(
            {
                "price": float(factor),
                "exact_kept": exact.kept,
                "exact_loss": priced.objective(exact.weights, self.nothing),
                "exact_gap": exact.gap,
                "relaxed_kept": float(keep.sum()),
                "relaxed_loss": boxed.relaxed_objective(weights) - prices,
                "rounded_kept": int(rounded.sum()),
                "rounded_loss": priced.objective(refit(priced, rounded), self.nothing),
            }
        )
        return exact.status

    def _boxed(self, problem: LayerProblem, deadline: Deadline) -> LayerProblem:
        """With the bound M that its perspective needs, derived for its prices and cardinality."""
        return bounded(problem, self.most, deadline.check)

    def _priced(self, factor: float) -> LayerProblem:
        return replace(
            self.problem, term=self.problem.term.priced(factor * self.problem.term.price)
        )
