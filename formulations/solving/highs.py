"""HiGHS, run in its thread so that Ctrl-C is heard."""

from __future__ import annotations

import time
from collections.abc import Callable

import highspy

# seconds between looks at a running solver, the first and the longest
_SOON, _POLL = 2e-5, 0.02


def run(highs: highspy.Highs, look: Callable[[], None] = lambda: None) -> bool:
    """Solve what HiGHS holds; whether Ctrl-C ended it.

    Parameters
    ----------
    highs : highspy.Highs
        With ``HandleUserInterrupt`` set.
    look : callable
        Called now and then while it runs; what it raises ends the solve and is raised here.
    """
    highs.startSolve()
    pause, interrupted = _SOON, False
    # not by joining the thread: a join that Ctrl-C breaks off takes the thread for ended
    while highs.is_solver_running():
        try:
            time.sleep(pause)
            pause = min(2 * pause, _POLL)
            look()
        except KeyboardInterrupt:
            interrupted = True
            highs.cancelSolve()
        except BaseException:
            highs.cancelSolve()
            highs.wait()
            raise
    return interrupted
