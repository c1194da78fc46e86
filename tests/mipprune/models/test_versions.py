"""Versions of modules, which torch keeps beside a state dictionary, are kept with the tensors."""

import json

import pytest
import torch

from mipprune.models.registry import build
from mipprune.models.weights import assign_weights, load_state, load_weights, versions_of
from mipprune.runs import checkpoint
from mipprune.training.ema import Average

# As torchvision's MnasNet: tensors of no version are refused, and those of an older one read
# otherwise.
TEXT = """
from torch import nn

class Versioned(nn.Linear):
    _version = 7

    def _load_from_state_dict(self, state, prefix, metadata, *arguments):
        if metadata.get("version") not in (6, 7):
            raise ValueError("version should be set")
        self._version = metadata["version"]
        super()._load_from_state_dict(state, prefix, metadata, *arguments)

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), Versioned(4, classes))
"""


@pytest.fixture
def make(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return lambda: build(str(path), shape=(1, 2, 2), classes=3)


def test_a_checkpoint_says_versions_that_are_not_torchs(make, tmp_path):
    network = make()
    assert versions_of(network) == {"2": 7}
    network[2]._version = 6
    checkpoint.save(tmp_path / "net", network, data={})
    assert json.loads((tmp_path / "net/model.json").read_text())["versions"] == {"2": 6}
    loaded, _ = checkpoint.load(tmp_path / "net")
    assert loaded[2]._version == 6
    assert torch.equal(loaded[2].weight, network[2].weight)


def test_networks_of_our_own_say_none(tmp_path):
    network = build("resnet8", shape=(1, 8, 8), classes=10)
    assert versions_of(network) == {}
    checkpoint.save(tmp_path / "net", network, data={})
    assert "versions" not in json.loads((tmp_path / "net/model.json").read_text())


def test_plain_tensors_are_taken_for_the_networks_own_version(make, tmp_path):
    first, second = make(), make()
    first[2]._version = 6
    assign_weights(second, dict(first.state_dict()), "tensors")
    assert second[2]._version == 7
    load_state(second, first.state_dict())
    assert second[2]._version == 6
    torch.save(first.state_dict(), tmp_path / "w.pth")
    third = make()
    load_weights(third, tmp_path / "w.pth")
    assert third[2]._version == 6
    assert torch.equal(third[2].weight, first[2].weight)


def test_a_mean_of_weights_comes_back(make):
    network = make()
    average = Average(network, 0.9)
    average.update()
    again = Average(make(), 0.9)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.network[2].weight, network[2].weight)
