"""Data sets that fit on the training device: one uint8 tensor there, augmented in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mipprune.data.base import TEST_BATCH, Batch, Data, part, share
from mipprune.data.sources import Source


@dataclass
class Split:
    """Images (N, C, H, W) and labels (N,) int64, on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Augmentation:
    """What was drawn for an epoch: flipped or not, (steps, N, 1), the crops' offsets, (2, …)."""

    flipped: torch.Tensor | None
    offset: torch.Tensor | None


class Memory(Data):
    """A data set in the device's memory.

    Attributes
    ----------
    train, test : Split
        uint8.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self.train = Split(*(t.to(device) for t in source.train))
        self.test = Split(*(t.to(device) for t in source.test))
        shape = self.train.images.shape[1:]
        super().__init__(source.name, source.classes, shape, source.mean, source.std, device)
        self.train_size, self.test_size = len(self.train), len(self.test)
        self.resident_bytes = self.train.images.numel() + self.test.images.numel()
        self._pad, self._flip = source.pad, source.flip

    def train_batches(
        self, size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See :meth:`Data.train_batches`. Drawn on the CPU, so that devices see the same."""
        own = part(size, rank, world)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(self.train_size, generator=generator).to(self.device)
        steps = self.steps(size)
        drawn = self._draw(steps, size, own, generator)
        for step in range(start, steps):
            index = order[step * size : (step + 1) * size][own]
            images = self._augment(self.train.images[index], drawn, step)
            yield self.normalise(images), self.train.labels[index]

    def test_batches(
        self, size: int = TEST_BATCH, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See :meth:`Data.test_batches`."""
        own = share(self.test_size, rank, world)
        for start in range(own.start, own.stop, size):
            which = slice(start, min(start + size, own.stop))
            yield self.normalise(self.test.images[which]), self.test.labels[which]

    def examples(self, count: int, seed: int = 0) -> Batch:
        """See :meth:`Data.examples`."""
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(self.train_size, generator=generator)[:count].to(self.device)
        return self.normalise(self.train.images[index]), self.train.labels[index]

    def digest(self) -> str:
        """See :meth:`Data.digest`. Of all of them."""
        found = hashlib.sha256(str(tuple(self.train.images.shape)).encode())
        for tensor in (self.train.images, self.train.labels):
            found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()

    def _draw(self, steps: int, size: int, own: slice, generator: torch.Generator) -> Augmentation:
        """For a whole epoch, so that the device is not waited for at every step."""
        flipped, offset = [], []
        for _ in range(steps):
            if self._flip:
                flipped.append(torch.rand(size, 1, generator=generator)[own] < 0.5)
            if self._pad:
                drawn = torch.randint(0, 2 * self._pad + 1, (2, size, 1), generator=generator)
                offset.append(drawn[:, own])
        return Augmentation(
            torch.stack(flipped).to(self.device) if flipped else None,
            torch.stack(offset, 1).to(self.device) if offset else None,
        )

    def _augment(self, images: torch.Tensor, drawn: Augmentation, step: int) -> torch.Tensor:
        """Pad by ``pad``, crop, flip; one gather for the whole batch."""
        if drawn.flipped is None and drawn.offset is None:
            return images
        count, _, height, width = images.shape
        rows = torch.arange(height, device=self.device).expand(count, -1)
        columns = torch.arange(width, device=self.device).expand(count, -1)
        if drawn.flipped is not None:
            columns = torch.where(drawn.flipped[step], columns.flip(1), columns)
        if drawn.offset is not None:
            rows, columns = rows + drawn.offset[0, step], columns + drawn.offset[1, step]
            images = torch.nn.functional.pad(images, (self._pad,) * 4)
        which = torch.arange(count, device=self.device)[:, None, None]
        chosen = images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
        return chosen.permute(0, 3, 1, 2)
