"""Groups, cost and physical removal, on every model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from formulations.errors import InputError
from mipprune.models.registry import build, describe
from mipprune.structure.allocation import allocate, remove_below
from mipprune.structure.cost import Cost, count_macs, count_params
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import (
    Removal,
    mask_groups,
    prune_groups,
    prune_optimizer,
    recalibrate,
)

SMALL, LARGE = (3, 16, 16), (3, 64, 64)
ARCHITECTURES = [
    *(
        {"name": f"resnet{depth}", "shape": SMALL, "classes": 10, "shortcut": s, "width": 8}
        for depth in (8, 20, 56)
        for s in "AB"
    ),
    {"name": "resnet110", "shape": SMALL, "classes": 10, "shortcut": "B", "width": 8},
    *({"name": f"resnet{d}", "shape": LARGE, "classes": 7, "width": 16} for d in (18, 34, 50)),
    {"name": "mlp", "shape": (1, 8, 8), "classes": 10, "hidden": [32, 16]},
    *(
        {"name": name, "shape": shape, "classes": 10, **options}
        for name, options in (
            ("vgg16", {"width": 8}),
            ("vgg19", {"width": 8}),
            ("wrn-16-4", {"width": 4}),
            ("wrn-10-1", {}),
            ("densenet40", {"growth": 4}),
            ("densenet40-bc", {"growth": 4}),
            ("mobilenet-v2", {"multiplier": 0.5}),
            ("lenet-5", {}),
            ("lenet-300-100", {}),
        )
        for shape in ((1, 8, 8), (3, 32, 32))
    ),
]
IDS = [f"{a['name']}{a.get('shortcut', '')}-{a['shape'][-1]}" for a in ARCHITECTURES]


def trained_looking(architecture, seed=0):
    """A network whose BatchNorm statistics and weights are not the initial ones."""
    torch.manual_seed(seed)
    network = build(architecture).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=IDS)
def test_removed_network_computes_what_the_masked_one_does(architecture):
    network = trained_looking(architecture)
    shape = architecture["shape"]
    groups = find_groups(network, shape)
    cost = Cost(network, groups, shape)
    scores = np.random.default_rng(1).random(groups.count)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    for share in (0.7, 0.25):
        kept = allocate(cost, scores, "params", share, gap=0.05, time_limit=np.inf)
        smaller, masked = prune_groups(network, groups, kept), copy.deepcopy(network)
        with torch.no_grad():
            mask_groups(masked, groups, kept)
            expected, found = masked(images), smaller(images)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert cost.value(kept, "macs") == count_macs(smaller, shape)
        assert cost.value(kept, "params") == count_params(smaller)
        assert abs(count_params(smaller) / cost.dense["params"] - share) <= 0.01
        rebuilt = build(describe(smaller)).eval()
        rebuilt.load_state_dict(smaller.state_dict())
        with torch.no_grad():
            assert torch.equal(rebuilt(images), found)


@pytest.mark.parametrize("architecture", ARCHITECTURES[-18:], ids=IDS[-18:])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_mask_that_empties_no_layer_can_be_removed(architecture, seed):
    network = trained_looking(architecture, seed)
    shape = architecture["shape"]
    groups = find_groups(network, shape)
    rng = np.random.default_rng(seed)
    kept = rng.random(groups.count) < rng.random()
    for layer in groups.layers.values():
        kept[rng.choice(layer)] = True
    smaller = prune_groups(network, groups, kept)
    cost = Cost(network, groups, shape)
    assert cost.value(kept, "macs") == count_macs(smaller, shape)
    assert cost.value(kept, "params") == count_params(smaller)
    images = torch.randn(2, *shape)
    mask_groups(network, groups, kept)
    with torch.no_grad():
        expected = network(images)
        assert (smaller(images) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES[::2], ids=IDS[::2])
def test_macs_are_half_of_torch_s_count_of_operations(architecture):
    network, shape = build(architecture).eval(), architecture["shape"]
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    assert 2 * count_macs(network, shape) == counter.get_total_flops()


def test_dense_costs_of_the_published_networks_are_the_published_ones():
    network = build({"name": "resnet56", "shape": (3, 32, 32), "classes": 10, "shortcut": "A"})
    assert count_params(network) == 853_018  # 0.85M in He et al. 2016, table 6
    assert count_macs(network, (3, 32, 32)) == 125_485_696
    network = build({"name": "resnet50", "shape": (3, 224, 224), "classes": 1000})
    assert count_params(network) == 25_557_032  # torchvision's documentation
    assert count_macs(network, (3, 224, 224)) == 4_089_184_256
    network = build({"name": "resnet18", "shape": (3, 224, 224), "classes": 1000})
    assert count_params(network) == 11_689_512


def test_groups_of_a_zero_padding_network_couple_the_stages():
    network = build({"name": "resnet8", "shape": SMALL, "classes": 10, "shortcut": "A", "width": 8})
    groups = find_groups(network, SMALL)
    stem, second = groups.layers["conv1"], groups.layers["layer2.0.conv2"]
    third = groups.layers["layer3.0.conv2"]
    np.testing.assert_array_equal(second[4:12], stem)
    np.testing.assert_array_equal(third[8:24], second)
    assert len(set(third.tolist())) == 32
    # inner channels 8 + 16 + 32, and the 32 of the stages
    assert groups.count == 56 + 32


def test_inputs_and_classifier_outputs_belong_to_no_group():
    network = build({"name": "resnet8", "shape": SMALL, "classes": 10})
    groups = find_groups(network, SMALL)
    axes = {(m.tensor, m.axis) for m in groups.members}
    assert ("conv1.weight", 1) not in axes
    assert ("linear.weight", 0) not in axes
    assert ("linear.weight", 1) in axes


class Flatten(nn.Module):
    """Convolution, flatten, linear; and a depthwise convolution on the way."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.last = nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.last(torch.relu(self.depthwise(torch.relu(self.first(x)))).flatten(1))


