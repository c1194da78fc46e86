"""Each method's update rule against a step worked out by hand, and what it picks and refuses."""

import math

import numpy as np
import pytest
import torch
from tasks import method_of, small_network, task_of
from torch import nn

from formulations.errors import InputError
from mipprune.config.overrides import configure
from mipprune.config.train import Config
from mipprune.methods.directional import GRDA
from mipprune.methods.registry import names
from mipprune.penalties.rows import GroupRows
from mipprune.structure.allocation import lowest_removed
from mipprune.structure.links import Masks, count_nonzero, masks_of
from mipprune.structure.removal import mask_groups, prune_groups


def with_zero_gradients(network):
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return network


# ---- growing regularization ---------------------------------------------------------------------


def greg(network, **settings):
    given = {"growth": 0.5, "every": 2, "stabilise": 3, "ceiling": 1.0, **settings}
    return method_of("greg", network, given)


def test_greg1_grows_on_the_least_filters_every_so_many_steps_and_then_holds():
    network = with_zero_gradients(small_network("mlp", hidden=[6, 5]))
    method = greg(network, ratios={"layers.0": 0.5})
    size = network.layers[0].weight.detach().abs().mean(1)
    expected = torch.zeros(11, dtype=torch.bool)
    expected[size.argsort()[:3]] = True
    assert torch.equal(method.removed, expected)
    # grows before steps 1, 3 and 5: 0.5, 1.0, 1.5, which is past τ = 1; then holds three steps
    for factor, stage in [(0.5, "grow")] * 2 + [(1.0, "grow")] * 2 + [(1.5, "stabilise")] * 4:
        assert not method.done
        for parameter in network.parameters():
            parameter.grad.zero_()
        method.after_backward()
        wanted = factor * network.layers[0].weight.detach() * expected[:6, None]
        assert torch.allclose(network.layers[0].weight.grad, wanted)
        assert not network.layers[1].weight.grad.any()
        assert method.stage == stage
    assert method.done
    np.testing.assert_array_equal(method.select(), ~expected.numpy())


def test_greg2_picks_by_norm_after_the_response_and_recovers_the_kept():
    network = with_zero_gradients(small_network("mlp", hidden=[6, 5]))
    settings = {"version": 2, "pick_growth": 0.01, "pick_ceiling": 0.02, "every": 1}
    method = greg(network, ratios={"layers.0": 0.5}, recover=-0.125, **settings)
    weight = network.layers[0].weight
    for factor in (0.01, 0.02):
        assert not method.removed.any()
        weight.grad.zero_()
        method.after_backward()
        assert torch.allclose(weight.grad, factor * weight.detach())  # on all groups of the layer
    assert not network.layers[1].weight.grad.any()
    with torch.no_grad():
        weight[:3] *= 100  # too late: the choice has been made
    chosen = method.removed[:6].clone()
    assert chosen.sum() == 3
    weight.grad.zero_()
    method.after_backward()
    factor = torch.where(chosen, 0.52, -0.125)
    assert torch.allclose(weight.grad, factor[:, None] * weight.detach())


def test_greg_ends_growth_when_kept_groups_are_far_above_the_others():
    network = with_zero_gradients(small_network("mlp", hidden=[6, 5]))
    method = greg(network, ratios={"layers.*": 0.5}, ceiling=1e6, growth=1e5, stabilise=1)
    for layer in network.layers[:2]:
        with torch.no_grad():
            gone = method.removed[: len(layer.weight)] if layer is network.layers[0] else None
            gone = method.removed[6:11] if gone is None else gone
            layer.weight[gone] *= 1e-5
    method.after_backward()
    assert method.stage == "stabilise"


@pytest.mark.parametrize("weights", ["filters", "channels"])
def test_greg_ranks_filters_or_the_slices_that_read_them(weights):
    network = small_network("mlp", hidden=[6, 5])
    method = greg(network, ratios={"layers.0": 0.34}, weights=weights)
    first, second = network.layers[0].weight.detach(), network.layers[1].weight.detach()
    size = first.abs().mean(1) if weights == "filters" else second.abs().mean(0)
    np.testing.assert_allclose(method.scores()[:6], size, rtol=1e-6)
    assert set(np.flatnonzero(~method.select())) == set(size.argsort()[:3].tolist())


