"""How long a solve may take, and how its work ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from formulations.solving.result import Status, check_positive


class Stopped(Exception):
    """Work ended before its goal.

    Parameters
    ----------
    status : Status
        Why.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class Deadline:
    """The time since the start of a solve, and its limit.

    Parameters
    ----------
    seconds : float
        The limit.
    clock : callable
        The time in seconds, from any moment on.
    start : float, optional
        The clock's time from which on it counts; now, if not given.
    """

    def __init__(
        self,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
        start: float | None = None,
    ) -> None:
        self.seconds, self.clock = seconds, clock
        self.start = clock() if start is None else start
        self._held = False

    @classmethod
    def of(cls, seconds: float | Deadline) -> Deadline:
        """One of so many seconds from now on, or the one that is given.

        Raises
        ------
        InputError
            Seconds not positive.
        """
        if isinstance(seconds, Deadline):
            return seconds
        check_positive("time limit", seconds)
        return cls(seconds)

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self.clock() - self.start

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is over."""
        return self.seconds - self.elapsed

    @property
    def over(self) -> bool:
        """Whether none are left."""
        return self.elapsed >= self.seconds

    def check(self) -> None:
        """Raise ``Stopped`` if the time is over, unless it is held."""
        if not self._held and self.over:
            raise Stopped(Status.TIME_LIMIT)

    def part(self, share: float) -> Deadline:
        """The deadline of a first part of the work, that may take this share of all seconds."""
        return Deadline(share * self.seconds, self.clock, self.start)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work that no check breaks off, such as the first incumbent."""
        self._held = True
        try:
            yield
        finally:
            self._held = False


def attempt(work: Callable[[], object]) -> Status:
    """Run ``work``; how it ended. Ctrl-C ends it, too."""
    try:
        work()
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except Stopped as stop:
        return stop.status
    return Status.OPTIMAL
