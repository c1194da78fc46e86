"""Decoding on the CPU: Pillow in the worker processes of torch's DataLoader."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from formulations.arrays import IntArray
from formulations.errors import InputError
from mipprune.data.base import Batch
from mipprune.data.readers import Reader
from mipprune.data.transforms import Transform, decode

_PREFETCHED = 4  # pieces of batches that every worker may be ahead
_MOST = 16


def default_workers() -> int:
    """One for each core that this process may use, shared by the processes of this machine."""
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(_MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def decode_batches(
    reader: Reader,
    transform: Transform,
    batches: Iterable[IntArray],
    device: torch.device,
    workers: int,
) -> Iterator[Batch]:
    """Batches of images by number: (N, 3, size, size) uint8, channels last, and labels.

    Every worker decodes the same part of each batch, so that a reader of shards has in each worker
    only that worker's lanes open.

    Parameters
    ----------
    reader : Reader
    transform : RandomCrop or CenterCrop
    batches : iterable of (N,) int arrays
    device : torch.device
    workers : int
        0: in this process.

    Raises
    ------
    InputError
        If an image is damaged.
    """
    pieces = max(1, workers)
    loader = DataLoader(
        _Pieces(reader, transform),
        batch_sampler=_pieces(batches, pieces),
        num_workers=workers,
        collate_fn=_as_they_are,
        pin_memory=device.type == "cuda",
        prefetch_factor=_PREFETCHED if workers else None,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # or it would draw a seed from the run's random numbers
    )
    batch: list[list[torch.Tensor]] = []
    for piece in loader:
        if isinstance(piece, InputError):
            raise piece
        batch.append([tensor.to(device, non_blocking=True) for tensor in piece])
        if len(batch) == pieces:
            images, labels = (torch.cat(parts) for parts in zip(*batch, strict=True))
            yield images.permute(0, 3, 1, 2), labels
            batch.clear()


class _Pieces(Dataset[Batch]):
    """Decoded parts of batches."""

    def __init__(self, reader: Reader, transform: Transform) -> None:
        self.reader, self.transform = reader, transform

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor] | InputError:
        size = self.transform.size
        images = np.empty((len(indices), size, size, 3), np.uint8)
        labels = np.empty(len(indices), np.int64)
        try:
            for place, encoded in enumerate(self.reader.read(indices)):
                images[place], labels[place] = decode(encoded, self.transform), encoded.label
        except InputError as error:
            return error  # raised here it would come out as a traceback of many lines
        return torch.from_numpy(images), torch.from_numpy(labels)


def _pieces(batches: Iterable[IntArray], pieces: int) -> Iterator[list[int]]:
    """Every batch in so many parts."""
    for batch in batches:
        for piece in np.array_split(batch, pieces):
            yield piece.tolist()


def _as_they_are(piece: Any) -> Any:
    return piece


def _outlive_signals(worker: int) -> None:
    """A run that is told to stop finishes its step and saves: its workers must not die before.

    Ctrl-C and a cluster's SIGTERM go to all processes at once; the trainer's own SIGTERM counts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where a worker dies of every SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
