"""Times of calls that are compared."""

import torch
from torch import nn

from mipprune.measures.latency import WARM_UP, latency_ms, milliseconds


def test_calls_take_turns_and_the_warm_up_is_not_counted():
    order = []
    samples = milliseconds({name: lambda n=name: order.append(n) for name in "ab"}, timed=7)
    assert [len(taken) for taken in samples.values()] == [7, 7]
    assert order[: 2 * WARM_UP] == ["a"] * WARM_UP + ["b"] * WARM_UP
    turns = "".join(order[2 * WARM_UP :])
    assert turns == "aaabbb" * 2 + "aabb" * 3  # 7 in 5 turns, each after a call not counted


def test_latency_leaves_the_network_in_its_mode():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = network[1].running_mean.clone()
    assert latency_ms(network, (1, 4, 4)) > 0
    assert network.training
    assert torch.equal(network[1].running_mean, before)
