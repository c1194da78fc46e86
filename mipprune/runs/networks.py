"""Networks with the data that go with them: as configured, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from formulations.errors import InputError
from mipprune.config.schema import NetworkConfig
from mipprune.data.registry import Data, load
from mipprune.distributed.device import pick_device
from mipprune.models.catalogue import find, options_of, unknown_options
from mipprune.models.references.outputs import logits_of
from mipprune.models.registry import build, describe
from mipprune.models.weights import load_weights
from mipprune.runs import checkpoint
from mipprune.runs.layout import LAST, PRUNED


class OpenedCheckpoint(NamedTuple):
    """A checkpoint's network and its data, on the device.

    Attributes
    ----------
    network : nn.Module
    data : Data
    source : dict
        What names the data: arguments of :func:`mipprune.data.registry.load`.
    folder : Path
        The checkpoint's own.
    """

    network: nn.Module
    data: Data
    source: dict[str, Any]
    folder: Path


def check_fits(source: str | Path, network: nn.Module, data: Data) -> None:
    """Raise an InputError if a network, loaded from ``source``, is for other images or classes."""
    architecture = describe(network)
    classes, shape = architecture["classes"], tuple(architecture["shape"])
    if (classes, shape) != (data.classes, data.shape):
        raise InputError(
            f"{source} does not fit data={data.name}: it is for {classes} classes of images "
            f"{shape}, {data.name} has {data.classes} of {data.shape}"
        )


def make_network(config: NetworkConfig, data: Data) -> nn.Module:
    """The configured network for a data set, on the CPU.

    With the weights of ``init`` if there are any; a checkpoint says itself which model it is.

    Raises
    ------
    InputError
        If the model has no such option, or its outputs or the weights do not fit it or the data.
    """
    model, init = config.model, config.init
    if init and Path(init).is_dir():
        network, _ = checkpoint.load(Path(init), model.name)
        check_fits(init, network, data)
        return network
    options = model.options()
    for option in unknown_options(model.name, options):
        known = ", ".join(options_of(model.name)) or "none"
        raise InputError(f"model {model.name} has no option model.{option}: it takes {known}")
    network = build({"name": model.name, "shape": data.shape, "classes": data.classes, **options})
    if find(model.name).sizes == "shapes":
        _check_outputs(model.name, network, data)
    if init:
        load_weights(network, init)
    return network


def _check_outputs(name: str, network: nn.Module, data: Data) -> None:
    """Raise an InputError if a network that is made elsewhere does not classify the images."""
    images, training = torch.zeros(2, *data.shape), network.training
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            shape = tuple(logits_of(network(images)).shape)
    except InputError as error:
        raise InputError(f"model {name}: {error}") from None
    except Exception as error:  # whatever anybody's forward pass raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model {name} fails on images {data.shape} of data={data.name}: {reason}"
        ) from None
    network.train(training)
    if shape != (2, data.classes):
        raise InputError(
            f"model {name} puts out {shape} for 2 images: data={data.name} needs "
            f"{(2, data.classes)}, logits of its classes"
        )


def open_weights(config: NetworkConfig) -> tuple[nn.Module, Data]:
    """The configured model with the weights of ``init``, and its data, on the device."""
    device = pick_device(config.device)
    data = load(**config.data.source(), device=device)
    return make_network(config, data).to(device), data


def open_checkpoint(folder: Path, config: NetworkConfig, own_data: bool) -> OpenedCheckpoint:
    """A checkpoint's network and its data, on the device.

    Parameters
    ----------
    folder : Path
        A run (its ``pruned`` checkpoint, or else ``last``) or a checkpoint.
    config : NetworkConfig
        Device; data if not ``own_data``; where the file is now that makes the network, if
        ``model`` names one.
    own_data : bool
        Whether the data that the network was trained on are meant.

    Raises
    ------
    InputError
        If there is no checkpoint, or it names no data set, or the data do not fit it.
    """
    folder = checkpoint.find(folder, PRUNED, LAST)
    device = pick_device(config.device)
    network, trained_on = checkpoint.load(folder, config.model.name)
    source = trained_on if own_data else config.data.source()
    if not source:
        raise InputError(f"{folder} names no data set: give data=NAME")
    data = load(**source, device=device)
    check_fits(folder, network, data)
    return OpenedCheckpoint(network.to(device), data, source, folder)
