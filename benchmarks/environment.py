"""What a result was measured on: stored beside every number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "numpy", "scipy", "highspy", "pyomo")


def environment() -> dict[str, object]:
    """Command, git revision, processor, device and package versions."""
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        # paths of one machine mean nothing elsewhere
        "command": " ".join(["python", *(Path(w).name if w[0] == "/" else w for w in sys.argv)]),
        "revision": revision.stdout.strip() or None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "packages": {name: version(name) for name in _PACKAGES},
    }