def test_greg_of_single_weights_takes_the_least_of_every_layer():
    network = small_network("lenet-300-100")
    method = method_of(
        "greg",
        network,
        {"ratios": {"layers.*": 0.9}, "growth": 0.5, "every": 1, "stabilise": 1},
        granularity="link",
    )
    kept = masks_of(network, method.task.groups, method.select())
    for name, keep in kept.items():
        size = dict(network.named_parameters())[name].detach().abs()
        assert float(keep.float().mean()) == pytest.approx(0.1, abs=1e-3)
        assert size[keep].min() >= size[~keep].max()


# ---- directional pruning ------------------------------------------------------------------------


def test_grda_accumulates_and_thresholds_as_by_hand_under_a_changing_learning_rate():
    """a and g of math: section 6 at n = 1, 2, 3, worked out in plain Python."""
    start, gradients, rates = (
        [0.5, -0.02, 0.3],
        [[1, 0.5, -2], [0.2, -1, 3], [0, 0, 0]],
        [0.1, 0.05, 0.2],
    )
    c, mu = 0.3, 0.6
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = GRDA([weight], 0.1, c, mu)
    accumulated, threshold = list(start), 0.0
    for n, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        threshold += c * rate ** (0.5 + mu) * (n**mu - (n - 1) ** mu)
        accumulated = [a - rate * g for a, g in zip(accumulated, gradient, strict=True)]
        expected = [math.copysign(max(abs(a) - threshold, 0.0), a) for a in accumulated]
        np.testing.assert_allclose(weight.detach(), expected, rtol=1e-12, atol=1e-15)
    assert (weight == 0).any()


def test_grda_with_a_constant_rate_has_the_published_threshold():
    weight = nn.Parameter(torch.ones(2))
    optimizer = GRDA([weight], 0.1, 0.005, 0.51)
    for _ in range(7):
        weight.grad = torch.zeros(2)
        optimizer.step()
    published = 0.005 * 0.1**1.01 * 7**0.51
    assert optimizer.param_groups[0]["threshold"] == pytest.approx(published, rel=1e-12)


