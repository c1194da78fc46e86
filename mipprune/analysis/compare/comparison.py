"""What a comparison has found so far, and the work that is left: a job for each row and point."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from formulations.solving.deadline import Deadline
from formulations.solving.result import Progress, Status
from mipprune.config.compare import CompareConfig


class Job(NamedTuple):
    """One piece of work, that adds to what is found when it is done.

    Parameters
    ----------
    name : str
        Said while it is worked on.
    work : callable
        Given its own deadline. ``Status.INTERRUPTED`` as its answer ends the comparison: Ctrl-C
        came while a solver worked, which has returned what it had.
    """

    name: str
    work: Callable[[Deadline], Status | None]


class Comparison:
    """Rows, progress, front and sweep of one problem, as far as they are known.

    Parameters
    ----------
    config : CompareConfig
        Every job has its ``time_limit``.
    report : callable
        Called with what is being worked on.
    clock : callable
        The time in seconds, from any moment on.

    Attributes
    ----------
    rows : list of dict
        One a way of pruning (:func:`mipprune.analysis.compare.rows.make_row`), the exact one first.
    progress : list of dict
        ``seconds``, ``objective``, ``bound`` and ``nodes`` of the exact solve, from its root on.
    front : list of dict
        ``kept``, ``loss``, ``gap`` and ``status`` of the exact solution for every number of groups.
    sweep : list of dict
        The same of exact and relaxed solutions over prices.
    """

    def __init__(
        self,
        config: CompareConfig,
        report: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config, self.report, self.clock = config, report, clock
        self.rows: list[dict[str, Any]] = []
        self.progress: list[dict[str, float]] = []
        self.front: list[dict[str, Any]] = []
        self.sweep: list[dict[str, float]] = []
        self._share, self._name = 0.0, ""

    def run(self, jobs: Iterable[Job]) -> None:
        """Work through jobs, each within the limit on its time.

        Raises
        ------
        KeyboardInterrupt
            On Ctrl-C; what was found before stays.
        """
        jobs = list(jobs)
        for number, (name, work) in enumerate(jobs):
            self._share, self._name = number / len(jobs), name
            self.say()
            if work(Deadline(self.config.time_limit, self.clock)) == Status.INTERRUPTED:
                raise KeyboardInterrupt

    def say(self, more: str = "") -> None:
        """Report the share of the jobs that is done and what is worked on."""
        self.report(f"{self._share:.0%} {self._name}{more and f': {more}'}")

    def follow(self, state: Progress) -> None:
        """Take down and report where the exact solve stands."""
        self.progress.append(
            {
                "seconds": state.seconds,
                "objective": state.objective,
                "bound": state.bound,
                "nodes": state.nodes,
            }
        )
        self.say(
            f"incumbent {state.objective:.6g}, bound {state.bound:.6g}, gap {state.gap:.2%}, "
            f"{state.nodes} nodes"
        )

    def found(self) -> dict[str, Any]:
        """All that is known, as :func:`mipprune.analysis.compare.compare.compare` returns it."""
        return {
            "rows": self.rows,
            "progress": self.progress,
            "front": self.front,
            "sweep": self.sweep,
        }
