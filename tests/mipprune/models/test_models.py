"""Models by name: published sizes, names with numbers in them, images of any size."""

import pytest
import torch

from formulations.errors import InputError
from mipprune.models.catalogue import names
from mipprune.models.registry import build
from mipprune.structure.cost import count_params
from mipprune.structure.groups import find_groups

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("wrn-28-10", CIFAR, 10, 36_479_194),  # 36.5M in Zagoruyko & Komodakis 2016, table 4
        ("wrn-16-4", CIFAR, 10, 2_748_890),  # 2.7M, as above
        ("wrn-40-2", CIFAR, 10, 2_243_546),  # 2.2M, as above
        ("vgg16", CIFAR, 10, 14_728_266),  # kuangliu/pytorch-cifar
        ("vgg19", CIFAR, 100, 20_086_692),  # 20.04M with 10 classes
        ("densenet40", CIFAR, 10, 1_019_722),  # plain, k = 12: 1.0M in Huang et al. 2017, table 2
        ("densenet100-bc", CIFAR, 10, 769_162),  # k = 12: 0.8M, as above
        ("mobilenet-v2", CIFAR, 10, 2_236_682),
        ("mobilenet-v2", CIFAR, 1000, 3_504_872),  # torchvision's documentation
        ("lenet-300-100", (1, 28, 28), 10, 266_610),  # 267K in Han et al. 2015
        ("lenet-5", (1, 28, 28), 10, 431_080),  # 431K, as above
    ],
)
def test_networks_have_their_published_number_of_parameters(name, shape, classes, parameters):
    network = build({"name": name, "shape": shape, "classes": classes})
    assert count_params(network) == parameters


@pytest.mark.parametrize("name", [n for n in names() if n not in ("wrn-28-10", "vgg19")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 17)])
def test_every_model_takes_small_and_odd_images(name, shape):
    network = build({"name": name, "shape": shape, "classes": 7}).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_mobilenet_has_the_names_of_torchvisions_weights():
    names = set(build({"name": "mobilenet-v2", "shape": CIFAR, "classes": 10}).state_dict())
    assert {"features.1.conv.1.weight", "features.17.conv.1.1.running_var"} <= names
    assert {"features.18.0.weight", "classifier.1.bias"} <= names
    assert len(names) == 314  # tensors of torchvision's mobilenet_v2 file


def test_concatenated_channels_are_one_group_each():
    network = build({"name": "densenet40", "shape": (1, 8, 8), "classes": 10, "growth": 3})
    groups = find_groups(network, (1, 8, 8))
    stem, block = 16, 12 * 3
    # stem, three blocks, and the transitions that keep all channels
    assert groups.count == stem + 3 * block + (stem + block) + (stem + 2 * block)
    norm = next(m for m in groups.members if m.tensor == "dense1.2.bn1.weight")
    new = [groups.layers[f"dense1.{i}.conv1"].tolist() for i in (0, 1)]
    assert norm.group.tolist() == [*groups.layers["conv1"].tolist(), *new[0], *new[1]]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"name": "wrn-17-4"}, "depth 6n"),
        ({"name": "wrn-16-0"}, "factor from 1"),
        ({"name": "wrn-16"}, "unknown model 'wrn-16'"),
        ({"name": None}, "unknown model None"),
        ({"name": "vgg16", "growth": 3}, "vgg16 has no option growth: it takes width"),
        ({"name": "lenet-5", "width": 3}, "lenet-5 has no option width: it takes none"),
        ({"name": "lenet-5", "shape": (1, 3, 8)}, "at least 4×4"),
        ({"name": "mobilenet-v2", "widths": {"features.3.conv.2": 3}}, "adds 3 channels to 24"),
        ({"name": "wrn-16-1", "widths": {"layer1.0.conv2": 3}}, "adds 3 channels to 16"),
    ],
)
def test_networks_that_cannot_be_are_refused(architecture, message):
    with pytest.raises(InputError, match=message):
        build({"shape": (1, 8, 8), "classes": 10, **architecture})