def test_structured_grda_shrinks_whole_groups_and_leaves_other_weights_to_sgd():
    network = small_network("mlp", hidden=[6, 5])
    task = task_of(network)
    rows = GroupRows(task.parameters, task.groups.producers(), task.groups.count)
    before = {n: p.detach().clone() for n, p in task.parameters.items()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = GRDA(network.parameters(), 0.05, 0.9, 0.51, groups=rows)
    optimizer.step()
    threshold = 0.9 * 0.05**1.01
    weight, bias = (before[f"layers.0.{n}"] - 0.05 for n in ("weight", "bias"))
    whole = torch.cat([weight, bias[:, None]], 1)
    norm = whole.norm(dim=1, keepdim=True)
    whole = whole * (1 - threshold * math.sqrt(whole.shape[1]) / norm).clamp(min=0)
    assert torch.allclose(network.layers[0].weight, whole[:, :-1], atol=1e-7)
    assert torch.allclose(network.layers[0].bias, whole[:, -1], atol=1e-7)
    assert torch.allclose(network.layers[2].weight, before["layers.2.weight"] - 0.05)


def test_alternating_variant_thresholds_in_the_last_step_of_a_period():
    weight = nn.Parameter(torch.tensor([1.0, 0.01]))
    optimizer = GRDA([weight], 0.1, 1.0, 0.51, period=3)
    for step in range(1, 7):
        weight.grad = torch.tensor([0.0, 0.0])
        optimizer.step()
        assert bool(weight[1] == 0) == (step >= 3)
        if step < 3:
            assert weight[0] == 1


# ---- spr ----------------------------------------------------------------------------------------


def test_spr_of_single_weights_is_the_perspective_of_every_weight():
    network = small_network("mlp", hidden=[6, 5])
    method = method_of(
        "spr", network, {"weights": "all", "bound": 1.5, "lam": 0.7}, granularity="link"
    )
    a, c = 0.7 * 0.1, 0.7 * 0.9
    total = 0.0
    for layer in network.layers:
        w = layer.weight.detach().double().abs().flatten()
        limit = 1.5 * w.max()
        y = torch.clamp(torch.maximum(w / limit, w / math.sqrt(c / a)), max=1)
        total += float(torch.where(y > 0, a * w**2 / y + c * y, 0).sum())
    assert method.log()["penalty"] == pytest.approx(total, rel=1e-5)


def test_spr_logs_the_share_of_groups_in_every_regime():
    network = small_network("mlp", hidden=[4, 4])
    with torch.no_grad():
        for layer in network.layers:
            layer.weight.fill_(1e-3)
            layer.bias.zero_()
        network.layers[0].weight[0] = 100  # kept: s > r*
        network.layers[0].weight[1] = 0
    log = method_of("spr", network, {"weights": "all", "bound": None}).log()
    assert log["regime_kept"] == pytest.approx(1 / 8)
    assert log["regime_free"] == pytest.approx(7 / 8)
    assert log["regime_zero"] == pytest.approx(1 / 8)


def test_spr_schedules_lambda_geometrically_and_alpha_linearly():
    settings = {"lam": 0.01, "lam_end": 1.0, "alpha": 0.1, "alpha_end": 0.5}
    method = method_of("spr", small_network(), settings)
    for _ in range(50):
        method.adapt()
    assert (method.lam, method.alpha) == (pytest.approx(0.1), pytest.approx(0.3))
    for _ in range(70):
        method.adapt()
    assert (method.lam, method.alpha) == (pytest.approx(1.0), pytest.approx(0.5))


def test_spr_with_blocks_nests_the_channels_of_a_branch_and_drops_dead_ones_whole():
    network = small_network("resnet14", shortcut="B")
    settings = {"weights": "all", "block_price": 0.4}
    method = method_of("spr", network, settings, granularity="block", budget={"macs": 0.5})
    groups = method.task.groups
    nested = method.parts[0]
    assert set(nested.chosen) == set(np.concatenate(list(groups.blocks.values())))
    price = nested.penalty.term.price
    members = nested.penalty.term.membership
    assert torch.allclose(nested.penalty.term.block_price, 0.4 * members @ price, rtol=1e-5)
    name, inner = next(iter(groups.blocks.items()))
    parameters = method.task.parameters
    with torch.no_grad():
        for member in groups.producers():
            inside = torch.from_numpy(np.isin(member.group, inner))
            parameters[member.tensor][inside] = 0
    kept = method.select()
    assert groups.emptied(kept) == [name]
    assert method.task.cost.value(kept, "macs") <= 0.5 * method.task.cost.dense["macs"]
    image = torch.randn(2, 1, 8, 8)
    smaller = prune_groups(network, groups, kept)
    mask_groups(network, groups, kept)
    assert torch.allclose(smaller.eval()(image), network.eval()(image), atol=1e-5)


# ---- baselines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_magnitude_is_torch_pruning_s_own_on_a_chain(p):
    """Against the definition: mean over the coupled layers of Σ|w|^p, over its mean."""
    network = small_network("mlp", hidden=[6, 5])
    scores = method_of("magnitude", network, {"norm": p}, budget={"macs": 0.5}).scores()
    first, second = network.layers[0], network.layers[1]
    parts = first.weight.detach().abs().pow(p).sum(1) + second.weight.detach().abs().pow(p).sum(0)
    ratio = torch.tensor(scores[:6]) / parts
    assert torch.allclose(ratio, ratio.mean().expand(6), rtol=0.2)
    assert list(scores[:6].argsort()) == list(parts.argsort())


def test_taylor_scores_come_from_the_gradient_of_the_mean_loss():
    network = small_network("mlp", hidden=[6])
    method = method_of(
        "taylor", network, {"images": 64}, granularity="link", budget={"params": 0.5}
    )
    scores = method.scores()
    data = method.task.data
    index = torch.randperm(data.train_size, generator=torch.Generator().manual_seed(0))[:64]
    loss = nn.functional.cross_entropy(
        network(data.normalise(data.train.images[index])), data.train.labels[index]
    )
    loss.backward()
    wanted = torch.cat(
        [(layer.weight * layer.weight.grad).abs().flatten() for layer in network.layers]
    )
    np.testing.assert_allclose(scores, wanted.detach(), rtol=1e-4, atol=1e-9)


def test_slimming_adds_the_sign_of_every_scale_and_ranks_by_it():
    network = with_zero_gradients(small_network())
    method = method_of("slimming", network, {"lam": 0.25}, budget={"macs": 0.5})
    with torch.no_grad():
        network.layer1[0].bn1.weight.copy_(torch.tensor([-2.0, 0.5, 3.0, 0.1]))
    method.after_backward()
    grad = network.layer1[0].bn1.weight.grad
    assert grad.tolist() == [-0.25, 0.25, 0.25, 0.25]
    assert not network.layer1[0].conv1.weight.grad.any()
    group = method.task.groups.layers["layer1.0.conv1"]
    np.testing.assert_allclose(method.scores()[group], [2, 0.5, 3, 0.1], rtol=1e-6)


def test_lasso_step_is_the_proximal_operator_of_the_group_norm():
    network = small_network("mlp", hidden=[6, 5])
    method = method_of("lasso", network, {"lam": 0.5}, budget={"macs": 0.5})
    whole = torch.cat([network.layers[0].weight, network.layers[0].bias[:, None]], 1).detach()
    method.after_step(0.1)
    after = torch.cat([network.layers[0].weight, network.layers[0].bias[:, None]], 1).detach()
    for old, new in zip(whole, after, strict=True):
        # the minimiser of ½‖x − old‖² + t‖x‖, by its optimality condition
        t = 0.1 * 0.5 * math.sqrt(len(old))
        if new.norm() > 0:
            assert torch.allclose(new - old + t * new / new.norm(), torch.zeros(65), atol=1e-6)
        else:
            assert old.norm() <= t * (1 + 1e-6)


def test_uniform_keeps_the_same_share_of_every_layer():
    method = method_of("uniform", small_network(width=16, shortcut="B"), budget={"macs": 0.3})
    kept = method.select()
    counts = method.task.groups.kept_per_layer(kept)
    shares = [counts[n] / len(g) for n, g in method.task.groups.layers.items()]
    assert max(shares) - min(shares) <= 1 / 16
    assert 0.25 < method.task.cost.value(kept, "macs") / method.task.cost.dense["macs"] <= 0.3


@pytest.mark.parametrize("name", ["magnitude", "taylor", "random", "uniform", "lasso", "slimming"])
def test_baselines_meet_a_budget_from_below_and_empty_no_layer(name):
    network = small_network(width=16)
    method = method_of(name, network, budget={"macs": 0.4})
    kept = method.select()
    cost = method.task.cost
    share = cost.value(kept, "macs") / cost.dense["macs"]
    assert 0.37 < share <= 0.4
    assert prune_groups(network, method.task.groups, kept)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_baselines_answer_to_multiples_of_channels():
    network = small_network(width=16, shortcut="B")
    method = method_of("random", network, budget={"macs": 0.4, "multiple": 4})
    widths = method.task.groups.kept_per_layer(method.select())
    assert all(width % 4 == 0 for width in widths.values())


# ---- single weights -----------------------------------------------------------------------------


def test_masks_hold_zeros_against_an_optimizer_with_momentum():
    network = small_network("mlp", hidden=[6, 5])
    method = method_of("random", network, granularity="link", budget={"params": 0.5})
    kept = method.select()
    cost = method.task.cost
    assert 0.49 < cost.value(kept, "params") / cost.dense["params"] <= 0.5
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    masks = Masks(network, masks_of(network, method.task.groups, kept))
    for _ in range(3):
        network(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        masks.apply_()
    left = count_nonzero(network, (1, 8, 8))
    assert left == {unit: cost.value(kept, unit) for unit in ("macs", "params")}


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "options", "words"),
    [
        ("greg", {"ratios": {"layer1.*": 0.5}}, {"trained": False}, "trained network"),
        ("greg", {}, {}, "either method.ratios or a budget"),
        ("greg", {"ratios": {"layer9.*": 0.5}, "growth": 0.5, "stabilise": 1}, {}, "layer9"),
        ("greg", {"ratios": {"layer1.*": 0.5}}, {}, "training steps"),
        ("directional", {}, {"momentum": 0.9}, "optimizer.momentum=0"),
        ("complexity", {}, {"granularity": "link"}, "physically"),
        ("slimming", {}, {"granularity": "link", "budget": {"macs": 0.5}}, "channels"),
        ("uniform", {}, {"granularity": "link", "budget": {"macs": 0.5}}, "widths"),
        ("magnitude", {}, {}, "needs a budget"),
        ("magnitude", {}, {"granularity": "block", "budget": {"macs": 0.5}}, "no whole blocks"),
        ("complexity", {"sigma": 0}, {"granularity": "block"}, "sigma > 0"),
        ("spr", {}, {"granularity": "block", "protect": ["layer*.conv1"]}, "no residual blocks"),
        (
            "greg",
            {"ratios": {"layer1.*": 0.5}, "weights": "channels"},
            {"granularity": "link"},
            "weights=filters",
        ),
        ("random", {}, {"granularity": "link", "budget": {"macs": 0.5, "multiple": 8}}, "channels"),
        ("random", {}, {"granularity": "link", "budget": {"params": 0.001}}, "unreachable"),
        ("random", {}, {"granularity": "neuron", "budget": {"macs": 0.5}}, "no hidden units"),
        ("random", {}, {"protect": ["layer7*"], "budget": {"macs": 0.5}}, "matches no layer"),
    ],
)
def test_combinations_that_cannot_work_are_refused_in_one_line(name, settings, options, words):
    with pytest.raises(InputError, match=words) as error:
        method_of(name, small_network(), settings, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "model", "options", "words"),
    [
        ("complexity", "vgg16", {}, "method.sigma=0"),
        ("spr", "vgg16", {"granularity": "block"}, "no residual blocks"),
        ("slimming", "lenet-5", {"budget": {"macs": 0.5}}, "BatchNorm"),
    ],
)
def test_models_without_what_a_method_needs_are_refused(name, model, options, words):
    network = small_network(model, **({"width": 8} if model == "lenet" else {}))
    with pytest.raises(InputError, match=words):
        method_of(name, network, **options)


