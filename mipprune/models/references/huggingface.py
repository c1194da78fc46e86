"""Models of transformers by a local folder or config file, ``hf:FOLDER`` or ``hf:config.json``.

The configuration says which model it is; nothing is taken from the network, and no code from the
folder is run. An architecture records the configuration itself, so that a checkpoint needs the
folder no more.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from formulations.errors import InputError

# no name of its own; a pattern of names, and their options
FURTHER = (r"hf:.+", ("pretrained",))
SIZES = "shapes"
# the network that is built has its architecture already
COMPLETE = True

# What the name of a model's class says, and who builds such models; those with as many outputs as
# the configuration has labels.
_HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}
_CLASSIFIERS = {
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def build(
    name: str,
    shape: Sequence[int],
    classes: int,
    pretrained: bool | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model of transformers.

    Parameters
    ----------
    name : str
        ``hf:`` and a folder with ``config.json``, or such a file.
    shape : sequence of int
        Of an input without the batch, (channels, height, width) of an image.
    classes : int
        Labels of a classifier.
    pretrained : bool
        Begin with the folder's weights, by default if it has any; a classifier of another size
        begins anew.
    config : mapping
        Content of ``config.json``, where the network has been described before.

    Raises
    ------
    InputError
        In one line: no such folder, none of a model, one that transformers does not know or cannot
        build.
    """
    package = _transformers(name)
    place = Path(name.partition(":")[2])
    found = _read(place) if config is None else config
    if pretrained is None:
        pretrained = config is None and _has_weights(place)
    if pretrained and not _has_weights(place):
        raise InputError(f"{place} has no weights to begin with: give model.pretrained=false")
    try:
        with _quiet(package):
            network = _create(package, name, found, classes, place if pretrained else None)
    except InputError:
        raise
    except Exception as error:  # whatever transformers makes of a configuration
        raise InputError(f"transformers cannot build {name}: {_line(error)}") from None
    channels = getattr(network.config, "num_channels", None)
    if len(shape) == 3 and channels not in (None, shape[0]):
        raise InputError(f"{name} is for images of {channels} channels: not of {shape[0]}")
    network = network.float().train()
    vars(network)["architecture"] = {
        "name": name,
        "shape": list(shape),
        "classes": classes,
        "config": dict(found),
        **({"pretrained": True} if pretrained else {}),
    }
    return network


def _create(
    package: Any, name: str, found: Mapping[str, Any], classes: int, folder: Path | None
) -> Any:
    kind = found.get("model_type")
    if kind not in package.CONFIG_MAPPING:
        raise InputError(f"{name} is a {kind!r}, which this version of transformers does not know")
    config = package.CONFIG_MAPPING[kind].from_dict(dict(found))
    auto = _auto(package, name, config)
    if "Classification" in auto:
        config.num_labels = classes
    maker = getattr(package, auto)
    if folder is None:
        return maker.from_config(config, trust_remote_code=False)
    return maker.from_pretrained(
        folder,
        config=config,
        ignore_mismatched_sizes=True,
        local_files_only=True,
        trust_remote_code=False,
    )


def _auto(package: Any, name: str, config: Any) -> str:
    """Name of the class that builds the model: by that of the model's, or by what there is."""
    for architecture in config.architectures or ():
        for ending, auto in _HEADS.items():
            if ending in architecture:
                return auto
    for auto, mapping in _CLASSIFIERS.items():
        if type(config) in getattr(package, mapping):
            return auto
    raise InputError(f"{name} is a {config.model_type}, which classifies neither images nor texts")


def _read(place: Path) -> dict[str, Any]:
    file = place / "config.json" if place.is_dir() else place
    if not file.is_file():
        raise InputError(
            f"hf:{place}: there is no {file}: name a folder as save_pretrained writes it, or a "
            "config file"
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable config: {_line(error)}") from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise InputError(f"{file} is no config of a model: it has no model_type")
    return found


def _has_weights(place: Path) -> bool:
    return any(True for pattern in _WEIGHTS for _ in place.glob(pattern))


def _transformers(name: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except Exception as error:  # a package for another torch fails in ways of its own
        raise InputError(
            f"{name} needs transformers, which cannot be imported: {_line(error)}"
        ) from None


@contextmanager
def _quiet(package: Any) -> Iterator[None]:
    """Without transformers' remarks on what begins anew, and its progress bars."""
    log = package.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
