"""The trainer's penalty is the solver's term, to the precision of its type."""

import numpy as np
import pytest
import torch

from formulations import square
from formulations.terms.partition import Partition
from mipprune.models.registry import build
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.groups import Groups, find_groups

SHAPE = (1, 8, 8)


def gather(tensors, members, count):
    """Every group's weights, one group after the other, and their partition."""
    parts = [[] for _ in range(count)]
    for member in members:
        values = tensors[member.tensor].detach().double().numpy()
        for index, group in enumerate(member.group):
            if group >= 0:
                parts[group].append(np.take(values, index, member.axis).ravel())
    parts = [np.concatenate(part) for part in parts]
    return np.concatenate(parts), Partition([len(part) for part in parts])


@pytest.fixture(params=["infinite", "finite", "mixed"])
def bounds(request):
    def make(rng, count):
        finite = rng.uniform(1.0, 3.0, count)
        infinite = np.full(count, np.inf)
        mixed = np.where(rng.random(count) < 0.5, finite, infinite)
        return {"infinite": infinite, "finite": finite, "mixed": mixed}[request.param]

    return make


@pytest.mark.parametrize("kind", ["producers", "scales"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("architecture", ["resnet8", "mlp"])
def test_penalty_equals_the_term(architecture, dtype, tolerance, kind, bounds):
    torch.manual_seed(0)
    options = {"shortcut": "A"} if architecture == "resnet8" else {"hidden": [32, 16]}
    network = build({"name": architecture, "shape": SHAPE, "classes": 10, **options}).to(dtype)
    parameters = dict(network.named_parameters())
    groups = find_groups(network, SHAPE)
    members = getattr(groups, kind)()
    with torch.no_grad():
        for member in members:
            parameters[member.tensor].add_(0.3 * torch.randn_like(parameters[member.tensor]))
    rng = np.random.default_rng(1)
    numbers = (
        rng.uniform(0.01, 1, groups.count),
        rng.uniform(0.05, 4, groups.count),
        bounds(rng, groups.count),
    )
    # as the tensors hold them, so that both sides mean the same bound
    exact = square(*(torch.tensor(v, dtype=dtype).double().numpy() for v in numbers))
    penalty = GroupPenalty(parameters, Groups(groups.count, tuple(members)), exact)
    penalty.project_()
    weights, partition = gather(parameters, members, groups.count)

    def close(actual, expected):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)

    close(float(penalty.value()), exact.value(weights, partition).sum())
    close(penalty.keep().numpy(), exact.keep(weights, partition))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty.add_gradient_()
    gradients, _ = gather({k: p.grad for k, p in parameters.items()}, members, groups.count)
    close(gradients, exact.gradient(weights, partition))
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for step in (0.01, 0.5, 3.0):
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(before[name])
        penalty.prox_(step)
        after, _ = gather(parameters, members, groups.count)
        expected = exact.prox(weights, step, partition)
        close(after, expected)
        np.testing.assert_array_equal(after == 0, expected == 0)
    touched = {member.tensor for member in members}
    for name, p in parameters.items():
        if name not in touched:
            assert torch.equal(p, before[name])


def test_projection_puts_the_weights_into_the_box_and_counts_the_groups():
    network = build({"name": "mlp", "shape": (1, 2, 2), "classes": 2, "hidden": [3]})
    groups = find_groups(network, (1, 2, 2))
    with torch.no_grad():
        network.layers[0].weight[1, 2] = 9.0
    ones = np.ones(groups.count)
    penalty = GroupPenalty(network, groups, square(ones, ones, ones))
    assert int(penalty.project_()) == 1
    assert float(network.layers[0].weight.detach().abs().max()) == 1.0
    assert torch.isfinite(penalty.value())


def test_scales_are_batchnorm_where_there_is_one():
    network = build({"name": "resnet8", "shape": SHAPE, "classes": 10})
    groups = find_groups(network, SHAPE)
    names = {m.tensor for m in groups.scales()}
    assert names == {n for n, _ in network.named_parameters() if n.split(".")[-2].startswith("bn")
                     or ".shortcut.1." in n}  # fmt: skip
    network = build({"name": "mlp", "shape": SHAPE, "classes": 10, "hidden": [4]})
    groups = find_groups(network, SHAPE)
    assert groups.scales() == groups.producers()