def test_protected_layers_keep_all_channels():
    network = small_network(width=8)
    method = method_of("random", network, budget={"macs": 0.8}, protect=["conv1", "layer*.conv2"])
    smaller = prune_groups(network, method.task.groups, method.select())
    assert (smaller.conv1.out_channels, smaller.layer3[0].conv2.out_channels) == (8, 32)
    assert smaller.layer3[0].conv1.out_channels < 32
    counted = method.task.groups.kept_per_layer(method.select())
    built = {name: len(smaller.get_submodule(name).weight) for name in counted}
    assert counted == built


def test_every_method_has_settings_that_the_configuration_reads_by_its_name():
    assert {"spr", "greg", "directional", "complexity", "magnitude", "lasso"} <= set(names())
    for name in names():
        assert configure(Config, {}, [f"method={name}"]).method.name == name
    with pytest.raises(InputError, match=r"unknown method 'gregg'.*'greg'"):
        configure(Config, {}, ["method=gregg"])
    with pytest.raises(InputError, match=r"method\.growht.*'method\.growth'"):
        configure(Config, {}, ["method=greg", "method.growht=1"])


def test_another_method_starts_from_its_own_settings():
    recipe = {"method": {"name": "spr", "lam": 0.3}}
    assert configure(Config, recipe, ["method=lasso"]).method.lam == 1e-3
    assert configure(Config, recipe, ["method=spr"]).method.lam == 0.3


