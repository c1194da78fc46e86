"""Data sets streamed from files: ImageNet, and any other images in class folders or parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch

from formulations.arrays import IntArray
from formulations.errors import InputError
from mipprune.data.base import TEST_BATCH, Batch, Data, part, share
from mipprune.data.order import arrange, draw
from mipprune.data.readers import Reader, open_images
from mipprune.data.sources import IMAGENET_MEAN, IMAGENET_STD
from mipprune.data.transforms import CenterCrop, RandomCrop, Transform
from mipprune.data.workers import decode_batches, default_workers

_HUB = "hf://datasets/ILSVRC/imagenet-1k"
_SAMPLED, _DIGESTED = 256, 16

Decode = Callable[[Reader, Transform, Iterable[np.ndarray], torch.device], Iterator[Batch]]


class Images(Data):
    """Images decoded on the way, RGB, as squares of one size.

    Parameters
    ----------
    name : str
    train, test : Reader
    size : int
        Side of an image as the network sees it.
    decode : callable
        As :func:`mipprune.data.workers.decode_batches`.
    device : torch.device
    """

    def __init__(
        self,
        name: str,
        train: Reader,
        test: Reader,
        size: int,
        decode: Decode,
        device: torch.device,
    ) -> None:
        super().__init__(
            name, len(train.classes), (3, size, size), IMAGENET_MEAN, IMAGENET_STD, device
        )
        self.train_size, self.test_size = len(train), len(test)
        self._train, self._test, self._size, self._decode = train, test, size, decode

    def train_batches(
        self, size: int, seed: int, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See :meth:`Data.train_batches`. Steps left out are not read."""
        own = part(size, rank, world)
        order = arrange(self._train.chunks, size, seed, epoch)[own, start:]
        yield from self._load(self._train, RandomCrop(self._size, seed, epoch), order.T)

    def test_batches(
        self, size: int = TEST_BATCH, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See :meth:`Data.test_batches`."""
        own = np.array(share(self.test_size, rank, world))
        yield from self._load(self._test, CenterCrop(self._size), _parts(own, size))

    def examples(self, count: int, seed: int = 0) -> Batch:
        """See :meth:`Data.examples`. The centres of training images."""
        index = draw(self._train.chunks, count, seed)
        batches = self._load(self._train, CenterCrop(self._size), _parts(index, _SAMPLED))
        images, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        return images, labels

    def digest(self) -> str:
        """See :meth:`Data.digest`. Of the first files, and of how many there are."""
        reader = self._train
        found = hashlib.sha256(f"{reader.classes} {reader.chunks.tolist()}".encode())
        for image in reader.read(range(min(_DIGESTED, len(reader)))):
            found.update(image.content)
        return found.hexdigest()

    def _load(
        self, reader: Reader, transform: Transform, batches: Iterable[IntArray]
    ) -> Iterator[Batch]:
        for images, labels in self._decode(reader, transform, batches, self.device):
            yield self.normalise(images), labels


def load_images(
    name: str,
    path: str | None,
    device: torch.device,
    size: int = 224,
    workers: int | None = None,
    decoder: str = "pillow",
) -> Images:
    """Open a streamed data set.

    Parameters
    ----------
    name : str
        ``imagenet``, from the Hub's ILSVRC/imagenet-1k if there is no path; ``images``.
    path : str, optional
        See :func:`mipprune.data.readers.open_images`.
    device : torch.device
    size : int
        Side of an image as the network sees it.
    workers : int, optional
        Processes (``pillow``) or threads (``dali``) that decode; by default one for each core.
    decoder : {"pillow", "dali"}

    Raises
    ------
    InputError
        If there are no such images, or DALI is not to be had.
    """
    if path is None and name == "images":
        raise InputError("data=images needs the folder of its images: data.path=DIR")
    workers = default_workers() if workers is None else workers
    if decoder == "dali":
        from mipprune.data import dali  # noqa: PLC0415, an extra

        dali.check()
        decode = partial(dali.decode_batches, threads=max(1, workers))
    else:
        decode = partial(decode_batches, workers=workers)
    train, test = open_images(_HUB if path is None else path)
    return Images(name, train, test, size, decode, device)


def _parts(indices: IntArray, size: int) -> Iterator[IntArray]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
