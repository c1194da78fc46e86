"""The network and device that a configuration names, and the data that go with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from formulations.errors import InputError
from mipprune.config.schema import NetworkConfig
from mipprune.data.registry import Data, load
from mipprune.models.registry import build, load_weights, options_of
from mipprune.runs import checkpoint


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} is not to be had: {str(error).splitlines()[0]}") from None
    return device


def check_fits(source: str | Path, network: nn.Module, data: Data) -> None:
    """Raise an InputError if a network, loaded from ``source``, is for other images or classes."""
    classes, shape = network.architecture["classes"], tuple(network.architecture["shape"])
    if (classes, shape) != (data.classes, data.shape):
        raise InputError(
            f"{source} does not fit data={data.name}: it is for {classes} classes of images "
            f"{shape}, {data.name} has {data.classes} of {data.shape}"
        )


def make_network(config: NetworkConfig, data: Data) -> nn.Module:
    """The configured network for a data set, with the weights of ``init`` if there are any."""
    if config.init and Path(config.init).is_dir():
        network, _ = checkpoint.load(Path(config.init))
        check_fits(config.init, network, data)
        return network
    options = config.model.model_dump(exclude={"name"}, exclude_none=True)
    known = options_of(config.model.name)
    for option in options:
        if option not in known:
            raise InputError(f"model {config.model.name} has no option model.{option}")
    network = build(
        {
            "name": config.model.name,
            "shape": data.shape,
            "classes": data.classes,
            **options,
        }
    )
    if config.init:
        load_weights(network, config.init)
    return network


def open_weights(config: NetworkConfig) -> tuple[nn.Module, Data]:
    """The configured model with the weights of ``init``, and its data, on the device."""
    device = pick_device(config.device)
    data = load(**config.data.source(), device=device)
    return make_network(config, data).to(device), data


def open_checkpoint(
    folder: Path, config: NetworkConfig, own_data: bool
) -> tuple[nn.Module, Data, Path]:
    """A checkpoint's network and the data it was trained on, on the device, and its own folder.

    Parameters
    ----------
    folder : Path
        A run (its ``pruned`` checkpoint, or else ``last``) or a checkpoint.
    config : NetworkConfig
        Device; data if not ``own_data``.
    """
    folder = checkpoint.find(folder, "pruned", "last")
    device = pick_device(config.device)
    network, trained_on = checkpoint.load(folder)
    source = trained_on if own_data else config.data.source()
    data = load(**source, device=device)
    check_fits(folder, network, data)
    return network.to(device), data, folder
