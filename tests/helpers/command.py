"""The command line in a process of its own."""

import subprocess
import sys


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mipprune", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def refused(result, *words):
    """Exit code 2 and one line on stderr that holds all the words."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    for word in words:
        assert word in line
