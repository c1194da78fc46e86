"""Runs in processes that are killed: a server that imports once and forks for every run.

    python survivor.py SEED KILLS WORDS…

trains the same run again and again with --resume, each time ended by SIGKILL, SIGTERM or SIGINT
after a random time, KILLS times; then to its end. Prints a line for every end.
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from mipprune.cli import main
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.runs.checkpoint import load_generation
from mipprune.training.plan import plan


def attempt(words):
    """A child that runs the command line."""
    child = os.fork()
    if child == 0:
        sys.argv = ["mipprune", *words]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        os._exit(code)
    return child


def end_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def survive(seed, kills, words, folder):
    chance = random.Random(seed)
    resume = []
    for _ in range(kills):
        child = attempt([*words, *resume])
        time.sleep(chance.uniform(0.1, 0.9))
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        code = end_of(child)
        resume = ["--resume"] if folder.exists() else []
        if (folder / "last").exists() or (folder / "last.previous").exists():
            *_, broken = load_generation(folder / "last")
            assert broken is None, broken
        print(number, code, flush=True)
        if code == 0:
            return
        # before it listens, and from the second one on, a signal has its usual effect
        assert code in (-9, -15, 143, 130), code
    assert end_of(attempt([*words, *resume])) == 0


if __name__ == "__main__":
    _, recipe, *settings = sys.argv[4:]
    plan(configure(Config, read_recipe(recipe), settings))  # imports all that the forks need
    survive(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4:], Path(sys.argv[3]))
