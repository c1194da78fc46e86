"""The moving average of weights and mixup, against their formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import small_network
from torch.nn import functional as F

from mipprune.data.mixup import mix, mixed
from mipprune.ema import MovingAverage
from mipprune.groups import find_groups
from mipprune.surgery import Removal, prune

SHAPE = (1, 8, 8)


def shake(network, seed):
    """Other weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))


def test_the_average_is_the_sum_of_the_definition():
    network = small_network()
    average = MovingAverage(network, 0.9)
    wanted = {k: v.double().clone() for k, v in network.state_dict().items()}
    for step in range(200):
        shake(network, step)
        average.update(network)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor.double()
    state = average.state_dict()
    assert state.pop("updates") == 200
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    assert set(state) == set(wanted) - counters
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_in_the_network_only_for_as_long_as_asked():
    network = small_network().eval()
    average = MovingAverage(network, 0.5)
    image = torch.rand(2, *SHAPE)
    first = network(image)
    shake(network, 1)
    own = network(image)
    with average.applied(network):
        assert torch.equal(network(image), first)
    assert torch.equal(network(image), own)
    average.copy_to(network)
    assert torch.equal(network(image), first)


def test_the_average_of_what_is_left_is_what_is_left_of_the_average():
    network = small_network("resnet14")
    average = MovingAverage(network, 0.7)
    shake(network, 2)
    average.update(network)
    groups = find_groups(network, SHAPE)
    kept = np.random.default_rng(0).random(groups.count) < 0.6
    for layer in ("conv1", "layer2.0.conv2", "layer3.0.conv2"):
        kept[groups.layers[layer][:2]] = True
    kept[groups.layers["layer2.1.conv1"]] = False  # a whole branch
    smaller = prune(network, groups, kept)
    with average.applied(network):
        wanted = prune(network, groups, kept).state_dict()
    average.follow(Removal(groups, kept))
    average.copy_to(smaller)
    for name, tensor in smaller.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    average.update(smaller)  # and it goes on


def test_an_average_goes_on_from_its_state():
    network, twin = small_network(seed=0), small_network(seed=1)
    average = MovingAverage(network, 0.9)
    shake(network, 3)
    average.update(network)
    again = MovingAverage(twin, 0.9)
    again.load_state_dict(average.state_dict())
    for each in (average, again):
        each.update(twin)
    one, two = average.state_dict(), again.state_dict()
    assert one.pop("updates") == two.pop("updates") == 2
    assert all(torch.equal(one[name], two[name]) for name in one)


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_mixing_is_linear_and_its_loss_is_the_mixture_of_losses(count, share, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 4, 4, generator=generator)
    labels = torch.randint(5, (count,), generator=generator)
    logits = torch.randn(count, 5, generator=generator)
    found, targets = mix(images, labels, 5, share)
    loss = 0.0
    for i in range(count):
        j = min(i + 1 if i % 2 == 0 else i - 1, count - 1)
        torch.testing.assert_close(found[i], share * images[i] + (1 - share) * images[j])
        own, other = (F.cross_entropy(logits[i : i + 1], labels[k : k + 1]) for k in (i, j))
        loss += float(share * own + (1 - share) * other) / count
    assert float(F.cross_entropy(logits, targets)) == pytest.approx(loss, rel=1e-4, abs=1e-5)


def test_mixed_batches_follow_from_seed_epoch_and_step_and_not_from_ranks():
    torch.manual_seed(0)
    batches = [(torch.rand(8, 1, 2, 2), torch.randint(3, (8,))) for _ in range(6)]
    whole = list(mixed(batches, 3, 0.4, seed=1, epoch=2))
    rest = list(mixed(batches[4:], 3, 0.4, seed=1, epoch=2, start=4))
    half = list(mixed([(x[4:], y[4:]) for x, y in batches], 3, 0.4, seed=1, epoch=2))
    for (images, targets), (own, wanted) in zip(half, whole, strict=True):
        assert torch.equal(images, own[4:])
        assert torch.equal(targets, wanted[4:])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(rest, whole[4:], strict=True))
    shares = [float(targets.max(1).values.min()) for _, targets in whole]
    assert len(set(shares)) == 6


def test_shares_have_the_moments_of_the_beta_distribution():
    label = torch.tensor([0, 1])
    batches = [(torch.zeros(2, 1, 1, 1), label)] * 4000
    shares = torch.stack([targets[0, 0] for _, targets in mixed(batches, 2, 0.3, 0, 0)]).double()
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.05)