@pytest.mark.parametrize(
    ("version", "growth", "ceiling", "every", "stabilise"),
    [(1, 0.1, 1.0, 5, 4), (1, 0.1, 1.0, 5, 0), (1, 0.2, 0.6, 3, 4), (2, 0.1, 1.0, 5, 4)],
)
def test_greg_takes_exactly_the_steps_that_it_asks_for(version, growth, ceiling, every, stabilise):
    settings = {
        "version": version, "growth": growth, "ceiling": ceiling, "every": every,
        "stabilise": stabilise, "pick_growth": 0.005, "pick_ceiling": 0.01,
        "ratios": {"layers.0": 0.5},
    }  # fmt: skip
    network = with_zero_gradients(small_network("mlp", hidden=[6, 5]))
    method = method_of("greg", network, settings, steps=1000)
    taken = 0
    while not method.done:
        method.after_backward()
        taken += 1
    method_of("greg", network, settings, steps=taken)
    with pytest.raises(InputError, match=f"up to {taken:,} training steps"):
        method_of("greg", network, settings, steps=taken - 1)


def test_greg2_with_a_budget_recovers_every_kept_group():
    network = with_zero_gradients(small_network(width=8))
    settings = {"version": 2, "pick_growth": 0.005, "growth": 0.5, "every": 1, "stabilise": 1}
    method = method_of("greg", network, settings, budget={"macs": 0.97})
    for _ in range(3):
        method.after_backward()
    assert set(method.factor[~method.removed].tolist()) == {-1e-4}


def test_the_lowest_removed_meet_a_budget_with_one_group_less_than_they_must():
    network = small_network(width=8, shortcut="B")
    task = task_of(network)
    cost, scores = task.cost, np.random.default_rng(0).random(task.groups.count)
    kept = lowest_removed(cost, scores, "macs", 0.6)
    assert cost.value(kept, "macs") <= 0.6 * cost.dense["macs"]
    last = np.flatnonzero(~kept)[scores[~kept].argmax()]
    assert scores[kept].max() > scores[last]
    kept[last] = True
    assert cost.value(kept, "macs") > 0.6 * cost.dense["macs"]
