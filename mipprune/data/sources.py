"""Data sets that are held in memory: embedded (digits), or parquet files as on the Hub (CIFAR)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from formulations.errors import InputError

# Every published weight file that this toolkit reads was trained with ImageNet's statistics.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# name: (repository on the Hub, image column, label column, classes)
_HUB = {
    "cifar10": ("uoft-cs/cifar10", "img", "label", 10),
    "cifar100": ("uoft-cs/cifar100", "img", "fine_label", 100),
}
_DIGITS_TEST = 450
NAMES = ("digits", *_HUB)


@dataclass
class Source:
    """A data set in memory: (images uint8 (N, C, H, W), labels int64 (N,)) of each split."""

    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool


def load_source(name: str, path: str | None) -> Source:
    """Load a data set.

    Parameters
    ----------
    name : str
        ``digits``: scikit-learn's 1 797 real 8×8 images, embedded in its package; 450 of them,
        drawn once and for all, are the test images. ``cifar10``, ``cifar100``: 50 000 and 10 000.
    path : str, optional
        Folder with ``train-*.parquet`` and ``test-*.parquet``, instead of the Hub.

    Raises
    ------
    InputError
        If a folder is without these files, or the Hub cannot be reached.
    """
    return _digits(path) if name == "digits" else _cifar(name, path)


@cache
def _digits_splits() -> list[np.ndarray]:
    """Images and labels, training before test images; text that takes half a second to read."""
    from sklearn.datasets import load_digits  # noqa: PLC0415, a second of loading
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) * 15).astype(np.uint8)  # 0…16 to 0…240
    return train_test_split(
        images, labels.astype(np.int64), test_size=_DIGITS_TEST, random_state=0, stratify=labels
    )


def _digits(path: str | None) -> Source:
    if path is not None:
        raise InputError("data=digits is embedded and takes no data.path")
    # a copy: who is given images may change them
    train_images, test_images, train_labels, test_labels = map(torch.tensor, _digits_splits())
    scaled = train_images.float() / 255
    return Source(
        "digits",
        (train_images, train_labels),
        (test_images, test_labels),
        classes=10,
        mean=(float(scaled.mean()),),
        std=(float(scaled.std()),),
        pad=1,
        flip=False,
    )


def _cifar(name: str, path: str | None) -> Source:
    import datasets  # noqa: PLC0415, seconds of loading

    repository, image, label, classes = _HUB[name]
    if path is None:
        try:
            loaded = datasets.load_dataset(repository)
        except Exception as error:  # the library raises many kinds, all meaning: not to be had
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"data={name} could not be had from the Hub ({reason}); "
                "name a folder of its parquet files with data.path=DIR"
            ) from None
    else:
        folder = Path(path)
        files = {s: sorted(map(str, folder.glob(f"{s}-*.parquet"))) for s in ("train", "test")}
        missing = [split for split, found in files.items() if not found]
        if missing:
            raise InputError(
                f"data.path={path} has no {' and no '.join(f'{m}-*.parquet' for m in missing)}"
            )
        loaded = datasets.load_dataset("parquet", data_files=files)
    for column in (image, label):
        if column not in loaded["train"].column_names:
            raise InputError(f"{path or repository} is not {name}: it has no column {column!r}")
    train, test = (_decode(loaded[split], image, label) for split in ("train", "test"))
    if int(train[1].max()) >= classes:
        raise InputError(f"{path or repository} is not {name}: it has over {classes} classes")
    return Source(name, train, test, classes, IMAGENET_MEAN, IMAGENET_STD, pad=4, flip=True)


def _decode(table: Any, image: str, label: str) -> tuple[torch.Tensor, torch.Tensor]:
    first = np.asarray(table[0][image])
    images = np.empty((len(table), *first.shape), np.uint8)
    start = 0
    for batch in table.select_columns([image]).iter(batch_size=1000):
        images[start : start + len(batch[image])] = [np.asarray(i) for i in batch[image]]
        start += len(batch[image])
    labels = torch.tensor(table[label][:], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels
