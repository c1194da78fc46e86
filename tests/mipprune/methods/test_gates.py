"""Gates of complexity-aware training: gradients and costs against enumeration of all gates."""

import itertools

import numpy as np
import pytest
import torch
from tasks import method_of, small_network, task_of
from torch import nn

from mipprune.methods.shared.gates import ExpectedCost, Gates, difference, sample
from mipprune.structure.cost import count_macs, count_params
from mipprune.structure.removal import prune_groups

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2


def enumerated(count):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=count)))


def gated_losses(network, gates, values, loss):
    """Loss of the network for every row of gates, all images alike."""
    network.train()
    found = []
    for row in values:
        gates.values = row.expand(len(IMAGES), -1)
        with torch.no_grad():
            found.append(float(loss(network(IMAGES.to(row)))))
    return np.array(found)


def expected_estimate(network, gates, theta, loss_of_images):
    """E of the estimator: the sum over all gates, weighted with their probability."""
    values = enumerated(len(theta)).to(theta)
    weight = torch.where(values > 0, theta, 1 - theta).prod(1)
    total = torch.zeros_like(theta)
    for row, probability in zip(values, weight, strict=True):
        drawn = row.expand(len(IMAGES), -1).clone().requires_grad_(True)
        gates.values = drawn
        loss_of_images(network(IMAGES.to(theta))).mean().backward()
        total += probability * difference(drawn.grad, drawn.detach(), theta)
    return total


def exact_difference(network, gates, theta, loss_of_images):
    """E[L | ξ_j = 1] − E[L | ξ_j = 0], by enumeration."""
    values = enumerated(len(theta)).to(theta)
    losses = gated_losses(network, gates, values, lambda output: loss_of_images(output).mean())
    losses = torch.from_numpy(losses).to(theta)
    result = []
    for j in range(len(theta)):
        others = torch.where(values > 0, theta, 1 - theta)
        others[:, j] = 1
        weight = others.prod(1)
        one, zero = values[:, j] == 1, values[:, j] == 0
        result.append((weight[one] * losses[one]).sum() - (weight[zero] * losses[zero]).sum())
    return torch.stack(result)


def tiny():
    network = small_network("mlp", hidden=[5]).double()
    task = task_of(network)
    theta = torch.tensor([0.2, 0.5, 0.7, 0.9, 0.4], dtype=torch.float64)
    return network, Gates(network, task.groups, units=True, blocks=False), theta


def test_gate_gradient_is_the_exact_difference_where_the_loss_is_quadratic_in_a_gate():
    network, gates, theta = tiny()
    labels = torch.randn(len(IMAGES), 10, dtype=torch.float64)

    def squared(output):
        return (output - labels).square().sum(1)

    estimate = expected_estimate(network, gates, theta, squared)
    exact = exact_difference(network, gates, theta, squared)
    assert torch.allclose(estimate, exact, rtol=1e-9, atol=1e-12)


def test_gate_gradient_is_close_to_the_exact_difference_for_the_cross_entropy():
    network, gates, theta = tiny()
    labels = torch.arange(len(IMAGES)) % 10

    def entropy(output):
        return nn.functional.cross_entropy(output, labels, reduction="none")

    estimate = expected_estimate(network, gates, theta, entropy)
    exact = exact_difference(network, gates, theta, entropy)
    assert (estimate - exact).abs().max() < 0.05 * exact.abs().max()


