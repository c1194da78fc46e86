"""Calibration, layer problems of a network, refit: against sums over explicit rows."""

import itertools

import numpy as np
import pytest
import torch
from tasks import small_network
from torch import nn
from torch.nn import functional as F

from formulations.layer.refit import refit as best_on
from mipprune.oneshot.calibration import SegmentedForward, input_means, rows_of
from mipprune.oneshot.forward_order import Layer, forward_order
from mipprune.oneshot.layer_problems import (
    CalibratedProblems,
    layer_problem,
    reading_less,
    whole_weights,
)
from mipprune.oneshot.refit import refit, renew_statistics
from mipprune.oneshot.sites import ReadingLayer, find_candidates, find_sites
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import prune_groups

SHAPE = (1, 8, 8)


def ready(name="resnet8", **options):
    """A network whose BatchNorm statistics are those of some images, and the images."""
    network = small_network(name, **options)
    images = torch.randn(60, *SHAPE, generator=torch.Generator().manual_seed(1))
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(images)
    return network.eval(), list(images.split(12))


def some(groups, seed=0):
    """A mask that keeps about 60 % of the groups, and one of every layer."""
    kept = np.random.default_rng(seed).random(groups.count) < 0.6
    for group in groups.layers.values():
        kept[group[group >= 0][0]] = True
    return kept


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 0, 2)])
def test_rows_are_those_of_unfold(stride, padding, dilation):
    conv = nn.Conv2d(3, 4, 3, stride, padding, dilation, bias=False)
    x = torch.randn(5, 3, 9, 8)
    y = conv(x)
    rows, outputs = (torch.cat(parts) for parts in zip(*rows_of(conv, x, y), strict=True))
    expected = F.unfold(x, 3, dilation, padding, stride).mT.flatten(0, 1)
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(rows @ conv.weight.flatten(1).T, outputs)
    index = torch.tensor([0, 3, 5])
    (few, _), *_ = rows_of(conv, x, y, index)
    picked = expected.unflatten(0, (5, -1))[:, index].flatten(0, 1)
    torch.testing.assert_close(few, picked)


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "lenet-5", "mobilenet-v2"])
def test_second_moments_are_those_of_the_inputs(name, tmp_path):
    network, images = ready(name)
    order = forward_order(network, SHAPE)
    seen = {}
    hooks = [
        network.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, x, name=layer.name: seen.setdefault(name, []).append(x[0])
        )
        for layer in order.layers
    ]
    with torch.no_grad():
        for batch in images:
            network(batch)
    for hook in hooks:
        hook.remove()
    forward = SegmentedForward((network,), order, images, tmp_path)
    for layer in order.layers[:: max(1, len(order.layers) // 5)]:
        means = input_means(forward, layer, 10**6, 0)
        gram, mean = means.gram.numpy(), means.inputs.numpy()
        module, x = network.get_submodule(layer.name), torch.cat(seen[layer.name])
        if isinstance(module, nn.Conv2d):
            x = F.unfold(x, module.kernel_size, 1, module.padding, module.stride)
            x = x.mT.flatten(0, 1)
        x = x.double()
        centre = x.mean(0) if module.bias is not None or layer.norm else 0
        expected = ((x - centre).T @ (x - centre) / len(x)).numpy()
        rounding = 1e-9 * np.abs(expected).max() + 1e-12 * float(x.square().max())
        np.testing.assert_allclose(gram, expected, rtol=1e-9, atol=rounding)
        np.testing.assert_allclose(mean, x.mean(0).numpy(), atol=1e-9)


def test_the_order_knows_norms_and_what_closes_a_block():
    order = forward_order(small_network("resnet8", width=4), SHAPE)
    layers = {layer.name: layer for layer in order.layers}
    assert [*layers][:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert layers["layer1.0.conv1"].norm == "layer1.0.bn1"
    assert layers["layer1.0.conv2"].closes
    assert not layers["layer1.0.conv1"].closes
    assert layers["linear"].segment == ""
    assert order.before == {"layer2.0": "layer1.0", "layer3.0": "layer2.0"}


def normalised(network, layer, images):
    """What a layer's norm makes of its output, and what the shortcut of its block adds to it."""
    made, entries = [], []
    hooks = [
        network.get_submodule(layer.norm or layer.name).register_forward_hook(
            lambda _, x, y: made.append(y)
        )
    ]
    if layer.closes:
        block = network.get_submodule(layer.segment)
        hooks.append(block.register_forward_pre_hook(lambda _, x: entries.append(x[0])))
    with torch.no_grad():
        network(torch.cat(images))
        beside = block.bypass(entries[0]) if layer.closes else torch.zeros(())
    for hook in hooks:
        hook.remove()
    return made[0].double(), beside.double()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {"shortcut": "A"}),
        ("resnet8", {"shortcut": "B"}),
        ("wrn-10-1", {}),
        ("lenet-5", {}),
        ("mlp", {}),
    ],
)
def test_every_refitted_layer_makes_the_error_that_was_predicted(name, options):
    network, images = ready(name, **options)
    groups = find_groups(network, SHAPE)
    kept = some(groups)
    smaller, before = (prune_groups(network, groups, kept) for _ in range(2))
    checked = []

    def check(layer, fit, tensors):
        checked.append(layer)
        out = groups.layers.get(layer.name)
        left = slice(None) if out is None else np.flatnonzero(np.append(kept, True)[out])
        whole, full = normalised(network, layer, images)
        own, part = normalised(smaller, layer, images)
        # of a layer that closes a block, what makes the blocks' sums agree
        target = (whole + full)[:, left] - part
        axes = [axis for axis in range(target.dim()) if axis != 1]
        scale = 1.0
        if layer.norm:
            norm = smaller.get_submodule(layer.norm)
            scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).double()[:, None, None]
        error = ((own - target) / scale).square().mean(axes).sum()
        centre = target.mean(axes, keepdim=True) if fit.intercept is not None else 0
        variance = ((target - centre) / scale).square().mean(axes).sum()
        assert float(error / variance) == pytest.approx(fit.after, rel=1e-5), layer
        assert fit.after <= fit.before * (1 + 1e-6)

    refit(network, smaller, groups, kept, images, positions=10**6, report=check)
    assert any(layer.closes for layer in checked) == name.startswith(("resnet", "wrn"))
    batch = torch.cat(images)
    with torch.no_grad():
        wanted = network(batch)
        errors = [float((net.eval()(batch) - wanted).square().mean()) for net in (smaller, before)]
    assert errors[0] < errors[1]


