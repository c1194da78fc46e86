"""Encoded images by number, from class folders or parquet shards.

Readers hand out bytes, not pixels: they are what loading workers have copies of.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from formulations.errors import InputError

# as torchvision's ImageFolder
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_IMAGE, _LABEL = "image", "label"
_TEST_SPLITS = ("val", "validation", "test")
_FOOTERS_AT_ONCE = 16  # of shards that are not on this machine, each is a request or two


class Encoded(NamedTuple):
    """An image as it is stored, with what to call it in an error."""

    number: int
    content: bytes
    label: int
    name: str


class Reader(ABC):
    """The images of one split.

    Attributes
    ----------
    classes : tuple of str
        Their names, in the order of the labels.
    chunks : (chunks,) int64 array
        How many consecutive images are read together.
    """

    classes: tuple[str, ...]
    chunks: np.ndarray

    def __len__(self) -> int:
        return int(self.chunks.sum())

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[Encoded]:
        """Some images, in this order.

        Raises
        ------
        InputError
            If a file cannot be read, naming it.
        """


class Folder(Reader):
    """A folder with a folder for each class; classes and files sorted by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = tuple(sorted(e.name for e in os.scandir(root) if e.is_dir()))
        names, labels = [], []
        for label, name in enumerate(self.classes):
            found = list(_images_below(root / name))
            if not found:
                raise InputError(f"{root / name} has no images")
            names += [os.path.relpath(path, root) for path in found]
            labels += [label] * len(found)
        # arrays, since every worker's copy of a million strings would be made by counting them
        self._names = np.array([os.fsencode(name) for name in names])
        self._labels = np.array(labels)
        self.chunks = np.array([len(names)])

    def read(self, indices: Sequence[int]) -> Iterator[Encoded]:
        """See :meth:`Reader.read`."""
        for index in indices:
            path = self.root / os.fsdecode(self._names[index])
            try:
                content = path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror}") from None
            yield Encoded(int(index), content, int(self._labels[index]), str(path))


class Shards(Reader):
    """Parquet files with a column ``image`` of {bytes, path} and a column ``label``.

    Parameters
    ----------
    paths : sequence of str
    files : fsspec.AbstractFileSystem
        That they are in.
    classes : tuple of str, optional
        If the files note no names; by default as many as their labels count up to.

    Notes
    -----
    A reader keeps the row groups that the last call needed. In the order of
    :mod:`mipprune.data.order` each is read once an epoch, or twice where two lanes meet in it.
    """

    def __init__(
        self,
        paths: Sequence[str],
        files: fsspec.AbstractFileSystem,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.paths, self._files = tuple(paths), files
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(self._footer, self.paths))
        self._groups = [
            (number, group)
            for number, (sizes, _) in enumerate(footers)
            for group in range(len(sizes))
        ]
        self.chunks = np.concatenate([sizes for sizes, _ in footers]).astype(np.int64)
        self._ends = np.cumsum(self.chunks)
        self.classes = footers[0][1] or classes or self._count_classes()
        self._opened: dict[int, pq.ParquetFile] = {}
        self._tables: dict[int, pa.Table] = {}

    def read(self, indices: Sequence[int]) -> Iterator[Encoded]:
        """See :meth:`Reader.read`."""
        wanted = np.asarray(indices, dtype=np.int64)
        groups = np.searchsorted(self._ends, wanted, side="right")
        self._tables = {
            int(g): self._tables[g] if g in self._tables else self._table(g)
            for g in np.unique(groups)
        }
        for index, group in zip(wanted, groups, strict=True):
            row = int(index - self._ends[group] + self.chunks[group])
            table, name = self._tables[group], f"{self._path(group)}, image {row} of its row group"
            content, label = table[_IMAGE][row]["bytes"].as_py(), table[_LABEL][row].as_py()
            if content is None or label is None or not 0 <= label < len(self.classes):
                raise InputError(f"{name} has no content or no label")
            yield Encoded(int(index), content, label, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}, "_tables": {}}

    def _path(self, group: int) -> str:
        return self.paths[self._groups[group][0]]

    def _table(self, group: int) -> pa.Table:
        number, inner = self._groups[group]
        try:
            if number not in self._opened:
                self._opened[number] = self._open(self.paths[number])
            return self._opened[number].read_row_group(inner, columns=[_IMAGE, _LABEL])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {self.paths[number]}: {_line(error)}") from None

    def _open(self, path: str) -> pq.ParquetFile:
        # the same instance in this process, another in a worker: connections do not survive a fork
        files = type(self._files)(*self._files.storage_args, **self._files.storage_options)
        return pq.ParquetFile(path, filesystem=files, pre_buffer=True)

    def _footer(self, path: str) -> tuple[list[int], tuple[str, ...]]:
        """Rows of every row group, and the names of the classes where they are noted."""
        try:
            with self._open(path) as file:
                groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
                schema = file.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {path}: {_line(error)}") from None
        image = schema.field(_IMAGE).type if _IMAGE in schema.names else None
        if (
            image is None
            or not pa.types.is_struct(image)
            or image.get_field_index("bytes") < 0
            or _LABEL not in schema.names
        ):
            raise InputError(f"{path} needs the columns {_IMAGE}, of bytes and path, and {_LABEL}")
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        label = noted.get("info", {}).get("features", {}).get(_LABEL, {})
        return [group.num_rows for group in groups], tuple(label.get("names") or ())

    def _count_classes(self) -> tuple[str, ...]:
        """Numbers up to the largest label."""

        def largest(path: str) -> int:
            with self._open(path) as file:
                return max(file.read(columns=[_LABEL])[_LABEL].to_pylist(), default=-1)

        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            return tuple(map(str, range(max(pool.map(largest, self.paths)) + 1)))


