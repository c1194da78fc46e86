"""Torch networks in, pruned torch networks out."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from formulations.errors import InputError
from formulations.relu.network import Network
from formulations.relu.solve import select, train
from formulations.relu.toys import find_toy
from mipprune.models.mlp import MLP
from mipprune.models.relu_networks import from_torch, to_torch


def hidden_activations(module, x):
    """What comes out of every ReLU, and the outputs."""
    found, h = [], x
    for layer in module:
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            found.append(h)
    return [*found, h]


@pytest.mark.parametrize("price", [0.1, 1.0, 1e3])
def test_pruned_torch_network_has_the_activations_of_the_mip(price):
    toy = find_toy("toy-mlp")
    network = from_torch(to_torch(toy.network))
    solution = select(network, toy.inputs, toy.targets, price=price)
    pruned = to_torch(solution.network)
    widths = [layer.out_features for layer in pruned if isinstance(layer, nn.Linear)]
    assert widths[:-1] == [int(keep.sum()) for keep in solution.support]
    with torch.no_grad():
        *hidden, outputs = hidden_activations(pruned, torch.from_numpy(toy.inputs))
    assert outputs.dtype == torch.float64
    assert len(hidden) == len(solution.activations) == 2
    for own, mip in zip(hidden, solution.activations, strict=True):
        np.testing.assert_allclose(own.numpy(), mip, atol=1e-6)
    assert np.abs(outputs.numpy() - toy.targets).sum() == pytest.approx(solution.loss, abs=1e-6)


def test_torch_network_of_a_trained_xor_computes_xor():
    toy = find_toy("xor")
    pruned = to_torch(train(toy.inputs, toy.targets, toy.hidden, price=0.1).network)
    with torch.no_grad():
        outputs = pruned(torch.from_numpy(toy.inputs))
    np.testing.assert_array_equal(outputs.numpy(), toy.targets)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)),
        nn.Sequential(nn.Linear(4, 2)),
        MLP((1, 2, 2), 3, (5, 4)),
    ],
    ids=["sequential", "linear", "mlp"],
)
def test_network_from_torch_computes_the_same(module):
    torch.manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64)
    network = from_torch(module)
    shaped = x.reshape(7, 1, 2, 2) if isinstance(module, MLP) else x
    with torch.no_grad():
        expected = module.double()(shaped).numpy()
        again = to_torch(network)(x).numpy()
    np.testing.assert_allclose(network.forward(x.numpy()), expected, atol=1e-12)
    np.testing.assert_allclose(again, expected, atol=1e-12)


def test_layer_of_no_units_leaves_the_next_layers_bias_without_a_warning():
    network = Network([np.ones((0, 2)), np.ones((2, 0))], [np.ones(0), np.array([3.0, -1.0])])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        outputs = to_torch(network)(torch.zeros(4, 2, dtype=torch.float64))
    np.testing.assert_array_equal(outputs.numpy(), [[3.0, -1.0]] * 4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(1, 1, 3), "Conv2d is no chain"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), "layer 1 is a Tanh"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), "layer 1 is a Linear: a ReLU fits"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "last layer must be a Linear"),
        (nn.Sequential(), "last layer must be a Linear"),
    ],
)
def test_other_modules_are_refused_by_layer(module, message):
    with pytest.raises(InputError, match=message):
        from_torch(module)
