"""Checkpoints: tensors and JSON, never pickles, written atomically, verified when read.

A checkpoint is a folder with ``model.safetensors`` and ``model.json``, the architecture with the
widths that the layers have now, and ``SHA256SUMS`` of all its files, as ``sha256sum -c`` reads it.
Files that belong to one moment (weights, optimizer, counters) lie in one folder, which is renamed
into place as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from formulations.errors import InputError
from mipprune.models.registry import assign_weights, build, describe

_SUMS = "SHA256SUMS"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before."""
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
    """Write a JSON file atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def rotate_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Build a folder beside its place, then rename it there; the old one stays as ``.previous``."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    retired = _previous(folder)
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
    """Build a folder beside its place, then rename it there; the old one goes last."""
    rotate_folder(folder, fill)
    shutil.rmtree(_previous(folder), ignore_errors=True)


def save(
    folder: Path,
    network: nn.Module,
    *,
    data: Mapping[str, Any] | None = None,
    sparsity: Mapping[str, float] | None = None,
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    folder : Path
        Replaced as a whole if it exists.
    network : nn.Module
        Built by :func:`mipprune.models.registry.build`.
    data : mapping, optional
        Data set that the network was trained on (``name``, ``path``), for ``mipprune eval``.
    sparsity : mapping, optional
        Of a network with pruned single weights: the share of zeros in every layer.
    """
    replace_folder(folder, lambda target: _write_model(target, network, data, sparsity))


def save_generation(
    folder: Path,
    network: nn.Module,
    *,
    data: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint with the state of its training; the one before stays beside it.

    Parameters
    ----------
    folder, network, data
        As for :func:`save`.
    tensors, state : mappings
        Further tensors (optimizer) and plain values (counters) of the same moment.
    """

    def fill(target: Path) -> None:
        _write_model(target, network, data)
        write_atomic(target / "state.safetensors", _to_bytes(tensors))
        write_json(target / "state.json", state)

    rotate_folder(folder, fill)


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint: the network, on the CPU, and the data set that it names.

    Raises
    ------
    InputError
        If it is missing, truncated, altered or of another form.
    """
    folder = _present(folder)
    description = _read_json(folder / "model.json")
    _verify(folder)
    try:
        network = build(description["architecture"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder / 'model.json'} describes no network: {error}") from None
    weights = folder / "model.safetensors"
    assign_weights(network, _read_tensors(weights), str(weights))
    return network, description.get("data", {})


def load_generation(
    folder: Path,
) -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, Any], str | None]:
    """The newest of a folder's generations that is sound.

    Returns
    -------
    network : nn.Module
    tensors, state : dict
        What :func:`save_generation` was given.
    broken : str or None
        What was wrong with the newest one, if it is not that.

    Raises
    ------
    InputError
        If none is sound: what was wrong with the newest.
    """
    broken = None
    for place in (folder, _previous(folder)):
        if not place.exists():
            continue
        try:
            network, _ = load(place)
            tensors = _read_tensors(place / "state.safetensors")
            return network, tensors, _read_json(place / "state.json"), broken
        except InputError as error:
            broken = broken or str(error)
        except OSError as error:  # a failing disk
            broken = broken or f"unreadable checkpoint: {error.filename or place}: {error.strerror}"
    raise InputError(broken or f"no checkpoint at {folder}")


def set_aside(folder: Path) -> Path:
    """Move an unsound checkpoint out of the way of the next one; where to."""
    place = folder.with_name(f"{folder.name}.corrupt")
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder, place)
    return place


def any_generation(folder: Path) -> bool:
    """Whether :func:`load_generation` has anything to read."""
    return folder.exists() or _previous(folder).exists()


def sparsity(folder: Path) -> dict[str, float] | None:
    """The share of zeros in every layer, or None for a network without pruned single weights."""
    return _read_json(_present(folder) / "model.json").get("sparsity")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint (perhaps a broken one)."""
    return (folder / "model.json").is_file()


def find(folder: Path, *names: str) -> Path:
    """A checkpoint's own folder, or the first of a run's checkpoints of these names.

    Raises
    ------
    InputError
        If there is no such folder, or no checkpoint in it.
    """
    if not folder.is_dir():
        raise InputError(f"no run or checkpoint at {folder}")
    for found in (folder, *(folder / name for name in names)):
        if is_checkpoint(_present(found)):
            return found
    places = " or ".join(f"{name}/" for name in names)
    raise InputError(f"no checkpoint at {folder}: it has no model.json, {places}")


def _present(folder: Path) -> Path:
    """The folder, or the one it was about to replace when the writer was killed."""
    retired = _previous(folder)
    return retired if not folder.exists() and retired.exists() else folder


def _previous(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.previous"


def _write_model(
    target: Path,
    network: nn.Module,
    data: Mapping[str, Any] | None,
    sparsity: Mapping[str, float] | None = None,
) -> None:
    write_atomic(target / "model.safetensors", _to_bytes(network.state_dict()))
    description = {"architecture": describe(network), "data": dict(data or {})}
    if sparsity:
        description["sparsity"] = dict(sparsity)
    write_json(target / "model.json", description)


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != _SUMS)
    lines = [f"{_digest(path)}  {path.name}\n" for path in files]
    write_atomic(folder / _SUMS, "".join(lines).encode())
    _sync(folder)


def _verify(folder: Path) -> None:
    """Raise an InputError unless every file is as its checksum says."""
    try:
        lines = (folder / _SUMS).read_text().splitlines()
        sums = dict(reversed(line.split("  ", 1)) for line in lines)
    except (FileNotFoundError, ValueError):  # covers a decoding error
        raise InputError(f"corrupt checkpoint: {folder / _SUMS} is missing or damaged") from None
    names = {path.name for path in folder.iterdir()} - {_SUMS}
    for name in sorted(names | set(sums)):
        path = folder / name
        if not path.is_file():
            raise InputError(f"corrupt checkpoint: {path} is missing")
        if _digest(path) != sums.get(name):
            size = path.stat().st_size
            raise InputError(f"corrupt checkpoint: {path} ({size} bytes) differs from its checksum")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make renames within a folder last, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path.parent}: it has no {path.name}") from None
    except ValueError:  # covers a decoding error
        raise InputError(f"corrupt checkpoint: {path} is not readable JSON") from None
    return value


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"corrupt checkpoint: {path} is missing") from None
    except SafetensorError as error:
        raise InputError(f"corrupt checkpoint: {path}: {error}") from None