def test_flattened_channels_own_all_their_positions():
    groups = find_groups(Flatten(), (1, 4, 4))
    last = next(m for m in groups.members if m.tensor == "last.weight")
    np.testing.assert_array_equal(last.group, np.repeat(groups.layers["first"], 16))
    np.testing.assert_array_equal(groups.layers["depthwise"], groups.layers["first"])


def test_grouped_convolutions_are_refused():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError, match="2 groups for 4 channels"):
        find_groups(network, (1, 4, 4))


def test_network_without_anything_to_prune_is_refused():
    with pytest.raises(InputError, match="no prunable groups"):
        find_groups(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))


def test_marginal_cost_is_the_difference_of_two_networks():
    network = build({"name": "resnet8", "shape": SMALL, "classes": 10, "shortcut": "A", "width": 8})
    groups = find_groups(network, SMALL)
    cost = Cost(network, groups, SMALL)
    for unit in ("macs", "params"):
        marginal = cost.marginal(unit)
        for group in range(0, groups.count, 7):
            kept = np.ones(groups.count, bool)
            kept[group] = False
            assert marginal[group] == cost.dense[unit] - cost.value(kept, unit)


def test_smallest_network_keeps_a_channel_in_every_layer():
    network = build({"name": "resnet20", "shape": SMALL, "classes": 10, "shortcut": "A"})
    groups = find_groups(network, SMALL)
    cost = Cost(network, groups, SMALL)
    kept = remove_below(cost, np.zeros(groups.count), 0.5)
    assert set(groups.kept_per_layer(kept).values()) == {1}
    assert prune_groups(network, groups, kept)(torch.randn(2, *SMALL)).shape == (2, 10)


def test_emptying_a_layer_is_refused():
    network = build({"name": "mlp", "shape": (1, 2, 2), "classes": 2, "hidden": [4]})
    groups = find_groups(network, (1, 2, 2))
    with pytest.raises(InputError, match="nothing would be left"):
        prune_groups(network, groups, np.zeros(groups.count, bool))


def test_optimizer_momentum_is_sliced_with_the_weights():
    torch.manual_seed(0)
    network = build({"name": "resnet8", "shape": SMALL, "classes": 10, "shortcut": "A", "width": 8})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, *SMALL)).square().sum().backward()
    optimizer.step()
    groups = find_groups(network, SMALL)
    kept = np.random.default_rng(0).random(groups.count) < 0.6
    smaller, removal = prune_groups(network, groups, kept), Removal(groups, kept)
    before = {n: optimizer.state[p]["momentum_buffer"] for n, p in network.named_parameters()}
    prune_optimizer(optimizer, network, smaller, removal)
    for name, parameter in smaller.named_parameters():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert buffer.shape == parameter.shape
        assert torch.equal(buffer, removal.slice(name, before[name]))
    smaller(torch.randn(4, *SMALL)).square().sum().backward()
    old = smaller.linear.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(old, smaller.linear.weight)


def test_recalibration_gives_the_mean_and_variance_of_the_images():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    images = torch.randn(64, 1, 5, 5)
    recalibrate(network, [images])
    features = network[0](images)
    torch.testing.assert_close(network[1].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, features.var((0, 2, 3)))