def test_sampled_gate_gradients_have_the_enumerated_mean():
    network, gates, theta = tiny()
    labels = torch.randn(len(IMAGES), 10, dtype=torch.float64)
    exact = exact_difference(network, gates, theta, lambda o: (o - labels).square().sum(1))
    repeats, total = 300, torch.zeros_like(theta)
    images, targets = IMAGES.double().repeat(repeats, 1, 1, 1), labels.repeat(repeats, 1)
    drawn = sample(theta, len(images), torch.Generator().manual_seed(1)).requires_grad_(True)
    gates.values = drawn
    (network(images) - targets).square().sum(1).mean().backward()
    total = difference(drawn.grad, drawn.detach(), theta)
    assert torch.allclose(total, exact, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_gates_at_zero_compute_what_the_pruned_network_does(shortcut):
    torch.manual_seed(1)
    network = small_network("resnet14", shortcut=shortcut)
    for name, parameter in network.named_parameters():
        if "bn" in name:
            nn.init.uniform_(parameter, 0.3, 1.0)
    task = task_of(network)
    gates = Gates(network, task.groups, units=True, blocks=True)
    rng = np.random.default_rng(0)
    kept = rng.random(task.groups.count) < 0.7
    gone = list(task.groups.blocks)[1]
    kept[task.groups.blocks[gone]] = False
    gates.theta[: task.groups.count] = torch.from_numpy(kept).float()
    gates.theta[task.groups.count + 1] = 0
    network.eval()
    gated = network(IMAGES)
    gates.remove()
    assert torch.allclose(
        prune_groups(network, task.groups, kept).eval()(IMAGES), gated, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_expected_cost_at_0_and_1_is_the_cost_of_the_pruned_network(unit):
    network = small_network("resnet14", shortcut="B")
    task = task_of(network)
    cost = ExpectedCost(task.cost, unit, task.cost.dense[unit])
    blocks = torch.ones(len(task.groups.blocks), dtype=torch.float64)
    count = {"macs": lambda n: count_macs(n, (1, 8, 8)), "params": count_params}[unit]
    for seed in range(3):
        kept = np.random.default_rng(seed).random(task.groups.count) < 0.7
        smaller = prune_groups(network, task.groups, kept)
        share = float(cost.value(torch.from_numpy(kept).double(), blocks))
        assert share * task.cost.dense[unit] == pytest.approx(count(smaller))
    kept = np.ones(task.groups.count, bool)
    kept[task.groups.blocks["layer2.1"]] = False
    blocks[list(task.groups.blocks).index("layer2.1")] = 0
    share = float(cost.value(torch.ones(task.groups.count, dtype=torch.float64), blocks))
    assert share * task.cost.dense[unit] == pytest.approx(
        count(prune_groups(network, task.groups, kept))
    )


def test_expected_cost_is_the_mean_over_all_gates():
    network = small_network("mlp", hidden=[3, 3])
    task = task_of(network)
    cost = ExpectedCost(task.cost, "macs", task.cost.dense["macs"])
    theta = torch.tensor([0.1, 0.6, 1.0, 0.5, 0.9, 0.3], dtype=torch.float64)
    mean = 0.0
    for row in enumerated(6).double():
        weight = torch.where(row > 0, theta, 1 - theta).prod()
        mean += float(weight) * task.cost.value(row.numpy() > 0, "macs")
    none = torch.ones(0, dtype=torch.float64)
    found = float(cost.value(theta, none)) * task.cost.dense["macs"]
    assert found == pytest.approx(mean)


def test_theta_moves_by_the_gradient_of_loss_and_complexity_and_is_projected():
    network = small_network("mlp", hidden=[3])
    settings = {"sigma": 0, "nu": 0.5, "theta": 0.8, "rate": 0.1, "begin": 0, "close": 0}
    method = method_of("complexity", network, settings, batch=4)
    method.before_step()
    slopes = torch.tensor([[0.0, -2.0, 50.0]] + [[0.0, 0.0, 0.0]] * 3)
    method.gates.values.grad = slopes
    drawn = method.gates.values.detach()[0]
    method.after_step(lr=0.3)
    # C is the share of MACs, 1/3 a unit: a step of 0.1·3 undoes its size
    weight = torch.where(drawn > 0, 1 / 1.6, 1 / 0.4)
    gradient = slopes[0] * weight + 0.5 / 3
    expected = (0.8 - 0.1 * 3 * gradient).clamp(0, 1)
    assert torch.allclose(method.gates.theta, expected, atol=1e-5)
    assert method.gates.theta[1] == 1
    assert method.gates.theta[2] == 0
    method.before_step()
    method.gates.values.grad = torch.full_like(method.gates.values, -100)
    method.after_step(lr=0.3)
    assert method.gates.theta[2] == 0  # for good


def test_sigma_shares_the_complexity_between_blocks_and_channels_and_kappa_the_units():
    network = small_network("resnet14", shortcut="B")
    method = method_of("complexity", network, {"sigma": 0.3, "kappa": 0.6})
    theta = method.gates.theta
    theta.uniform_(0.2, 1)
    cost, count = method.task.cost, method.task.groups.count
    units, blocks = theta[:count].double(), theta[count:].double()
    expected = 0.0
    for unit, share in (("macs", 0.6), ("params", 0.4)):
        mean = ExpectedCost(cost, unit, cost.dense[unit])
        expected += share * 0.3 * float(mean.value(torch.ones_like(units), blocks))
        expected += share * 0.7 * float(mean.value(units, torch.ones_like(blocks)))
    assert float(method.complexity(theta)) == pytest.approx(expected)


def test_a_block_closed_late_goes_even_where_channels_are_over_the_budget():
    network = small_network("resnet14", width=8, shortcut="B")
    method = method_of("complexity", network, budget={"macs": 0.3})
    groups = method.task.groups
    method.gates.theta.fill_(1)
    method.gates.theta[groups.count + 2] = 0
    name = list(groups.blocks)[2]
    kept = method.select()
    assert name in groups.emptied(kept)
    cost = method.task.cost
    assert cost.value(kept, "macs") <= 0.3 * cost.dense["macs"]
    prune_groups(network, groups, kept)
