"""Kept channels found in the weights, with little memory."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from formulations.errors import InputError
from mipprune.structure.groups import find_groups
from mipprune.structure.matching import match
from mipprune.structure.removal import prune_groups


def pair(inputs, units, kept, change=0.0):
    """A perceptron and what is left of it, its weights moved a little."""
    dense = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 2))
    groups = find_groups(dense, (inputs,))
    pruned = prune_groups(dense, groups, kept)
    with torch.no_grad():
        pruned[0].weight.add_(change * torch.randn_like(pruned[0].weight))
    return dense, pruned, groups


@pytest.mark.parametrize("seed", range(5))
def test_the_sequence_of_least_distance_is_found(seed):
    torch.manual_seed(seed)
    kept = np.random.default_rng(seed).random(9) < 0.5
    kept[0] = True
    dense, pruned, groups = pair(3, 9, kept, change=0.5)
    old, new = (n[0].weight.detach().double().numpy() for n in (dense, pruned))
    best = min(
        combinations(range(9), len(new)), key=lambda rows: ((old[list(rows)] - new) ** 2).sum()
    )
    np.testing.assert_array_equal(np.flatnonzero(match(dense, pruned, groups)), best)


def test_of_equal_channels_the_first_are_taken():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        dense[0].weight[1] = dense[0].weight[0]
        dense[0].weight[4:] = 0
    groups = find_groups(dense, (3,))
    pruned = prune_groups(dense, groups, np.array([False, True, False, True, False, True]))
    found = match(dense, pruned, groups)
    np.testing.assert_array_equal(found, [True, False, False, True, True, False])


def test_distances_need_no_array_of_differences():
    inputs, units = 4096, 128
    dense, pruned, groups = pair(inputs, units, np.arange(units) % 2 == 0)
    tracemalloc.start()
    found = match(dense, pruned, groups)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.arange(units) % 2 == 0)
    assert peak < 6 * 8 * units * inputs  # the differences are 64 times the weights


def test_a_network_with_other_inputs_is_refused():
    dense, _, groups = pair(4, 6, np.ones(6, bool))
    other = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(InputError, match="cannot be a part"):
        match(dense, other, groups)
