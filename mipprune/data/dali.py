"""Decoding by NVIDIA DALI (extra ``dali``): on the GPU where the batches are wanted there.

The same images in the same order with the same crops as :mod:`mipprune.data.workers`: readers,
order and random numbers are ours, DALI decodes, resizes and mirrors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray

from formulations.arrays import IntArray
from formulations.errors import InputError
from mipprune.data.base import Batch
from mipprune.data.readers import Encoded, Reader
from mipprune.data.transforms import Transform, open_image

_AHEAD = 2  # batches read before they are asked for
_SHOWN = 300  # characters of DALI's own words


def check() -> None:
    """Raise InputError if DALI is not installed."""
    try:
        import nvidia.dali  # noqa: F401, PLC0415, an extra
    except ImportError:
        raise InputError(
            'data.decoder=dali needs NVIDIA DALI: pip install "mipprune[dali]", or leave it out'
        ) from None


def decode_batches(
    reader: Reader,
    transform: Transform,
    batches: Iterable[IntArray],
    device: torch.device,
    threads: int,
) -> Iterator[Batch]:
    """As :func:`mipprune.data.workers.decode_batches`, by ``threads`` threads.

    Raises
    ------
    InputError
        If an image is damaged.
    """
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        return
    labels: list[IntArray] = []
    source = _inputs(reader, transform, first, rest, labels)
    pipeline = _pipeline(source, len(first), transform.size, device, threads)
    pipeline.build()
    while True:
        try:
            (images,) = pipeline.run()
        except StopIteration:
            return
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            raise InputError(
                f"DALI could not decode a batch (data.decoder=pillow names the image): {reason}"
            ) from None
        pixels = torch.utils.dlpack.from_dlpack(images.as_tensor())
        found = torch.from_numpy(labels.pop(0)).to(device, non_blocking=True)
        yield pixels.permute(0, 3, 1, 2), found


def _pipeline(
    source: Iterator[Any], largest: int, size: int, device: torch.device, threads: int
) -> Any:
    """What decodes and resizes, as one graph of DALI's."""
    from nvidia.dali import fn, types  # noqa: PLC0415, an extra
    from nvidia.dali.pipeline import Pipeline  # noqa: PLC0415

    gpu = device.type == "cuda"
    pipeline = Pipeline(
        batch_size=largest,
        num_threads=threads,
        device_id=(device.index or 0) if gpu else None,
        exec_dynamic=True,  # every batch has memory of its own, as torch takes for granted
    )
    with pipeline:
        content, anchor, shape, start, end, flip = fn.external_source(source, num_outputs=6)
        images = fn.decoders.image_slice(
            content,
            anchor,
            shape,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            normalized_anchor=False,
            normalized_shape=False,
            adjust_orientation=False,  # as torchvision's loader
        )
        images = fn.resize(
            images,
            size=[size, size],
            roi_start=start,
            roi_end=end,
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        pipeline.set_outputs(fn.flip(images, horizontal=flip))
    return pipeline


def _inputs(
    reader: Reader,
    transform: Transform,
    first: IntArray,
    rest: Iterator[IntArray],
    labels: list[IntArray],
) -> Iterator[tuple[list[NDArray[Any]], ...]]:
    """What the pipeline is fed with, and the labels of what it was fed with; read ahead."""

    def read(indices: IntArray) -> tuple[list[list[NDArray[Any]]], IntArray]:
        found = list(reader.read(indices.tolist()))
        rows = [_row(encoded, transform) for encoded in found]
        return [list(column) for column in zip(*rows, strict=True)], np.array(
            [encoded.label for encoded in found]
        )

    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Any]] = [pool.submit(read, first)]
        waiting += [pool.submit(read, indices) for indices in islice(rest, _AHEAD)]
        while waiting:
            columns, own = waiting.pop(0).result()
            waiting += [pool.submit(read, indices) for indices in islice(rest, 1)]
            labels.append(own)
            yield tuple(columns)


def _row(encoded: Encoded, transform: Transform) -> tuple[NDArray[Any], ...]:
    """Bytes; corner and size of the pixels to decode (x, y); the part of them to resize (y, x)."""
    with open_image(encoded) as image:
        crop = transform.draw(encoded.number, *image.size)
    left, top = int(crop.left), int(crop.top)
    right, bottom = np.ceil(crop.left + crop.width), np.ceil(crop.top + crop.height)
    start = np.array([crop.top - top, crop.left - left], np.float32)
    return (
        np.frombuffer(encoded.content, np.uint8),
        np.array([left, top], np.float32),
        np.array([right - left, bottom - top], np.float32),
        start,
        start + np.array([crop.height, crop.width], np.float32),
        np.array(crop.flip, np.int32),
    )
