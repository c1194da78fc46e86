"""What a result was measured on: stored beside every number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

_RESULTS = ":(exclude,top)benchmarks/results"
_PACKAGES = ("torch", "numpy", "scipy", "highspy", "pyomo")


def environment() -> dict[str, object]:
    """Command, git revision, processor, device and package versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        # paths of one machine mean nothing elsewhere
        "command": " ".join(["python", *(Path(w).name if w[0] == "/" else w for w in sys.argv)]),
        "revision": _revision(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _revision() -> str | None:
    """Of the working tree, "-dirty" where more than other results differs from it."""
    revision = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", _RESULTS)
    return f"{revision}{'-dirty' * bool(changed)}" if revision else None


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False
    ).stdout.strip()
