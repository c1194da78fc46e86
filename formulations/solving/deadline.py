"""How long a solve may take, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stopped(Exception):
    """Work ended before its goal; ``status`` says why, in the words of a Solution."""

    def __init__(self, status: str):
        super().__init__(status)
        self.status = status


class Clock:
    """The time since the start of a solve, and its limit.

    Parameters
    ----------
    limit : float
        Seconds.
    """

    def __init__(self, limit: float):
        self.start, self.limit = time.perf_counter(), limit

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.limit - self.elapsed

    def check(self) -> None:
        """Stop if the time is over."""
        if self.elapsed >= self.limit:
            raise Stopped("time_limit")


def attempt(work: Callable[[], object]) -> str:
    """Run ``work``; how it ended, in the words of a Solution."""
    try:
        work()
    except KeyboardInterrupt:
        return "interrupted"
    except Stopped as stop:
        return stop.status
    return "optimal"
