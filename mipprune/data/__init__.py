"""Data sets by name: one uint8 tensor on the training device, augmented in batches there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mipprune.data.sources import NAMES, Source, load_source

__all__ = ["NAMES", "Data", "Split", "load"]


@dataclass
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) int64, on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Data:
    """A data set on a device.

    Attributes
    ----------
    name : str
    train, test : Split
    classes : int
    shape : (channels, height, width)
    mean, std : tuple of float
        By which :meth:`normalise` shifts and divides each channel of the images in [0, 1].
    """

    def __init__(self, source: Source, device: torch.device):
        self.name, self.classes = source.name, source.classes
        self.train = Split(*(t.to(device) for t in source.train))
        self.test = Split(*(t.to(device) for t in source.test))
        self.shape = tuple(self.train.images.shape[1:])
        self._pad, self._flip = source.pad, source.flip
        self.mean, self.std = source.mean, source.std
        # x/255 normalised by mean and std, as one multiplication and one addition
        mean = torch.tensor(source.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(source.std, device=device).view(1, -1, 1, 1)
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) to float32, with the data set's mean 0 and standard deviation 1."""
        return images.float().mul_(self._scale).add_(self._shift)

    def train_batches(
        self, size: int, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch: shuffled, augmented and normalised; the last incomplete batch is left out.

        Parameters
        ----------
        size : int
            Images of a batch, at most the number of training images.
        generator : torch.Generator
            On the CPU: order, crops and flips are the same on every device.
        """
        count = len(self.train)
        device = self.train.images.device
        order = torch.randperm(count, generator=generator).to(device)
        for start in range(0, count - size + 1, size):
            index = order[start : start + size]
            images = self._augment(self.train.images[index], generator)
            yield self.normalise(images), self.train.labels[index]

    def test_batches(self, size: int = 1000) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Test images in order, normalised."""
        for start in range(0, len(self.test), size):
            part = slice(start, start + size)
            yield self.normalise(self.test.images[part]), self.test.labels[part]

    def sample(self, count: int, seed: int = 0) -> torch.Tensor:
        """Normalised training images without augmentation, (count, C, H, W), drawn with a seed."""
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(len(self.train), generator=generator)[:count]
        return self.normalise(self.train.images[index.to(self.train.images.device)])

    def _augment(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Pad by ``pad``, crop at random, flip at random; one gather for the whole batch."""
        count, _, height, width = images.shape
        device, pad = images.device, self._pad
        rows = torch.arange(height).expand(count, -1)
        columns = torch.arange(width).expand(count, -1)
        if self._flip:
            flipped = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
        if pad:
            offset = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
            rows, columns = rows + offset[0], columns + offset[1]
            images = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        elif not self._flip:
            return images
        which = torch.arange(count, device=device)[:, None, None]
        rows, columns = rows.to(device)[:, :, None], columns.to(device)[:, None, :]
        return images.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


def load(name: str, path: str | None, device: torch.device) -> Data:
    """Load a data set by name: see :func:`mipprune.data.sources.load_source`."""
    return Data(load_source(name, path), device)
