"""Checkpoints: tensors and JSON, never pickles, written atomically, verified when read.

A checkpoint is a folder with ``model.safetensors`` and ``model.json``: the architecture with the
widths that the layers have now, and the checksum of the tensors. Files that belong to one moment
(weights, optimizer, counters) lie in one folder, which is renamed into place as a whole.
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
from mipprune.models import assign_weights, build, describe

_RETIRED = ".previous"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Build a folder beside its place, then rename it there; the old one goes last."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    retired = folder.with_name(folder.name + _RETIRED)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    if folder.exists():
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(folder, retired)
    os.replace(temporary, folder)
    shutil.rmtree(retired, ignore_errors=True)


def save(
    folder: Path,
    network: nn.Module,
    *,
    data: Mapping[str, Any] | None = None,
    sparsity: Mapping[str, float] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    folder : Path
        Replaced as a whole if it exists.
    network : nn.Module
        Built by :func:`mipprune.models.build`.
    data : mapping, optional
        Data set that the network was trained on (``name``, ``path``), for ``mipprune eval``.
    sparsity : mapping, optional
        Of a network with pruned single weights: the share of zeros in every layer.
    tensors, state : mappings, optional
        Further tensors (optimizer) and plain values (counters) of the same moment.
    """

    def fill(target: Path) -> None:
        weights = _to_bytes(network.state_dict())
        write_atomic(target / "model.safetensors", weights)
        write_json(
            target / "model.json",
            {
                "architecture": describe(network),
                "data": dict(data or {}),
                "sha256": hashlib.sha256(weights).hexdigest(),
                **({"sparsity": dict(sparsity)} if sparsity else {}),
            },
        )
        if state is not None:
            optimizer = _to_bytes(tensors or {})
            write_atomic(target / "state.safetensors", optimizer)
            digest = hashlib.sha256(optimizer).hexdigest()
            write_json(target / "state.json", {**state, "sha256": digest})

    replace_folder(folder, fill)


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint: the network, on the CPU, and the data set that it names.

    Raises
    ------
    InputError
        If it is missing, truncated, altered or of another form.
    """
    folder = _present(folder)
    description = _read_json(folder / "model.json")
    tensors = _read_tensors(folder / "model.safetensors", description)
    try:
        network = build(description["architecture"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder / 'model.json'} describes no network: {error}") from None
    assign_weights(network, tensors, str(folder / "model.safetensors"))
    return network, description.get("data", {})


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The further tensors and values of a checkpoint. Raises as :func:`load`."""
    folder = _present(folder)
    state = _read_json(folder / "state.json")
    return _read_tensors(folder / "state.safetensors", state), state


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
    retired = folder.parent / (folder.name + _RETIRED)
    return retired if not folder.exists() and retired.exists() else folder


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


def _read_tensors(path: Path, description: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"corrupt checkpoint: {path} is missing") from None
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise InputError(
            f"corrupt checkpoint: {path} ({len(data)} bytes) differs from its checksum"
        )
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise InputError(f"corrupt checkpoint: {path}: {error}") from None
