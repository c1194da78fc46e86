"""Fixtures that tests share."""

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def known_instances() -> Path:
    """The folder of layer problems with proved optima, or a skip that says where it was sought."""
    named = os.environ.get("MIPPRUNE_DATA")
    root = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    folder = root / "mip"
    if not folder.is_dir():
        pytest.skip(f"no known instances: {folder} does not exist (MIPPRUNE_DATA names its parent)")
    return folder


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """A shell starts background jobs with Ctrl-C ignored; the tests of interrupts need it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
