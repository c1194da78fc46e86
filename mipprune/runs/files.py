"""Files and folders that are written as a whole or not at all, and checksums that prove it.

A file is written beside its place, synced, and renamed there; so is a folder, with ``SHA256SUMS``
of all its files, as ``sha256sum -c`` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from formulations.errors import InputError
from mipprune.runs.layout import CheckpointLayout


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before.

    Raises
    ------
    OSError
        If the system refuses; nothing is left of the attempt.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a JSON file, atomically: see :func:`write_atomic`."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


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
    try:
        lines = place.read_text().splitlines()
        sums = {name: digits for digits, name in (line.split("  ", 1) for line in lines)}
    except (FileNotFoundError, ValueError):  # covers a decoding error
        raise InputError(f"corrupt checkpoint: {place} is missing or damaged") from None
    names = {path.name for path in folder.iterdir()} - {place.name}
    for name in sorted(names | set(sums)):
        path = folder / name
        if not path.is_file():
            raise InputError(f"corrupt checkpoint: {path} is missing")
        if file_digest(path) != sums.get(name):
            size = path.stat().st_size
            raise InputError(f"corrupt checkpoint: {path} ({size} bytes) differs from its checksum")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_sums(folder: Path) -> None:
    place = CheckpointLayout(folder).sums
    files = sorted(path for path in folder.iterdir() if path != place)
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files]
    write_atomic(place, "".join(lines).encode())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make renames within a folder last, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