def open_images(path: str) -> tuple[Reader, Reader]:
    """Training and test images of a folder or a URL.

    Parameters
    ----------
    path : str
        With ``train/CLASS/…`` and ``val/CLASS/…``, or with ``train-*.parquet`` and
        ``validation-*.parquet``, in it or in its folder ``data``; for parquet files also a URL that
        fsspec knows (``hf://datasets/OWNER/NAME``).

    Raises
    ------
    InputError
        If there is neither; if the classes of training and test images differ.
    """
    try:
        files, root = url_to_fs(path)
        found = _find_shards(files, root)
    except Exception as error:  # file systems raise many kinds, all meaning: not to be had
        raise InputError(
            f"images at {path} could not be had ({_line(error)}); name others with data.path=DIR"
        ) from None
    train: Reader
    test: Reader
    if found:
        train = Shards(found[0], files)
        test = Shards(found[1], files, train.classes)
    else:
        train, test = (Folder(folder) for folder in _find_folders(path))
    differing = sorted(set(train.classes) ^ set(test.classes))
    if differing:
        where = "training" if differing[0] in train.classes else "test"
        raise InputError(
            f"{path}: training and test images differ in {len(differing)} classes; "
            f"only the {where} images have {differing[0]}"
        )
    if train.classes != test.classes:
        raise InputError(f"{path}: training and test images have their classes in another order")
    return train, test


def _find_shards(files: fsspec.AbstractFileSystem, root: str) -> list[list[str]] | None:
    for folder in (root, f"{root}/data"):
        train = sorted(files.glob(f"{folder}/train-*.parquet"))
        for split in _TEST_SPLITS:
            test = sorted(files.glob(f"{folder}/{split}-*.parquet"))
            if train and test:
                return [train, test]
    return None


def _find_folders(path: str) -> list[Path]:
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"there is no folder data.path={path}")
    train = root / "train"
    present = [root / name for name in _TEST_SPLITS if (root / name).is_dir()]
    test = present[0] if present else root / _TEST_SPLITS[0]
    for folder in (train, test):
        if not folder.is_dir() or not any(entry.is_dir() for entry in os.scandir(folder)):
            raise InputError(
                f"data.path={path} has no {folder.name}/CLASS/ folders, and no train-*.parquet "
                "with validation-*.parquet"
            )
    return [train, test]


def _images_below(folder: Path) -> Iterator[str]:
    for where, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(_EXTENSIONS):
                yield os.path.join(where, name)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
