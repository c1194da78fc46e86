"""What every data set must do, however it is loaded."""

import torch


def check_epochs(data, size, seed=5):
    """Ranks together, and what is left after an interruption, are what one process sees."""
    state = torch.get_rng_state()
    whole = list(data.train_batches(size, seed, epoch=1))
    assert torch.equal(torch.get_rng_state(), state)  # the run's own random numbers are its own
    assert len(whole) == data.steps(size) == data.train_size // size
    for images, labels in whole:
        assert images.shape == (size, *data.shape)
        assert images.dtype == torch.float32
        assert labels.shape == (size,)
    for world in (w for w in (2, 3, 4) if size % w == 0):
        ranks = [
            data.train_batches(size, seed, epoch=1, rank=rank, world=world) for rank in range(world)
        ]
        for wanted, parts in zip(whole, zip(*ranks, strict=True), strict=True):
            assert_same(wanted, [torch.cat(tensors) for tensors in zip(*parts, strict=True)])
    for start in (1, len(whole) - 1, len(whole)):
        rest = list(data.train_batches(size, seed, epoch=1, start=start))
        assert len(rest) == len(whole) - start
        for wanted, found in zip(whole[start:], rest, strict=True):
            assert_same(wanted, found)
    late = list(data.train_batches(size, seed, epoch=1, start=1, rank=1, world=2))
    assert_same([tensor[size // 2 :] for tensor in whole[1]], late[0])
    for changed in ({"epoch": 2}, {"epoch": 1, "seed": seed + 1}):
        other = next(iter(data.train_batches(size, **{"seed": seed, **changed})))
        assert not torch.equal(whole[0][0], other[0])


def check_test_images(data, size):
    """Every test image once over all ranks, in order."""
    whole = [torch.cat(tensors) for tensors in zip(*data.test_batches(size), strict=True)]
    assert len(whole[1]) == data.test_size
    for world in (2, 3):
        batches = [b for rank in range(world) for b in data.test_batches(size, rank, world)]
        assert_same(whole, [torch.cat(tensors) for tensors in zip(*batches, strict=True)])
        assert max(len(labels) for _, labels in batches) <= size


def check_examples(data):
    """Drawn with a seed, each at most once, not augmented."""
    images, labels = data.examples(10, seed=3)
    assert images.shape == (10, *data.shape)
    assert_same((images, labels), data.examples(10, seed=3))
    assert torch.equal(images, data.sample(10, seed=3))
    assert not torch.equal(images, data.sample(10, seed=4))
    everything, labels = data.examples(data.train_size + 1)
    assert len(everything) == len(labels) == data.train_size


def assert_same(one, two):
    """Two batches are equal, bit for bit."""
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
