"""Groups, budgets and removal on networks of anybody's: plain modules that nothing describes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from formulations import square
from formulations.errors import InputError
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.allocation import keep_within
from mipprune.structure.cost import count_macs, count_params
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import mask_groups, prune_groups


class Residual(nn.Module):
    """Depthwise convolutions, a residual addition and pooling before a flattened end."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.inner = nn.Conv2d(8, 6, 1)
        self.outer = nn.Conv2d(6, 8, 1)
        self.hidden = nn.Linear(8 * 16, 10)
        self.last_norm = nn.BatchNorm1d(10)
        self.classifier = nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.depthwise(F.relu(self.norm(self.first(x)))))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        x = torch.flatten(F.avg_pool2d(x, 2), 1)
        return self.classifier(F.relu(self.last_norm(self.hidden(x))))


class Concatenating(nn.Module):
    """Two branches side by side, read together."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 7, 1)
        self.both = nn.Conv2d(12, 6, 3)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.cat([F.silu(self.left(x)), F.gelu(self.right(x))], dim=1)
        return self.classifier(F.relu(self.both(x)).mean((2, 3)))


class Sigmoid(nn.Module):
    """A channel of zeros does not stay one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Sigmoid(), nn.Linear(6, 2))

    def forward(self, x):
        return self.layers(x)


class Fixed(nn.Module):
    """The forward pass counts on eight channels."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8 * 64, 2)

    def forward(self, x):
        return self.last(F.relu(self.first(x)).reshape(len(x), 8 * 64))


def perceptron():
    return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
TABLE = torch.randn(6, 7, generator=torch.Generator().manual_seed(6))
CASES = {
    "residual": (Residual, IMAGES),
    "concatenating": (Concatenating, IMAGES),
    "perceptron": (perceptron, TABLE),
}


@pytest.fixture(params=[*CASES])
def case(request):
    """A network whose BatchNorms are not the initial ones, and inputs."""
    make, inputs = CASES[request.param]
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network, inputs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_network_of_plain_layers_computes_less_and_the_same_as_masked(case, seed):
    network, inputs = case
    state = copy.deepcopy(network.state_dict())
    network.train()
    groups = find_groups(network, inputs)
    rng = np.random.default_rng(seed)
    kept = rng.random(groups.count) < 0.5
    for layer in groups.layers.values():
        kept[rng.choice(layer)] = True
    next(network.parameters()).requires_grad_(False)
    small = prune_groups(network, groups, kept)
    for name, tensor in network.state_dict().items():  # it is left as it is
        assert torch.equal(tensor, state[name])
    assert small.training
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
    assert count_params(small) < count_params(network)
    mask_groups(network, groups, kept)
    torch.testing.assert_close(small.eval()(inputs), network.eval()(inputs))
    loss = small.train()(inputs).square().sum()
    loss.backward()  # and it can be trained
    assert sum(p.grad is not None for p in small.parameters()) == len([*small.parameters()]) - 1


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_the_budget_is_met_by_what_is_left(case, unit):
    network, inputs = case
    groups = find_groups(network, inputs)
    penalty = GroupPenalty(network, groups, square(0.01, 0.01))
    kept = keep_within(network, groups, penalty.keep_scores(), **{unit: 0.6})
    small = prune_groups(network, groups, kept)
    shape = inputs.shape[1:]
    count = {"macs": lambda n: count_macs(n, shape), "params": count_params}[unit]
    assert 0.3 * count(network) <= count(small) <= 0.6 * count(network)


def test_macs_are_half_of_torch_s_count_of_operations(case):
    network, inputs = case
    with FlopCounterMode(display=False) as counter:
        network.eval()(inputs[:1])
    assert 2 * count_macs(network, inputs.shape[1:]) == counter.get_total_flops()


def test_a_linear_layer_counts_as_often_as_it_is_applied():
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 5))
    assert 2 * count_macs(network, (3, 5)) == counter.get_total_flops()


def test_one_budget_must_be_given():
    network = perceptron()
    groups = find_groups(network, TABLE)
    for budgets in ({}, {"macs": 0.5, "params": 0.5}):
        with pytest.raises(InputError, match="one budget"):
            keep_within(network, groups, np.ones(groups.count), **budgets)


def test_a_network_that_would_compute_something_else_is_refused():
    network = Sigmoid()
    groups = find_groups(network, IMAGES)
    kept = np.arange(groups.count) > 0
    with pytest.raises(InputError, match="does not map zero channels to zero"):
        prune_groups(network, groups, kept)
    groups = find_groups(network, IMAGES.shape[1:])  # zeros as an example do not hide it
    with pytest.raises(InputError, match="does not map zero channels to zero"):
        prune_groups(network, groups, kept)


def test_a_forward_pass_that_counts_on_its_channels_is_refused():
    network = Fixed()
    groups = find_groups(network, IMAGES)
    with pytest.raises(InputError, match="cannot run with fewer channels: shape"):
        prune_groups(network, groups, np.arange(groups.count) > 0)


def test_what_cannot_be_traced_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"traced on inputs of shape \(1, 2, 8, 8\): .*channels"):
        find_groups(Residual(), IMAGES[:, :2])
    tied = nn.Sequential(nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 7), nn.Linear(7, 2))
    tied[2].weight = tied[0].weight
    with pytest.raises(InputError, match=r"0\.weight and 2\.weight are one tensor"):
        find_groups(tied, TABLE)
    normed = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    with pytest.raises(InputError, match=r"1 \(LayerNorm\) cannot be pruned"):
        find_groups(normed, TABLE)
