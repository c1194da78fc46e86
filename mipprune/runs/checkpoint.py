"""Checkpoints: tensors and JSON, never pickles, written atomically, verified when read.

A checkpoint is a folder with a network's tensors and its architecture, with the widths that the
layers have now. Files that belong to one moment (weights, optimizer, counters) lie in one folder,
which is renamed into place as a whole; where its files lie says :mod:`mipprune.runs.layout`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from formulations.errors import InputError
from formulations.output import explain, write_output
from mipprune.config.words import is_file
from mipprune.models.registry import architecture_of, build, describe
from mipprune.models.weights import assign_weights, versions_of
from mipprune.runs.files import (
    RESTORE,
    corrupt,
    read_bytes,
    read_json,
    replace_folder,
    rotate_folder,
    verify_sums,
    write_json,
)
from mipprune.runs.layout import CheckpointLayout


class Generation(NamedTuple):
    """A network with the state of its training, as it was read.

    Attributes
    ----------
    network : nn.Module
        On the CPU.
    tensors, state : dict
        What :func:`save_generation` was given.
    broken : str or None
        What was wrong with the newest generation, if this is the one before.
    """

    network: nn.Module
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    broken: str | None


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
        Built by :func:`mipprune.models.registry.build`: one that was given as a variable has
        nothing that it could be rebuilt from.
    data : mapping, optional
        Data set that the network was trained on (``name``, ``path``), for ``mipprune eval``.
    sparsity : mapping, optional
        Of a network with pruned single weights: the share of zeros in every layer.

    Raises
    ------
    InputError
        If the network was given as a variable.
    """
    architecture_of(network)  # before anything is written
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
        write_output(CheckpointLayout(target).tensors, _to_bytes(tensors))
        write_json(CheckpointLayout(target).state, state)

    rotate_folder(folder, fill)


def load(folder: Path, model: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint.

    A network that a function in a user's file makes is made by it again: the file is run.

    Parameters
    ----------
    folder : Path
    model : str, optional
        ``FILE.py:FUNCTION`` in the place of the one that the checkpoint names, if that has moved;
        names of other models are passed over.

    Returns
    -------
    network : nn.Module
        On the CPU.
    data : dict
        The data set that the checkpoint names: arguments of
        :func:`mipprune.data.registry.load`, empty if it names none.

    Raises
    ------
    InputError
        If it is missing, truncated, altered or of another form.
    """
    layout = CheckpointLayout(_present(folder))
    if not is_checkpoint(layout.path):
        raise InputError(f"no checkpoint at {folder}: it has no {layout.model.name}")
    description = _read_json(layout.model)
    verify_sums(layout.path)
    try:
        architecture = _elsewhere(description["architecture"], model)
        network = build(architecture)
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{layout.model} describes no network: {error}") from None
    tensors = _read_tensors(layout.weights)
    assign_weights(network, tensors, str(layout.weights), description.get("versions"))
    return network, description.get("data", {})


def _elsewhere(architecture: Mapping[str, Any], model: str | None) -> Mapping[str, Any]:
    """An architecture that names another file, if one is given."""
    if not is_file(model):
        return architecture
    if not is_file(architecture["name"]):
        raise InputError(f"it is a {architecture['name']}, and model={model} is another")
    return {**architecture, "name": model}


def load_generation(folder: Path, model: str | None = None) -> Generation:
    """The newest of a folder's generations that is sound.

    Parameters
    ----------
    folder : Path
    model : str, optional
        As for :func:`load`.

    Raises
    ------
    InputError
        If none is sound: what was wrong with the newest.
    """
    broken = None
    for place in (folder, CheckpointLayout(folder).previous):
        if not place.exists():
            continue
        layout = CheckpointLayout(place)
        try:
            network, _ = load(place, model)
            tensors = _read_tensors(layout.tensors)
            return Generation(network, tensors, _read_json(layout.state), broken)
        except InputError as error:
            broken = broken or str(error)
        except OSError as error:  # a failing disk
            broken = broken or f"unreadable checkpoint: {explain(error, place)}"
    raise InputError(broken or f"no checkpoint at {folder}")


def set_aside(folder: Path) -> Path:
    """Move an unsound checkpoint out of the way of the next one; where to."""
    place = CheckpointLayout(folder).corrupt
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder, place)
    return place


def any_generation(folder: Path) -> bool:
    """Whether :func:`load_generation` has anything to read."""
    return folder.exists() or CheckpointLayout(folder).previous.exists()


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's tensors, in hexadecimal digits: the same wherever it is stored."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def sparsity(folder: Path) -> dict[str, float] | None:
    """The share of zeros in every layer, or None for a network without pruned single weights."""
    return _read_json(CheckpointLayout(_present(folder)).model).get("sparsity")


def file_bytes(folder: Path) -> int:
    """Bytes of the file of a checkpoint's tensors."""
    return CheckpointLayout(_present(folder)).weights.stat().st_size


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint (perhaps a broken one)."""
    layout = CheckpointLayout(folder)
    return any(file.exists() for file in (layout.model, layout.weights, layout.sums))


def find(folder: Path, *names: str) -> Path:
    """A checkpoint's own folder, or the first of a run's checkpoints of these names.

    Parameters
    ----------
    folder : Path
        A checkpoint or a run.
    *names : str
        Names of :mod:`mipprune.runs.layout`, the preferred one first.

    Raises
    ------
    InputError
        If there is no such folder, or no checkpoint in it.
    """
    if not folder.is_dir():
        raise InputError(f"no run or checkpoint at {folder}")
    if is_checkpoint(_present(folder)):
        return folder
    for found in (folder / name for name in names):
        if _present(found).exists():  # a broken one too: another is not what is meant
            return found
    model, places = CheckpointLayout(folder).model.name, " or ".join(f"{name}/" for name in names)
    raise InputError(f"no checkpoint at {folder}: it has no {model}, {places}")


def _present(folder: Path) -> Path:
    """The folder, or the one it was about to replace when the writer was killed."""
    retired = CheckpointLayout(folder).previous
    return retired if not folder.exists() and retired.exists() else folder


def _write_model(
    target: Path,
    network: nn.Module,
    data: Mapping[str, Any] | None,
    sparsity: Mapping[str, float] | None = None,
) -> None:
    layout = CheckpointLayout(target)
    description: dict[str, Any] = {"architecture": describe(network), "data": dict(data or {})}
    write_output(layout.weights, _to_bytes(network.state_dict()))
    if sparsity:
        description["sparsity"] = dict(sparsity)
    if versions := versions_of(network):
        description["versions"] = versions
    write_json(layout.model, description)


def weights_bytes(network: nn.Module) -> int:
    """Bytes of the file that a checkpoint of the network would have for its tensors."""
    return len(_to_bytes(network.state_dict()))


def _to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file; of a tensor that has several names, a copy for each."""
    found: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return save_tensors(found)


def _read_json(path: Path) -> dict[str, Any]:
    with corrupt():
        return read_json(path, RESTORE)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with corrupt():
        content = read_bytes(path, RESTORE)
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise InputError(f"corrupt checkpoint: {path}: {error}: {RESTORE}") from None
