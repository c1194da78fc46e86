"""What training and evaluation ask of a data set, wherever its images are."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
import torch

from formulations.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (N, C, H, W) float32, normalised, and labels (N,) int64, on the device."""

TEST_BATCH = 128
"""Test images at a time: on a CPU larger batches are slower (their tensors' pages are new)."""
_DIGESTED = 256  # images whose labels are looked at


class Data(ABC):
    """A data set.

    What an epoch consists of follows from (seed, epoch) and the global batch alone: neither the
    number of processes nor that of loading workers changes an image or its place.

    Attributes
    ----------
    name : str
    classes : int
    shape : (channels, height, width)
        Of an image as the network sees it.
    mean, std : tuple of float
        By which :meth:`normalise` shifts and divides each channel of the images in [0, 1].
    device : torch.device
    train_size, test_size : int
        Number of images.
    resident_bytes : int
        Of images that stay on the device.
    """

    train_size: int
    test_size: int
    resident_bytes = 0

    def __init__(
        self,
        name: str,
        classes: int,
        shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        self.name, self.classes, self.shape = name, classes, tuple(shape)
        self.device = torch.device(device)
        self.mean, self.std = tuple(mean), tuple(std)
        # x/255 normalised by mean and std, as one multiplication and one addition
        center = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        spread = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self._scale, self._shift = 1 / (255 * spread), -center / spread

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) to torch's default type, with mean 0 and standard deviation 1."""
        return images.to(self._scale.dtype).mul_(self._scale).add_(self._shift)

    def steps(self, batch: int) -> int:
        """Optimisation steps of an epoch at a global batch: an incomplete last one is left out."""
        return self.train_size // batch

    @abstractmethod
    def train_batches(
        self, size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """One epoch: shuffled, augmented and normalised; the last incomplete batch is left out.

        Parameters
        ----------
        size : int
            Images of a global batch.
        seed, epoch : int
            All that is random follows from these two and an image's place.
        start : int
            Steps to leave out: the rest is what it is without them.
        rank, world : int
            This process and their number. Each yields its part of every global batch, in order.

        Raises
        ------
        InputError
            If the batch cannot be shared evenly.
        """

    @abstractmethod
    def test_batches(
        self, size: int = TEST_BATCH, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Test images in order, normalised; every one in exactly one of the processes."""

    @abstractmethod
    def examples(self, count: int, seed: int = 0) -> Batch:
        """Training images without augmentation, and their labels, drawn with a seed.

        At most ``count``: all of them where there are fewer.
        """

    def sample(self, count: int, seed: int = 0) -> torch.Tensor:
        """The images of :meth:`examples`, (count, C, H, W)."""
        return self.examples(count, seed)[0]

    def digest(self) -> str:
        """SHA-256 of what the training images are, the same wherever their files lie."""
        _, labels = self.examples(_DIGESTED)
        sizes = f"{self.name} {self.classes} {self.shape} {self.train_size} {self.test_size}"
        return hashlib.sha256(sizes.encode() + labels.cpu().numpy().tobytes()).hexdigest()


class Draw(IntEnum):
    """What is drawn: each has streams of its own."""

    ORDER = 1
    CROP = 2
    MIXUP = 3


def stream(draw: Draw, seed: int, epoch: int, place: int = 0) -> np.random.Generator:
    """Random numbers that follow from what they are for and where they are used."""
    return np.random.default_rng((draw, seed, epoch, place))


def part(size: int, rank: int, world: int) -> slice:
    """A process's part of a global batch of ``size`` images.

    Raises
    ------
    InputError
        If the batch cannot be shared evenly.
    """
    if size % world:
        raise InputError(f"data.batch={size} cannot be shared evenly by {world} processes")
    own = size // world
    return slice(rank * own, (rank + 1) * own)


def share(count: int, rank: int, world: int) -> range:
    """A process's share of ``count`` images: consecutive ones, none left out, none twice."""
    return range(count * rank // world, count * (rank + 1) // world)
