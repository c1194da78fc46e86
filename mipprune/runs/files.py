"""Folders that are written as a whole or not at all, checksums that prove it, and files read again.

A folder is written beside its place, synced, and renamed there, with ``SHA256SUMS`` of all its
files, as ``sha256sum -c`` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from safetensors import SafetensorError

from formulations.errors import InputError
from formulations.output import write_output
from mipprune.runs.layout import CheckpointLayout

# what NumPy, safetensors and the standard library say of a damaged file, and of a wrong content
_UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, BadZipFile, SafetensorError
)  # fmt: skip

RESTORE = "restore it from a copy, or make the checkpoint again"
"""What to do about a file of a checkpoint that is missing or damaged."""


@contextmanager
def corrupt() -> Iterator[None]:
    """What goes wrong within with a file is said of its checkpoint."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"corrupt checkpoint: {error.filename} is missing: {RESTORE}") from None
    except InputError as error:
        raise InputError(f"corrupt checkpoint: {error}") from None


@contextmanager
def intermediate(path: Path) -> Iterator[None]:
    """What cannot be read within is said to be a result on the way that can be had again."""
    try:
        yield
    except _UNREADABLE:
        raise InputError(
            f"{path} is damaged or missing: delete what is there, and --resume finds it out again"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a JSON file: see :func:`formulations.output.write_output`."""
    write_output(path, (json.dumps(value, indent=2) + "\n").encode())


def read_bytes(path: Path, advice: str) -> bytes:
    """What is in a file that was written before.

    Parameters
    ----------
    path : Path
    advice : str
        What to do where it cannot be read, the end of the message.

    Raises
    ------
    FileNotFoundError
    InputError
        If there is a folder in its place, or the system cannot read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file: {advice}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {advice}") from None


def read_text(path: Path, advice: str) -> str:
    """The text of a file, UTF-8; parameters and errors as of :func:`read_bytes`."""
    try:
        return read_bytes(path, advice).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text: {advice}") from None


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object of a file; parameters and errors as of :func:`read_bytes`."""
    text = read_text(path, advice)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        what = "not a readable JSON object" if text.strip() else "empty"
        raise InputError(f"{path} is {what}: {advice}")
    return value


def rotate_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Build a folder beside its place, then rename it there; the old one stays as ``.previous``.

    Parameters
    ----------
    folder : Path
    fill : callable
        Told of the folder in which to write the files.

    Raises
    ------
    OSError
        If the system refuses; the old folder stays where it is.
    """
    layout = CheckpointLayout(folder)
    temporary, retired = layout.unfinished, layout.previous
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        _write_sums(temporary)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(folder, retired)
    os.replace(temporary, folder)
    _sync(folder.parent)


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Build a folder beside its place, then rename it there; the old one goes last.

    Parameters and errors as of :func:`rotate_folder`.
    """
    rotate_folder(folder, fill)
    shutil.rmtree(CheckpointLayout(folder).previous, ignore_errors=True)


def verify_sums(folder: Path) -> None:
    """Check every file of a folder against its checksum.

    Raises
    ------
    InputError
        If a file is missing, too many, truncated or altered.
    OSError
        If one cannot be read.
    """
    place = CheckpointLayout(folder).sums
    with corrupt():
        lines = read_text(place, RESTORE).splitlines()
    try:
        sums = {name: digits for digits, name in (line.split("  ", 1) for line in lines)}
    except ValueError:
        sums = {}
    if not sums:
        raise InputError(f"corrupt checkpoint: {place} is empty or damaged: {RESTORE}")
    names = {path.name for path in folder.iterdir()} - {place.name}
    for name in sorted(names | set(sums)):
        path = folder / name
        if name not in sums:
            raise InputError(f"corrupt checkpoint: {path} is none of its files: move it away")
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "is missing"
            raise InputError(f"corrupt checkpoint: {path} {what}: {RESTORE}")
        if file_digest(path) != sums[name]:
            size = path.stat().st_size
            raise InputError(
                f"corrupt checkpoint: {path} ({size} bytes) differs from its checksum: {RESTORE}"
            )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_sums(folder: Path) -> None:
    place = CheckpointLayout(folder).sums
    files = sorted(path for path in folder.iterdir() if path != place)
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files]
    write_output(place, "".join(lines).encode())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make renames within a folder last, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
