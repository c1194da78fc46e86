"""One process at a time in a run's folder, and none that is dead."""

import os
import signal
import subprocess
import sys

import pytest
from command import refused, run

from formulations.errors import InputError
from mipprune.runs.folder import begin
from mipprune.runs.lock import FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from mipprune.runs.lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("taken", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A run's folder in which another process works, and that process."""
    folder = tmp_path / "runs" / "half"
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "taken\n"
    yield folder, process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits-spr", "name=half", "--resume"],
        ["prune", "init=w.safetensors", "budget.macs=0.5", "name=half", "--resume"],
        ["certify", "runs/half"],
    ],
    ids=["train", "prune", "certify"],
)
def test_a_second_process_is_refused_until_the_first_is_dead(held, tmp_path, words):
    folder, process = held
    if words[0] == "prune":
        from safetensors.torch import save_file
        from tasks import small_network

        save_file(small_network("resnet8", width=4).state_dict(), tmp_path / "w.safetensors")
        words = [*words[:2], "model=resnet8", "model.width=4", *words[2:]]
    found = run(*words, cwd=tmp_path)
    refused(found, "half is in use by another process")
    assert [path.name for path in folder.iterdir()] == ["lock"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with FolderLock(folder) as lock:
        lock.take()


def test_of_two_that_begin_at_once_one_is_refused(tmp_path):
    folder = tmp_path / "runs" / "half"
    with FolderLock(folder) as first, FolderLock(folder) as second:
        begin(folder, first)
        begin(folder, first)  # a run that had only begun
        with pytest.raises(InputError, match="half exists: choose another name=NAME"):
            begin(folder, second)
        with pytest.raises(InputError, match="half is in use"):
            second.take()
    with FolderLock(folder) as third:
        third.take()
