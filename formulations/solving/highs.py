"""HiGHS: run in its thread so that Ctrl-C is heard, and how it ended in our words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import highspy

from formulations.solving.result import Status

# Tighter than HiGHS's defaults, because the answers are used as certificates.
FEASIBILITY = 1e-9
# seconds between looks at a running solver, the first and the longest
_SOON, _POLL = 2e-5, 0.02
# longer than that HiGHS takes for a number that is no time
_LONGEST = 1e9

_STATUS = {
    highspy.HighsModelStatus.kOptimal: Status.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Status.INFEASIBLE,
    highspy.HighsModelStatus.kTimeLimit: Status.TIME_LIMIT,
    highspy.HighsModelStatus.kInterrupt: Status.INTERRUPTED,
}


def quiet(*tolerances: str) -> highspy.Highs:
    """A HiGHS that prints nothing and can be interrupted.

    Parameters
    ----------
    *tolerances : str
        Of ``"primal"``, ``"dual"``, ``"mip"``: the feasibility tolerances that are tightened.
    """
    highs = highspy.Highs()
    highs.silent()
    highs.HandleUserInterrupt = True
    for name in tolerances:
        highs.setOptionValue(f"{name}_feasibility_tolerance", FEASIBILITY)
    return highs


def run(
    highs: highspy.Highs, seconds: float = math.inf, look: Callable[[], None] = lambda: None
) -> Status:
    """Solve what HiGHS holds.

    Parameters
    ----------
    highs : highspy.Highs
        Of :func:`quiet`.
    seconds : float
        From now on.
    look : callable
        Called now and then while it runs; what it raises ends the solve and is raised here.

    Returns
    -------
    Status
        How it ended; ``NUMERICAL`` for all that HiGHS says of trouble, and ``INTERRUPTED`` if
        Ctrl-C was heard, whatever HiGHS came to before it heard of it.
    """
    # HiGHS's clock runs on between the solves of one instance
    limit = highs.getRunTime() + max(0.0, seconds)
    highs.setOptionValue("time_limit", min(limit, _LONGEST))
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
    if interrupted:
        return Status.INTERRUPTED
    return _STATUS.get(highs.getModelStatus(), Status.NUMERICAL)


def feasible(highs: highspy.Highs) -> bool:
    """Whether it holds a feasible point."""
    status = highs.getInfo().primal_solution_status
    return bool(status == highspy.SolutionStatus.kSolutionStatusFeasible)
