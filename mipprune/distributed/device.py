"""The device that a configuration names."""

from __future__ import annotations

import torch

from formulations.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    InputError
        If this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} is not to be had: {str(error).splitlines()[0]}") from None
    return device
