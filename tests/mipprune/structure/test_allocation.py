"""Allocation on networks: classes, floors and multiples, and costs that are the built network's."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from tasks import method_of

from formulations import solve
from formulations.errors import InputError
from mipprune.config.overrides import configure
from mipprune.config.train import Config
from mipprune.models.registry import build
from mipprune.structure import allocation
from mipprune.structure.cost import Cost, count_macs, count_params
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import prune_groups
from mipprune.structure.widths import budget_problem, classes_of

IMAGE = (3, 32, 32)
# without a limit on the time, so that a busy machine proves as much
allocate = partial(allocation.allocate, time_limit=np.inf)


def network(name, shape=IMAGE, **options):
    torch.manual_seed(0)
    built = build({"name": name, "shape": shape, "classes": 10, **options})
    groups = find_groups(built, shape)
    return built, groups, Cost(built, groups, shape)


def norms(built, groups, every=False):
    """Norm of the filters that produce a group, or of every weight that does."""
    parameters = dict(built.named_parameters())
    squares = np.zeros(groups.count)
    for member in groups.producers():
        weights = parameters[member.tensor].detach().double()
        if every or weights.dim() > 1:
            known = member.group >= 0
            rows = weights.reshape(len(known), -1).square().sum(1).numpy()
            np.add.at(squares, member.group[known], rows[known])
    return np.sqrt(squares)


@pytest.mark.parametrize(
    ("name", "options", "classes"),
    [
        # inner convolutions and the coupled stages
        ("resnet20", {"shortcut": "B"}, 9 + 3),
        # the first stage lives in all three, what is padded in the second in two
        ("resnet20", {"shortcut": "A"}, 9 + 3),
        # two inner convolutions a block, the stem, four stages
        ("resnet50", {"shape": (3, 64, 64), "width": 8}, 2 * 16 + 5),
        ("mlp", {"hidden": [30, 20]}, 2),
    ],
)
def test_a_class_holds_the_groups_that_cost_the_same(name, options, classes):
    _, groups, cost = network(name, **options)
    found = classes_of(cost)
    assert len(found) == classes
    assert sorted(np.concatenate(found).tolist()) == list(range(groups.count))
    for members in found:
        for unit in ("macs", "params"):
            assert len(set(cost.marginal(unit)[members].tolist())) == 1


@pytest.mark.parametrize(
    ("name", "shape", "options", "unit", "kind"),
    [
        *(
            (name, IMAGE, {"shortcut": shortcut}, unit, kind)
            for name, shortcut in (("resnet8", "A"), ("resnet20", "B"))
            for unit in ("macs", "params")
            for kind in ("random", "norms")
        ),
        # each unit, each kind and each shortcut with one of the others
        ("resnet56", IMAGE, {"shortcut": "A"}, "macs", "norms"),
        ("resnet56", IMAGE, {"shortcut": "A"}, "params", "random"),
        ("resnet56", IMAGE, {"shortcut": "B"}, "macs", "random"),
        ("resnet56", IMAGE, {"shortcut": "B"}, "params", "norms"),
        # MACs and norms: that of ImageNet below
        ("resnet50", (3, 64, 64), {"width": 16}, "params", "random"),
    ],
)
def test_the_optimum_is_proved_and_the_built_network_costs_what_the_model_says(
    name, shape, options, unit, kind
):
    built, groups, cost = network(name, shape, **options)
    rng = np.random.default_rng(0)
    scores = rng.random(groups.count) if kind == "random" else norms(built, groups)
    problem, ranked = budget_problem(cost, scores, unit, 0.4)
    solution = solve(problem)
    assert solution.status == "optimal"
    assert solution.gap <= 1e-4
    kept = np.zeros(groups.count, bool)
    for members, width in zip(ranked, solution.widths, strict=True):
        kept[members[:width]] = True
    again = allocate(cost, scores, unit, 0.4)
    np.testing.assert_array_equal(kept, again)
    smaller = prune_groups(built, groups, kept)
    measured = {"macs": count_macs(smaller, shape), "params": count_params(smaller)}
    assert solution.costs == (measured[unit],)
    assert cost.value(kept, "macs") == measured["macs"]
    assert 0.39 * cost.dense[unit] <= measured[unit] <= 0.4 * cost.dense[unit]
    assert solution.value == pytest.approx(scores[kept].sum())


@pytest.fixture(scope="module")
def imagenet():
    return network("resnet50", (3, 224, 224))


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [1, 8])
def test_imagenet_resnet50_is_solved_to_proved_optimality(multiple, imagenet):
    built, groups, cost = imagenet
    scores = norms(built, groups)
    problem, ranked = budget_problem(cost, scores, "macs", 0.5, multiple=multiple)
    solution = solve(problem, gap=1e-4)
    assert solution.status == "optimal"
    kept = np.zeros(groups.count, bool)
    for members, width in zip(ranked, solution.widths, strict=True):
        kept[members[:width]] = True
    assert (count_macs(prune_groups(built, groups, kept), (3, 224, 224)),) == solution.costs


def test_a_small_network_gets_the_best_groups_of_all():
    """All subsets of the groups of a network with two hidden layers, not only the widths."""
    _, groups, cost = network("mlp", (1, 2, 2), hidden=[5, 6])
    for seed in range(10):
        scores = np.random.default_rng(seed).random(groups.count)
        kept = allocate(cost, scores, "params", 0.6, tolerance=0.6)
        best = 0.0
        for subset in itertools.product([False, True], repeat=groups.count):
            mask = np.array(subset)
            alive = all(mask[layer[layer >= 0]].any() for layer in groups.layers.values())
            if alive and cost.value(mask, "params") <= 0.6 * cost.dense["params"]:
                best = max(best, scores[mask].sum())
        assert scores[kept].sum() >= best * (1 - 1e-4)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_widths_are_multiples_above_the_floor_and_the_best_of_a_class_stay(shortcut):
    _, groups, cost = network("resnet20", shortcut=shortcut)
    scores = np.random.default_rng(1).random(groups.count)
    kept = allocate(cost, scores, "macs", 0.5, multiple=4, floor=0.3)
    for name, width in groups.kept_per_layer(kept).items():
        assert width % 4 == 0
        assert width >= 0.3 * len(groups.layers[name])
    for members in classes_of(cost):
        gone = scores[members][~kept[members]]
        assert scores[members][kept[members]].min(initial=np.inf) >= gone.max(initial=-np.inf)


def test_a_floor_binds_layers_and_not_the_classes_they_are_made_of():
    """Padded channels may all go, if the stage keeps enough of those below."""
    _, groups, cost = network("resnet8", shortcut="A")
    first, third = groups.layers["conv1"], groups.layers["layer3.0.conv2"]
    scores = np.where(np.isin(np.arange(groups.count), first), 1.0, 1e-6)
    kept = allocate(cost, scores, "macs", 0.3, floor=0.25)
    assert kept[first].all()
    assert kept[third].sum() >= 16


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, 1e-4])
def test_budgets_out_of_range_or_reach_are_refused(share):
    _, groups, cost = network("resnet8")
    with pytest.raises(InputError, match=r"budget\.macs"):
        allocate(cost, np.zeros(groups.count), "macs", share)


@pytest.mark.parametrize(("floor", "multiple"), [(0.0, 1), (0.5, 1), (0.0, 8)])
def test_an_unreachable_budget_names_the_smallest_network_which_can_be_had(floor, multiple):
    _, groups, cost = network("resnet8", shortcut="A")
    options = {"floor": floor, "multiple": multiple, "tolerance": 0.001}
    scores = np.ones(groups.count)
    with pytest.raises(InputError, match="unreachable: the smallest network") as caught:
        allocate(cost, scores, "params", 1e-5, **options)
    message = str(caught.value)
    assert "\n" not in message
    smallest = float(message.split("keeps ")[1].split(" ")[0])
    kept = allocate(cost, scores, "params", smallest, **options)
    assert cost.value(kept, "params") / cost.dense["params"] == pytest.approx(smallest, abs=1e-4)


def test_a_budget_that_no_widths_meet_names_one_that_some_do():
    _, groups, cost = network("mlp", (1, 2, 2), hidden=[8])
    scores = np.ones(groups.count)
    with pytest.raises(InputError, match=r"cannot be met within 1% .*the nearest") as caught:
        allocate(cost, scores, "params", 0.6, multiple=4)
    nearest = float(str(caught.value).split("keep ")[1])
    kept = allocate(cost, scores, "params", nearest, multiple=4)
    assert kept.sum() == 4


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("gone", [["layer3.0"], ["layer1.0", "layer2.0"]])
def test_without_dropped_blocks_the_best_widths_of_all_are_found(gone, share, unit):
    """All widths of a small network, of which each is built and counted."""
    shape = (1, 8, 8)
    built, groups, cost = network("resnet8", shape, width=2)
    scores = np.random.default_rng(0).random(groups.count)
    dropped = np.isin(
        np.arange(groups.count), np.concatenate([groups.blocks[name] for name in gone])
    )
    options = {"tolerance": share, "gap": 1e-9, "dropped": dropped}
    kept = allocate(cost, scores, unit, share, **options)
    assert sorted(groups.emptied(kept)) == gone
    count = {"macs": lambda net: count_macs(net, shape), "params": count_params}[unit]
    assert count(prune_groups(built, groups, kept)) <= share * cost.dense[unit]
    ranked = [members[np.argsort(-scores[members])] for members in classes_of(cost)]
    best = 0.0
    choices = [[0] if dropped[r].any() else range(1, len(r) + 1) for r in ranked]
    for widths in itertools.product(*choices):
        mask = np.zeros(groups.count, bool)
        for members, width in zip(ranked, widths, strict=True):
            mask[members[:width]] = True
        if scores[mask].sum() > best:
            smaller = build(
                {
                    **built.architecture,
                    "widths": {n: int(mask[layer].sum()) for n, layer in groups.layers.items()},
                }
            )
            if count(smaller) <= share * cost.dense[unit]:
                best = scores[mask].sum()
    assert scores[kept].sum() == pytest.approx(best, rel=1e-8)


def test_layers_that_stay_keep_their_floors_when_blocks_are_dropped():
    _, groups, cost = network("resnet20", shortcut="A")
    scores = np.random.default_rng(0).random(groups.count)
    dropped = np.zeros(groups.count, bool)
    dropped[groups.blocks["layer2.0"]] = True
    kept = allocate(cost, scores, "params", 0.3, floor=0.4, multiple=2, dropped=dropped)
    widths = groups.kept_per_layer(kept)
    assert widths.pop("layer2.0.conv1") == 0
    for name, width in widths.items():
        assert width >= 0.4 * len(groups.layers[name])


def test_an_unreachable_budget_counts_without_the_dropped_blocks():
    _, groups, cost = network("resnet8")
    dropped = np.zeros(groups.count, bool)
    for name in ("layer2.0", "layer3.0"):
        dropped[groups.blocks[name]] = True
    with pytest.raises(InputError, match=r"cannot be met .*the nearest widths keep") as caught:
        allocate(cost, np.ones(groups.count), "params", 0.9, dropped=dropped)
    nearest = float(str(caught.value).split("keep ")[1])
    most = cost.value(~dropped, "params") / cost.dense["params"]
    assert nearest == pytest.approx(most, abs=1e-4)


def test_the_whole_network_is_within_a_budget_of_one():
    _, groups, cost = network("resnet8")
    assert allocate(cost, np.ones(groups.count), "macs", 1.0).all()


def test_spr_allocates_by_price_times_keep_score_in_the_configured_widths():
    built, groups, cost = network("resnet8", shortcut="B")
    for parameter in built.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 1.0)
    budget = {"macs": 0.5, "multiple": 4, "floor": 0.5}
    method = method_of("spr", built, {"weights": "all", "bound": None}, budget=budget)
    kept = method.select()
    assert 0.49 <= cost.value(kept, "macs") / cost.dense["macs"] <= 0.5
    for name, width in groups.kept_per_layer(kept).items():
        assert width % 4 == 0
        assert width >= 0.5 * len(groups.layers[name])
    # c·y* of the square without a bound is ‖w‖·√(a·c), c the group's own MACs
    worth = norms(built, groups, every=True) * np.sqrt(cost.marginal("macs"))
    expected = allocate(cost, worth, "macs", 0.5, multiple=4, floor=0.5)
    assert worth[kept].sum() == pytest.approx(worth[expected].sum(), rel=1e-4)


def test_settings_of_the_budget_that_cannot_be_are_refused_before_training():
    for word, key in (
        ("budget.multiple=0", "budget.multiple"),
        ("budget.floor=1.5", "budget.floor"),
    ):
        with pytest.raises(InputError, match=key):
            configure(Config, {}, [word])
    built, *_ = network("resnet8")
    with pytest.raises(InputError, match="one budget"):
        method_of("spr", built, budget={"macs": 0.5, "params": 0.5})
    with pytest.raises(InputError, match="unreachable"):
        method_of("spr", built, budget={"macs": 0.2, "floor": 0.9})
