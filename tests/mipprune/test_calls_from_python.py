"""The verbs of the command line from Python: settings ready, as a mapping, or by keyword."""

from pathlib import Path

import pytest
from tasks import small_network

import mipprune
from formulations import InputError
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import as_config
from mipprune.config.prune import PruneConfig
from mipprune.oneshot.certify import certify_run
from mipprune.oneshot.run import prune_checkpoint
from mipprune.runs import checkpoint


def test_settings_are_joined_section_by_section():
    before = {"budget": {"macs": 0.5, "multiple": 2}, "images": 10}
    joined = as_config(PruneConfig, before, {"budget": {"macs": 0.6}})
    assert (joined.budget.macs, joined.budget.multiple, joined.images) == (0.6, 2, 10)
    assert before["budget"]["macs"] == 0.5
    again = as_config(PruneConfig, joined, {"images": 20})
    assert (again.budget.macs, again.images) == (0.6, 20)
    assert as_config(PruneConfig, joined, {}) is joined
    with pytest.raises(InputError, match="unknown key 'imges': the nearest valid one is 'images'"):
        as_config(PruneConfig, None, {"imges": 3})


def test_a_comparison_takes_a_mapping_or_keywords():
    settings = {"macs": 0.6}
    ready = mipprune.compare("budget:resnet8", CompareConfig(**settings))["rows"]
    for found in (
        mipprune.compare("budget:resnet8", settings)["rows"],
        mipprune.compare("budget:resnet8", **settings)["rows"],
    ):
        assert [row["support"] for row in found] == [row["support"] for row in ready]


@pytest.fixture
def folder(tmp_path) -> Path:
    checkpoint.save(tmp_path / "net", small_network("resnet8", width=4), data={"name": "digits"})
    return tmp_path / "net"


def test_a_checkpoint_is_evaluated_by_its_path(folder):
    found = mipprune.evaluate_checkpoint(str(folder), device="cpu")
    assert found["params"] > 0
    with pytest.raises(InputError, match="unknown key"):
        mipprune.evaluate_checkpoint(folder, dvice="cpu")


@pytest.mark.parametrize(
    "call",
    [
        lambda net: mipprune.valley(net, net, imges=3),
        lambda net: mipprune.export(net, None, {}, imges=3),
        lambda net: prune_checkpoint(net, {"imges": 3}),
        lambda net: certify_run(net, {"imges": 3}),
    ],
    ids=["valley", "export", "prune", "certify"],
)
def test_wrong_settings_are_refused_as_on_the_command_line(folder, call):
    with pytest.raises(InputError, match="unknown key 'imges': the nearest valid one is 'images'"):
        call(folder)
