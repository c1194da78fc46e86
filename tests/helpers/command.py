"""The command line: called in this process, or where a test needs one of its own."""

import contextlib
import io
import signal
import subprocess
import sys
import traceback
import warnings

import torch

from mipprune.cli import main

# what else a process of its own would start with
WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def run(*words, cwd):
    """What ``run_alone`` returns, without the seconds that a new process takes for its imports.

    What a command changes for the whole process is taken back: its folder, its random numbers,
    threads, signals and warnings.
    """
    words, before = ["mipprune", *map(str, words)], sys.argv
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    threads, numbers = torch.get_num_threads(), torch.get_rng_state()
    out, err = io.StringIO(), io.StringIO()
    sys.argv = words
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _warnings(err),
        ):
            code = _exit_code()
    finally:
        sys.argv = before
        torch.set_num_threads(threads)
        torch.set_rng_state(numbers)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def _exit_code():
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _warnings(err):
    """Printed, as a new process does, where pytest would keep them."""

    def show(message, category, filename, lineno, file=None, line=None):
        err.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in WARNINGS:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def run_alone(*words, cwd):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mipprune", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(result, *words):
    """Exit code 2 and one line on stderr that holds all the words."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    for word in words:
        assert word in line
