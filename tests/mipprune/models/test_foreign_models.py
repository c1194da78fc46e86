"""Models of torchvision and timm, in stand-ins for the packages and in the packages themselves."""

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from formulations.errors import InputError
from mipprune.config.schema import ModelConfig
from mipprune.models.catalogue import options_of
from mipprune.models.registry import build, describe
from mipprune.runs import checkpoint
from mipprune.structure.cost import Cost, count_macs, count_params
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import mask_groups, prune_groups

SHAPE = (3, 12, 12)


class Residual(nn.Module):
    """Convolutions in every form: with a shortcut, depthwise, with a bias."""

    def __init__(self, num_classes=1000, inputs=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(inputs, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.inner, self.norm1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.outer, self.norm2 = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(8 * 4, 10)
        self.fc = nn.Linear(10, num_classes)

    def forward(self, x):
        x = self.stem(x)
        y = self.relu(self.depthwise(self.relu(self.norm1(self.inner(x)))))
        x = self.relu(self.norm2(self.outer(y)) + x)
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc(self.relu(self.hidden(x)))


def get_model(name, weights=None, **options):
    if name != "residual":
        raise ValueError(f"Unknown model {name}\nand more")
    network = Residual(**options)
    if weights == "DEFAULT":
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.5)
    return network


@pytest.fixture
def packages(monkeypatch):
    """Both packages, replaced."""
    torchvision, models, timm = map(ModuleType, ("torchvision", "torchvision.models", "timm"))
    models.get_model = get_model
    torchvision.models = models

    def create_model(name, pretrained=False, in_chans=3, **options):
        return get_model(name, "DEFAULT" if pretrained else None, inputs=in_chans, **options)

    timm.create_model = create_model
    for module in (torchvision, models, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def foreign(name="torchvision:residual", shape=SHAPE, **options):
    torch.manual_seed(0)
    network = build({"name": name, "shape": list(shape), "classes": 4, **options}).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize(
    ("name", "shape"), [("torchvision:residual", SHAPE), ("timm:residual", (1, 12, 12))]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_foreign_networks_are_pruned_and_rebuilt_from_plain_data(packages, name, shape, seed):
    network = foreign(name, shape)
    groups = find_groups(network, shape)
    cost = Cost(network, groups, shape)
    assert groups.count == 8 + 6 + 10
    assert groups.blocks == {}
    kept = np.random.default_rng(seed).random(groups.count) < 0.5
    smaller = prune_groups(network, groups, kept)
    assert cost.value(kept, "macs") == count_macs(smaller, shape)
    assert cost.value(kept, "params") == count_params(smaller)
    assert count_params(smaller) < count_params(network)
    assert smaller.depthwise.groups == smaller.depthwise.in_channels == smaller.inner.out_channels
    images = torch.randn(2, *shape)
    rebuilt = build(json.loads(json.dumps(describe(smaller)))).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(images), smaller(images))
    mask_groups(network, groups, kept)
    torch.testing.assert_close(smaller(images), network(images))


def test_a_pruned_foreign_network_comes_back_from_its_checkpoint(packages, tmp_path):
    network = foreign(pretrained=True)
    groups = find_groups(network, SHAPE)
    smaller = prune_groups(network, groups, np.arange(groups.count) % 3 > 0)
    checkpoint.save(tmp_path / "pruned", smaller, data={})
    loaded, _ = checkpoint.load(tmp_path / "pruned")
    assert describe(loaded) == describe(smaller)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(loaded.eval()(images), smaller(images))


@pytest.mark.parametrize("name", ["torchvision:residual", "timm:residual"])
def test_pretrained_weights_are_taken_but_for_a_classifier_of_another_size(packages, name):
    assert options_of(name) == ("pretrained",)
    assert "pretrained" in ModelConfig.model_fields
    network = foreign(name, pretrained=True)
    assert (network.hidden.weight == 0.5).all()
    assert network.fc.weight.shape == (4, 10)
    assert not (network.fc.weight == 0.5).any()
    assert "pretrained" not in describe(network)
    assert not (foreign(name).hidden.weight == 0.5).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:other", {}, "torchvision gives no model 'other': Unknown model other"),
        ("timm:other", {}, "timm gives no model 'other': Unknown model other"),
        ("torchvision:residual", {"width": 3}, "no option width: it takes pretrained"),
        ("torchvision:residual", {"shape": (1, 12, 12)}, "images of 3 channels"),
        ("torchvision:residual", {"shapes": {"fc.bias": [4]}}, "shapes are not those of"),
        ("elsewhere:residual", {}, "unknown model 'elsewhere:residual'"),
    ],
)
def test_what_a_package_does_not_give_is_said_in_one_line(packages, name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        foreign(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [[9], [4, 4]])
def test_shapes_that_do_not_fit_a_layer_are_refused(packages, shape):
    shapes = describe(foreign())["shapes"]
    with pytest.raises(InputError, match=r"stem\.0\.weight of torchvision:residual cannot have"):
        foreign(shapes={**shapes, "stem.0.weight": shape})


@pytest.mark.parametrize("package", ["torchvision", "timm"])
@pytest.mark.parametrize("error", [ModuleNotFoundError, RuntimeError])
def test_a_package_that_cannot_be_imported_is_said_in_one_line(monkeypatch, package, error):
    real = importlib.import_module

    def fail(name):
        if name.partition(".")[0] == package:
            raise error("operator nms does not exist\nsecond line")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(InputError, match=f"needs {package}, which cannot be imported") as caught:
        build({"name": f"{package}:resnet18", "shape": SHAPE, "classes": 4})
    assert "\n" not in str(caught.value)


def test_layers_that_cannot_be_pruned_are_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError, match=r"^1 \(GroupNorm\) cannot be pruned"):
        find_groups(network, SHAPE)


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:resnet18"]
)
def test_the_packages_own_networks_are_pruned_and_rebuilt(name):
    package = name.partition(":")[0]
    try:
        importlib.import_module("torchvision.models" if package == "torchvision" else package)
    except Exception as error:
        pytest.skip(f"{package} is not importable here: {str(error).splitlines()[0]}")
    shape = (3, 32, 32)
    network = foreign(name, shape)
    groups = find_groups(network, shape)
    kept = np.random.default_rng(0).random(groups.count) < 0.8
    smaller = prune_groups(network, groups, kept)
    assert Cost(network, groups, shape).value(kept, "macs") == count_macs(smaller, shape)
    rebuilt = build(describe(smaller)).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    images = torch.randn(2, *shape)
    mask_groups(network, groups, kept)
    torch.testing.assert_close(rebuilt(images), network(images), rtol=1e-3, atol=1e-4)