def test_a_refit_of_a_whole_network_changes_nothing():
    network, images = ready()
    groups = find_groups(network, SHAPE)
    kept = np.ones(groups.count, bool)
    same = prune_groups(network, groups, kept)
    refit(network, same, groups, kept, images, positions=64)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor, msg=name)


def test_renewed_statistics_leave_the_function_and_make_training_mode_agree():
    network, images = ready()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_()
                module.bias.normal_()
    batch = torch.cat(images)
    with torch.no_grad():
        before = network.eval()(batch)
        renew_statistics(network, images)
        after = network.eval()(batch)
        training = network.train()(batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(training, before, rtol=1e-2, atol=1e-2)


def test_groups_of_a_part_of_the_inputs_are_priced_with_the_rest_refitted():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((200, 8)) @ generator.standard_normal((8, 8))
    weights = generator.standard_normal((8, 3))
    gram, rows = x.T @ x / 200, np.array([2, 3, 6, 7])
    reader = ReadingLayer(Layer("layer", "", None, False), rows, 2)
    problem = layer_problem(gram, weights, reader)
    ridged = gram + 1e-4 * np.trace(gram) / 8 * np.eye(8)
    for support in itertools.product([False, True], repeat=2):
        left = np.array([0, 1, 4, 5, *rows[np.repeat(support, 2)]])
        cross = ridged @ weights
        best = np.linalg.solve(ridged[np.ix_(left, left)], cross[left])
        expected = 0.5 * np.vdot(weights, cross) - 0.5 * np.vdot(best, cross[left])
        own = best_on(problem, np.array(support))
        assert problem.loss(own) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        whole = whole_weights(gram, weights, reader, own)
        np.testing.assert_allclose(whole[left], best, rtol=1e-3, atol=1e-3)
        assert not whole[np.setdiff1d(np.arange(8), left)].any()


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_channels_of_a_stage_are_one_site_of_all_their_readers(shortcut):
    network, _ = ready(width=4, shortcut=shortcut)
    _, cost, order = find_candidates(network, SHAPE, [], "all")
    sites = find_sites(network, cost, order)
    assert sum(len(site.groups) for site in sites) == cost.groups.count
    readers = {
        tuple(reader.layer.name for reader in site.readers): len(site.groups) for site in sites
    }
    inner = {(f"layer{stage}.0.conv2",): 4 * 2 ** (stage - 1) for stage in (1, 2, 3)}
    first = ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]
    stages = {
        "A": {(*first, "linear"): 4, ("layer3.0.conv1", "linear"): 4, ("linear",): 8},
        "B": {
            ("layer1.0.conv1", "layer2.0.shortcut.0", "layer2.0.conv1"): 4,
            ("layer3.0.shortcut.0", "layer3.0.conv1"): 8,
            ("linear",): 16,
        },
    }
    assert readers == inner | stages[shortcut]
    place = [layer.name for layer in order.layers]
    last = [place.index(site.readers[-1].layer.name) for site in sites]
    assert last == sorted(last)


def test_a_trial_makes_the_predicted_error_in_every_reader_and_is_taken_back(tmp_path):
    network, images = ready(shortcut="A", width=4)
    _, cost, order = find_candidates(network, SHAPE, [], "all")
    sites = find_sites(network, cost, order)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    problems = CalibratedProblems(network, order, images, tmp_path, positions=10**6, seed=0)
    for site, stack in zip(sites, problems.stacks(sites), strict=True):
        support = np.arange(stack.groups) % 2 == 0
        trial = problems.refitted(site, stack, support)
        for reader, problem in zip(site.readers, stack.problems, strict=True):
            # alone, so that its inputs are those of the dense network
            with reading_less(network, {reader.layer: trial[reader.layer]}):
                made, _ = normalised(network, reader.layer, images)
            dense, _ = normalised(network, reader.layer, images)
            axes = [axis for axis in range(made.dim()) if axis != 1]
            torch.testing.assert_close(made.mean(axes), dense.mean(axes), rtol=1e-3, atol=1e-4)
            error = float((made - dense).square().mean(axes).sum()) / 2
            assert error == pytest.approx(problem.loss(best_on(problem, support)), rel=0.02)
        with reading_less(network, trial):
            now = network.state_dict()
            for reader in site.readers:
                weight = f"{reader.layer.name}.weight"
                assert not torch.equal(now[weight], before[weight])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
