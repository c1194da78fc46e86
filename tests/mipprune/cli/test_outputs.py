"""Where the commands write: standard output, devices, pipes, links, a full disk."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest
from command import refused, run, run_alone

from formulations.symbolic import checks

WORDS = ["derive", "square", "price=2"]
QUICK = ["recipes"]
FULL = "/dev/full"


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch):
    """Where a derivation is written does not depend on its checks, which take seconds."""
    monkeypatch.setattr(checks, "check", lambda derivation: [])


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_a_result_on_standard_output_stands_there_alone(tmp_path, path):
    result = run_alone(*QUICK, "--json", path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["digits-spr"]
    assert "digits-spr" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_shell_opened_is_not_replaced(tmp_path):
    with open(tmp_path / "log", "w") as log:
        words = [sys.executable, "-m", "mipprune", *QUICK, "--json", "/dev/stdout"]
        place = os.fstat(log.fileno()).st_ino
        subprocess.run(words, stdout=log, stderr=subprocess.DEVNULL, check=True, cwd=tmp_path)
    assert (tmp_path / "log").stat().st_ino == place
    assert json.loads((tmp_path / "log").read_text())["digits-spr"]


@pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full")
@pytest.mark.parametrize("name", ["out.json", "out.png", "out.py"])
def test_a_full_disk_is_one_line_and_the_link_to_it_stays(tmp_path, name):
    """By links, so that not even a rename would touch the device."""
    option = {"json": "--json", "png": "--plot", "py": "--python"}[name.partition(".")[2]]
    (tmp_path / name).symlink_to(FULL)
    result = run(*WORDS, option, name, cwd=tmp_path)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert line == (
        f"mipprune: failed: cannot write {name}: No space left on device: make room, or name "
        "another place"
    )
    assert (tmp_path / name).readlink().as_posix() == FULL
    assert stat.S_ISCHR(os.stat(FULL).st_mode)


def test_a_picture_goes_through_a_link_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out.svg").symlink_to("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    result = run(*WORDS, "--plot", "out.svg", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    reader.join()
    assert b"</svg>" in read[0]


def test_an_output_is_refused_before_the_work(tmp_path):
    (tmp_path / "a.json").symlink_to("nowhere/a.json")
    refused(run(*WORDS, "--json", "a.json", cwd=tmp_path), "there is no folder")
    refused(run(*WORDS, "--json", ".", cwd=tmp_path), "is a folder: name a file")
