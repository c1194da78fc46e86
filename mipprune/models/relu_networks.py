"""Fully connected ReLU networks between PyTorch and the exact problems of ``formulations``."""

from __future__ import annotations

import torch
from torch import nn

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.relu.network import Network
from mipprune.models.mlp import MLP


def from_torch(module: nn.Module) -> Network:
    """The network that a module computes, in NumPy.

    Parameters
    ----------
    module : nn.Sequential or mipprune.models.mlp.MLP
        A Sequential of Linear layers with one ReLU between each two of them; Flatten may come
        before the first. Inputs are vectors, or flattened to vectors.

    Raises
    ------
    InputError
        Naming the layer that does not fit.
    """
    linear = _layers_of(module) if isinstance(module, MLP) else _linear_layers(module)
    return Network([_array(layer.weight) for layer in linear], [_bias(layer) for layer in linear])


def to_torch(network: Network) -> nn.Sequential:
    """Linear layers with ReLU between them, float64, as wide as the network is."""
    layers: list[nn.Module] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        outputs, inputs = weight.shape
        # made of one weight and given its own, because drawing those of a layer without units warns
        linear = nn.Linear(1, 1, dtype=torch.float64)
        linear.in_features, linear.out_features = inputs, outputs
        linear.weight = nn.Parameter(torch.tensor(weight))
        linear.bias = nn.Parameter(torch.tensor(bias))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers_of(mlp: MLP) -> list[nn.Linear]:
    return [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]


def _linear_layers(module: nn.Module) -> list[nn.Linear]:
    if not isinstance(module, nn.Sequential):
        raise InputError(
            f"a {type(module).__name__} is no chain of Linear and ReLU: pass an nn.Sequential"
        )
    found: list[nn.Linear] = []
    expect_linear = True
    for name, layer in module.named_children():
        if isinstance(layer, nn.Flatten) and not found:
            continue
        if expect_linear and isinstance(layer, nn.Linear):
            found.append(layer)
        elif expect_linear or not isinstance(layer, nn.ReLU):
            wanted = "a Linear" if expect_linear else "a ReLU"
            raise InputError(f"layer {name} is a {type(layer).__name__}: {wanted} fits there")
        expect_linear = not expect_linear
    if not found or expect_linear:
        raise InputError("the last layer must be a Linear")
    return found


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _bias(layer: nn.Linear) -> FloatArray:
    if layer.bias is None:
        return torch.zeros(layer.out_features, dtype=torch.float64).numpy()
    return _array(layer.bias)
