"""Networks that a function in a user's file makes, ``FILE.py:FUNCTION``.

    def make_net(shape, classes, width=32):
        return nn.Sequential(nn.Conv2d(shape[0], width, 3), …, nn.Linear(width, classes))

The function is called with what its signature takes of ``shape``, ``classes`` and further options.
An architecture names the file by its absolute path, with the SHA-256 of its content and, of a
pruned network, the shapes of all tensors: what is rebuilt is the function's network, resized.
"""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formulations.errors import InputError
from formulations.user_files import UserFile, beside, load, reason, reference
from mipprune.config.words import FUNCTION

# no name of its own; a pattern of names, whose options their functions say
FURTHER = (r".+\.py(:.*)?", None)
SIZES = "shapes"
# the network that is built has its architecture already
COMPLETE = True

_TOLD: set[tuple[Path, str, str]] = set()  # of which changed files the user has been told


def options(name: str) -> tuple[tuple[str, ...], bool]:
    """Names of the options that a function takes, and whether it takes any others besides.

    Raises
    ------
    InputError
        As :func:`build`.
    """
    path, function = _parse(name)
    parameters = _signature(_function(_load(path, function), function), f"{path}:{function}")
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = (
        k for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )
    return tuple(key for key in named if key not in ("shape", "classes")), keywords


def build(
    name: str,
    shape: Sequence[int],
    classes: int,
    sha256: str | None = None,
    **given: Any,
) -> nn.Module:
    """The network that a function makes.

    Parameters
    ----------
    name : str
        ``FILE.py:FUNCTION``; ``model`` is the function where none is named.
    shape : sequence of int
        Of an input without the batch, (channels, height, width) of an image.
    classes : int
    sha256 : str
        Of the file's content when the network was described: if it has changed meanwhile, a line
        on standard error says so.
    **given
        Further options of the function.

    Raises
    ------
    InputError
        In one line: no such file or function, or one that fails, lacks an option or returns no
        network.
    """
    path, function = _parse(name)
    where = f"{path}:{function}"
    file = _load(path, function, sha256)
    _check_plain(given)
    network = _call(_function(file, function), where, file, shape, classes, given)
    if sha256 not in (None, file.sha256):
        _tell(file, function, str(sha256))
    vars(network)["architecture"] = {
        "name": where,
        "shape": list(shape),
        "classes": classes,
        **given,
        "sha256": file.sha256,
    }
    return network


def _parse(name: str) -> tuple[Path, str]:
    found = reference(name, FUNCTION)
    if found is None:
        raise InputError(f"{name!r} is not of the form FILE.py:FUNCTION")
    return found


def _load(path: Path, function: str, sha256: str | None = None) -> UserFile:
    """Run the file; the random numbers of the process stay where they are."""
    try:
        with torch.random.fork_rng(devices=()):
            return load(path, sha256)
    except InputError:
        if sha256 is None or path.exists():
            raise
        raise InputError(
            f"the file {path}, whose function {function} makes this network, is not there: put it "
            f"back, or say where it is now by model=FILE.py:{function}"
        ) from None


def _function(file: UserFile, name: str) -> Callable[..., Any]:
    found = file.names.get(name)
    if isinstance(found, nn.Module):
        raise InputError(
            f"{name} of {file.path} is a network: put it into a function that makes and returns it"
        )
    if not callable(found):
        module = file.names.get("__name__")
        own = [
            key
            for key, value in file.names.items()
            if callable(value) and getattr(value, "__module__", None) == module
        ]
        hint = f"it has {', '.join(own)}" if own else "it has none"
        raise InputError(f"{file.path} has no function {name!r}: {hint}")
    return found


def _signature(make: Callable[..., Any], where: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        raise InputError(f"{where} has no signature to call it by") from None


def _call(
    make: Callable[..., Any],
    where: str,
    file: UserFile,
    shape: Sequence[int],
    classes: int,
    given: Mapping[str, Any],
) -> nn.Module:
    parameters = _signature(make, where)
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    usual = {"shape": tuple(shape), "classes": classes}
    known = [key for key in (*usual, *given) if keywords or key in parameters]
    if unknown := [key for key in given if key not in known]:
        takes = [key for key in parameters if key not in usual]
        raise InputError(
            f"{where} has no option {', '.join(unknown)}: it takes {', '.join(takes) or 'none'}"
        )
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and key not in known
    ]
    if missing:
        raise InputError(f"{where} needs {missing[0]}: give model.{missing[0]}=VALUE")
    values = {**usual, **given}
    try:
        with beside(file.path):
            network = make(**{key: values[key] for key in known})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"{where} fails: {reason(error, file.path)}") from None
    if not isinstance(network, nn.Module):
        raise InputError(f"{where} returns a {type(network).__name__}, not a torch.nn.Module")
    own = vars(network).get("architecture")
    if own is None:
        return network
    if not isinstance(own, dict) or "name" not in own:
        raise InputError(
            f"the network of {where} has an attribute `architecture`: give it another name"
        )
    return copy.deepcopy(network)  # this one has been handed out before


def _check_plain(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise InputError(
                f"model.{key} is a {type(value).__name__}: a checkpoint records plain values alone"
            ) from None


def _tell(file: UserFile, function: str, before: str) -> None:
    key = (file.path, before, file.sha256)
    if key not in _TOLD:
        _TOLD.add(key)
        print(
            f"mipprune: {file.path} is not what it was when the checkpoint was written: the "
            f"network is made by its {function} as it is now",
            file=sys.stderr,
        )
