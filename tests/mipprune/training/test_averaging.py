"""The moving average of weights and mixup, against their formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import small_network
from torch.nn import functional as F

from mipprune.data.mixup import mix, mixed
from mipprune.training.ema import Average

SHAPE = (1, 8, 8)


def shake(network, seed):
    """Other weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))


def test_the_average_is_that_of_the_definition():
    """From the first step's weights on; of statistics too."""
    network = small_network()
    average, wanted = Average(network, 0.9), None
    for step in range(50):
        shake(network, step)
        average.update()
        now = {k: v.double().clone() for k, v in network.state_dict().items()}
        wanted = now if wanted is None else {k: 0.9 * wanted[k] + 0.1 * now[k] for k in now}
    network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})
    average.copy_to(network)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-5, atol=1e-6)


def test_an_update_brings_no_number_to_another_device(monkeypatch):
    """A copy from the host would make a GPU wait at every step."""
    network, moved = small_network(), torch.Tensor.to

    def moving(tensor, *given, **more):
        assert not more
        assert not any(isinstance(word, torch.device | str) for word in given)
        return moved(tensor, *given, **more)

    average = Average(network, 0.9)
    monkeypatch.setattr(torch.Tensor, "to", moving)
    for _ in range(2):
        average.update()


def test_an_average_goes_on_from_its_state():
    network = small_network(seed=0)
    average = Average(network, 0.9)
    shake(network, 3)
    average.update()
    again = Average(network, 0.9)
    again.load_state_dict({k: v.clone() for k, v in average.state_dict().items()})
    shake(network, 4)
    for each in (average, again):
        each.update()
    one, two = average.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    image = torch.rand(2, *SHAPE)
    assert torch.equal(average.network.eval()(image), again.network.eval()(image))


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
