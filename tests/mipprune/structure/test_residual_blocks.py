"""Residual branches that are removed as a whole: networks, groups, cost, optimizer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.models.mobilenet import InvertedResidual
from mipprune.models.parts import ZeroPadShortcut
from mipprune.models.registry import build, describe
from mipprune.models.resnet import Bottleneck, CifarBlock, ImageNetBasicBlock
from mipprune.models.wide_resnet import PreActivationBlock
from mipprune.structure.allocation import remove_below
from mipprune.structure.cost import Cost, count_macs, count_params
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import Removal, mask_groups, prune_groups, prune_optimizer

SHAPE = (3, 16, 16)
ARCHITECTURES = [
    {"name": "resnet20", "shortcut": "A", "width": 8},
    {"name": "resnet20", "shortcut": "B", "width": 8},
    {"name": "resnet18", "width": 8},
    {"name": "resnet50", "width": 8},
    {"name": "wrn-16-2", "width": 8},
    {"name": "wrn-16-1", "width": 8},
    {"name": "mobilenet-v2", "multiplier": 0.5},
]
# removable ones: all but MobileNet's blocks without a shortcut
BLOCKS = [9, 9, 8, 16, 6, 6, 10]


def names(architecture):
    return architecture["name"] + architecture.get("shortcut", "")


def trained_looking(architecture):
    torch.manual_seed(0)
    network = build({"shape": SHAPE, "classes": 10, **architecture}).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def random_kept(groups, seed, emptied=0.4):
    """A mask that empties some removable branches, and no other layer."""
    rng = np.random.default_rng(seed)
    kept = rng.random(groups.count) < 0.6
    for inner in groups.blocks.values():
        if rng.random() < emptied:
            kept[inner] = False
    removable = np.concatenate([[], *groups.blocks.values()])
    for layer in groups.layers.values():
        if not np.isin(layer, removable).any():
            kept[layer[rng.integers(len(layer))]] = True
    return kept


def outputs(network, seed=3):
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return network(images)


def assert_same_up_to_renumbering(left, right):
    """Equal but for the numbers of the groups."""
    assert left.count == right.count
    keys = [[(m.tensor, m.axis, m.role) for m in groups.members] for groups in (left, right)]
    assert keys[0] == keys[1]
    number = {}
    pairs = [(a.group, b.group) for a, b in zip(left.members, right.members, strict=True)]
    assert list(left.layers) == list(right.layers)
    pairs += [(left.layers[name], right.layers[name]) for name in left.layers]
    assert list(left.paddings) == list(right.paddings)
    for name, (low, high) in left.paddings.items():
        pairs += [(low, right.paddings[name][0]), (high, right.paddings[name][1])]
    for ours, theirs in pairs:
        assert len(ours) == len(theirs)
        for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
            assert number.setdefault(a, b) == b
    assert len(set(number.values())) == len(number)
    assert number.get(-1, -1) == -1
    assert left.branches == right.branches
    assert list(left.blocks) == list(right.blocks)
    for name, inner in left.blocks.items():
        assert {number[g] for g in inner.tolist()} == set(right.blocks[name].tolist())


# ---- the blocks themselves -----------------------------------------------------------------------


def test_blocks_without_a_branch_compute_the_activation_of_their_shortcut():
    x = torch.randn(2, 4, 6, 6)
    down = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8))
    pad = ZeroPadShortcut(4, 1, 3)
    same = [
        (CifarBlock(4, 0, 4, 1, nn.Identity()), F.relu(x)),
        (CifarBlock(4, 0, 8, 2, pad), F.relu(pad(x))),
        (ImageNetBasicBlock(4, 0, 8, 2, down), F.relu(down(x))),
        (Bottleneck(4, 0, 0, 4, 1, None), F.relu(x)),
        (Bottleneck(4, 0, 5, 8, 2, down), F.relu(down(x))),
        (PreActivationBlock(4, 0, 4, 1, False), x),
        (InvertedResidual(4, 0, 4, 1, True, True, "block"), x),
    ]
    for block, expected in same:
        assert torch.equal(block(x), expected)
        assert not [name for name, _ in block.named_parameters() if not name.startswith("downs")]
    block = PreActivationBlock(4, 0, 8, 2, True)
    assert torch.equal(block(x), block.shortcut(F.relu(block.bn1(x))))
    assert {n.split(".")[0] for n, _ in block.named_parameters()} == {"bn1", "shortcut"}


def test_a_block_without_shortcut_cannot_lose_its_branch():
    widths = {"features.2.conv.0.0": 0}
    with pytest.raises(InputError, match=r"features\.2 has no shortcut"):
        build({"name": "mobilenet-v2", "shape": SHAPE, "classes": 10, "widths": widths})


# ---- their groups --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "blocks"), list(zip(ARCHITECTURES, BLOCKS, strict=True)), ids=str
)
def test_blocks_hold_the_inner_channels_alone(architecture, blocks):
    groups = find_groups(trained_looking(architecture), SHAPE)
    assert len(groups.blocks) == blocks
    for name, inner in groups.blocks.items():
        tensors = {m.tensor for m in groups.members if np.isin(m.group, inner).any()}
        assert all(tensor.startswith(f"{name}.") for tensor in tensors)
        assert not any(
            np.isin(inner, groups.layers[stem]).any() for stem in list(groups.layers)[:1]
        )
        last = [layer for layer in groups.branches[name] if layer in groups.layers][-1]
        assert not np.isin(groups.layers[last], inner).any()


def test_a_branch_is_dead_as_soon_as_one_inner_layer_is_empty():
    groups = find_groups(trained_looking(ARCHITECTURES[3]), SHAPE)
    kept = np.ones(groups.count, bool)
    kept[groups.layers["layer2.1.conv2"]] = False
    assert groups.emptied(kept) == ["layer2.1"]
    settled = groups.settle(kept)
    assert not settled[groups.layers["layer2.1.conv1"]].any()
    assert settled.sum() == groups.count - len(groups.blocks["layer2.1"])
    assert kept[groups.layers["layer2.1.conv1"]].all()  # a new mask


def test_padded_channels_to_which_no_branch_adds_go_too():
    network = trained_looking({"name": "resnet8", "shortcut": "A", "width": 8})
    groups = find_groups(network, SHAPE)
    stem = groups.layers["conv1"]
    kept = np.ones(groups.count, bool)
    for name in ("layer2.0", "layer3.0"):
        kept[groups.blocks[name]] = False
    smaller = prune_groups(network, groups, kept)
    assert smaller.linear.in_features == len(stem)
    assert groups.settle(kept).sum() == len(stem) + len(groups.layers["layer1.0.conv1"])
    # a branch of the third stage adds to the channels of the second
    kept[groups.blocks["layer3.0"]] = True
    assert groups.settle(kept)[groups.layers["layer3.0.conv2"]].all()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=names)
@pytest.mark.parametrize("emptied", [0.4, 1.0])
def test_removed_branches_leave_what_the_masked_network_computes(architecture, emptied):
    network = trained_looking(architecture)
    groups = find_groups(network, SHAPE)
    cost = Cost(network, groups, SHAPE)
    kept = random_kept(groups, 1, emptied)
    gone = groups.emptied(kept)
    assert gone
    smaller = prune_groups(network, groups, kept)
    left = {name.rpartition(".")[0] for name in smaller.state_dict()}
    assert not left & {layer for name in gone for layer in groups.branches[name]}
    assert set(smaller.state_dict()) < set(network.state_dict())
    assert cost.value(kept, "macs") == count_macs(smaller, SHAPE)
    assert cost.value(kept, "params") == count_params(smaller)
    widths = describe(smaller)["widths"]
    for name in gone:
        *inner, last = [layer for layer in groups.branches[name] if layer in groups.layers]
        assert widths[last] == groups.settle(kept)[groups.layers[last]].sum()
        assert [widths[layer] for layer in inner] == [0] * len(inner)
    assert set(widths) == set(describe(network)["widths"])
    rebuilt = build(describe(smaller)).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(outputs(rebuilt), outputs(smaller))
    mask_groups(network, groups, kept)
    expected = outputs(network)
    assert (outputs(smaller) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=names)
@pytest.mark.parametrize("emptied", [0.0, 0.4, 1.0])
def test_shrunken_groups_are_those_of_the_smaller_network(architecture, emptied):
    network = trained_looking(architecture)
    groups = find_groups(network, SHAPE)
    kept = random_kept(groups, 2, emptied)
    smaller, shrunken = prune_groups(network, groups, kept), groups.shrink(kept)
    assert_same_up_to_renumbering(shrunken, find_groups(smaller, SHAPE))
    # the k-th group is the k-th kept one: removing it from either network is the same
    order = np.flatnonzero(groups.settle(kept))
    again = random_kept(shrunken, 3)
    both = np.zeros(groups.count, bool)
    both[order[again]] = True
    once, twice = prune_groups(network, groups, both), prune_groups(smaller, shrunken, again)
    assert describe(once)["widths"] == describe(twice)["widths"]
    for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_forgets_the_parameters_of_removed_branches():
    network = trained_looking(ARCHITECTURES[1])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(network(torch.randn(4, *SHAPE)), torch.arange(4)).backward()
    optimizer.step()
    groups = find_groups(network, SHAPE)
    kept = random_kept(groups, 1)
    smaller, removal = prune_groups(network, groups, kept), Removal(groups, kept)
    before = {n: optimizer.state[p]["momentum_buffer"] for n, p in network.named_parameters()}
    prune_optimizer(optimizer, network, smaller, removal)
    assert optimizer.param_groups[0]["params"] == list(smaller.parameters())
    assert set(optimizer.state) == set(smaller.parameters())
    for name, parameter in smaller.named_parameters():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(buffer, removal.slice(name, before[name]))


def test_layers_outside_of_branches_and_stages_are_never_emptied():
    network = trained_looking(ARCHITECTURES[1])
    groups = find_groups(network, SHAPE)
    kept = np.ones(groups.count, bool)
    kept[groups.layers["conv1"]] = False
    for act in (prune_groups, mask_groups):
        with pytest.raises(InputError, match=r"nothing would be left of conv1\.weight"):
            act(network, groups, kept)


def test_removing_by_scores_empties_no_layer_and_no_branch():
    network = trained_looking(ARCHITECTURES[4])
    groups = find_groups(network, SHAPE)
    kept = remove_below(Cost(network, groups, SHAPE), np.zeros(groups.count), 0.5)
    assert not groups.emptied(kept)
    assert set(groups.kept_per_layer(kept).values()) == {1}
