"""Methods that other packages announce as entry points."""

import json
import sys

import pytest
from packages import install
from tasks import method_of, small_network

from formulations.errors import InputError
from mipprune.config.overrides import configure
from mipprune.config.train import Config
from mipprune.methods.registry import log_of, names
from mipprune.report.page import render
from mipprune.runs.record import read_run
from mipprune.training.run import train

MODULE = '''
import numpy as np
from typing import Literal
from mipprune.config.schema import MethodConfig
from mipprune.methods.base import Method
from mipprune.runs.log import LogEntry


class Settings(MethodConfig):
    """The first ones go."""

    name: Literal["first"] = "first"
    warmth: float = 1.0


class First(Method[Settings]):
    """Scores are the groups' numbers."""

    LOG = {"warmth": LogEntry("warmth of the groups", "K")}

    def scores(self):
        return np.arange(self.task.groups.count, dtype=float)

    def adapt(self):
        self.settings.warmth += 1

    def log(self):
        return {"warmth": self.settings.warmth}


METHOD = First
'''
POINTS = """
[mipprune.methods]
first = first_method
magnitude = first_method
no-method = json
gone = no_such_module
"""


@pytest.fixture(autouse=True)
def _package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"first_method.py": MODULE}, POINTS)
    yield
    sys.modules.pop("first_method", None)


def test_a_method_of_another_package_prunes_by_its_name():
    assert {"first", "magnitude", "spr"} <= set(names())
    assert "first_method" not in sys.modules  # to list names imports nothing
    method = method_of("first", small_network(), budget={"macs": 0.5})
    kept = method.select()
    assert method.task.cost.value(kept, "macs") <= 0.5 * method.task.cost.dense["macs"]
    assert configure(Config, {}, ["method=first", "method.warmth=3"]).method.warmth == 3


def test_a_run_keeps_what_its_method_s_numbers_are(tmp_path):
    settings = {
        "name": "run", "runs": str(tmp_path), "method": "first", "model": {"width": 4},
        "budget": {"macs": 0.5}, "recalibrate": 0, "data": {"batch": 256},
        "regularize": {"epochs": 2}, "finetune": {"epochs": 0},
    }  # fmt: skip
    train(settings)
    told = json.loads((tmp_path / "run/log.json").read_text())
    assert told == {"warmth": {"title": "warmth of the groups", "unit": "K"}}
    run = read_run(tmp_path / "run")
    assert run.log == log_of("first")
    assert "Warmth of the groups" in render([run], ["run"])


def test_our_own_names_come_first():
    assert method_of("magnitude", small_network(), budget={"macs": 0.5}).settings.norm == 2


def test_what_is_no_method_is_refused():
    with pytest.raises(InputError, match=r"no-method of mipprune.methods is no method"):
        configure(Config, {}, ["method=no-method"])


def test_what_does_not_load_is_named():
    with pytest.raises(InputError, match="gone, the entry point no_such_module"):
        configure(Config, {}, ["method=gone"])
