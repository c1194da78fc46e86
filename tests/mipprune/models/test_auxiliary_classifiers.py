"""Auxiliary classifiers of torchvision's networks, in a stand-in for the package."""

import importlib
import sys
from collections import namedtuple
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mipprune.distributed.ranks import Ranks
from mipprune.models.registry import build, describe
from mipprune.models.weights import load_weights
from mipprune.runs import checkpoint
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import prune_groups
from mipprune.training.backward import Passes

SHAPE = (3, 8, 8)
Outputs = namedtuple("Outputs", ("logits", "aux_logits"))


class Inception(nn.Module):
    """As Inception v3: a second classifier on the way, in training alone."""

    def __init__(self, num_classes=1000, aux_logits=True):
        super().__init__()
        self.aux_logits, self.AuxLogits = aux_logits, None
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        if aux_logits:
            self.AuxLogits = nn.Conv2d(8, num_classes, 1)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        found = None
        if self.AuxLogits is not None and self.training:
            found = self.AuxLogits(x).mean((2, 3))
        logits = self.fc(torch.relu(self.body(x)).mean((2, 3)))
        return Outputs(logits, found) if self.training and self.aux_logits else logits


@pytest.fixture
def package(monkeypatch):
    torchvision, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.get_model = lambda name, weights=None, **options: Inception(**options)
    torchvision.models = models
    for module in (torchvision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def network_of(**options):
    torch.manual_seed(0)
    name = "torchvision:inception_v3"
    return build({"name": name, "shape": list(SHAPE), "classes": 4, **options})


def test_they_are_left_out_so_that_a_pruned_network_trains(package, tmp_path):
    network = network_of()
    assert network.AuxLogits is None
    groups = find_groups(network, SHAPE)
    smaller = prune_groups(network, groups, np.arange(groups.count) % 2 > 0).train()
    assert smaller.stem.out_channels == 4
    images, labels = torch.randn(4, *SHAPE), torch.arange(4)
    assert torch.isfinite(Passes(Ranks()).of(smaller)(images, labels))
    checkpoint.save(tmp_path / "net", smaller, data={})
    loaded, _ = checkpoint.load(tmp_path / "net")
    assert torch.equal(loaded.eval()(images), smaller.eval()(images))


def test_those_of_an_older_checkpoint_are_there(package):
    shapes = {k: list(v.shape) for k, v in Inception(4).state_dict().items()}
    network = network_of(shapes=shapes).train()
    assert isinstance(network.AuxLogits, nn.Conv2d)
    assert describe(network)["shapes"] == shapes
    assert torch.isfinite(Passes(Ranks()).of(network)(torch.randn(4, *SHAPE), torch.arange(4)))


def test_a_file_of_weights_may_have_them(package, tmp_path):
    torch.save(Inception(4).state_dict(), tmp_path / "w.pth")
    network = network_of()
    load_weights(network, tmp_path / "w.pth")
    saved = torch.load(tmp_path / "w.pth", weights_only=True)
    assert torch.equal(network.body.weight, saved["body.weight"])


@pytest.mark.parametrize("name", ["mnasnet0_5", "googlenet", "inception_v3"])
def test_the_package_s_own_networks_train_and_come_back(name, tmp_path):
    try:
        importlib.import_module("torchvision.models")
    except Exception as error:
        pytest.skip(f"torchvision is not importable here: {str(error).splitlines()[0]}")
    shape = (3, 80, 80)
    network = build(f"torchvision:{name}", shape=shape, classes=4).train()
    images = torch.randn(4, *shape)
    assert torch.isfinite(Passes(Ranks()).of(network)(images, torch.arange(4)))
    checkpoint.save(tmp_path / "net", network, data={})
    loaded, _ = checkpoint.load(tmp_path / "net")
    assert torch.equal(loaded.eval()(images), network.eval()(images))
