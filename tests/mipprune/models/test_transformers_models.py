"""Models of transformers by folder or config: in a stand-in for the package, and in the package."""

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from formulations.errors import InputError
from mipprune.config.words import folder_name
from mipprune.models.registry import build, describe
from mipprune.runs import checkpoint
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import prune_groups

SHAPE = (3, 6, 6)


class Config:
    def __init__(self, **values):
        self.architectures = values.get("architectures")
        self.model_type, self.num_labels = values["model_type"], 2
        self.width, self.num_channels = values.get("width", 6), values.get("num_channels", 3)

    @classmethod
    def from_dict(cls, values):
        return cls(**values)


class TextConfig(Config):
    pass


class Classifier(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.convolution = nn.Conv2d(config.num_channels, config.width, 3)
        self.classifier = nn.Linear(config.width, config.num_labels)

    def forward(self, pixel_values):
        x = torch.relu(self.convolution(pixel_values)).mean((2, 3))
        return {"logits": self.classifier(x)}


class Auto:
    """An Auto class of the package."""

    def __init__(self, name, kinds):
        self.name, self.kinds = name, kinds

    def from_config(self, config, trust_remote_code):
        assert trust_remote_code is False
        if config.width < 0:
            raise ValueError("a width is\nnegative")
        network = Classifier(config)
        network.made_by = self.name
        return network.half()

    def from_pretrained(self, folder, *, config, **options):
        assert options == {
            "ignore_mismatched_sizes": True, "local_files_only": True, "trust_remote_code": False
        }  # fmt: skip
        network = self.from_config(config, False).float()
        own, tensors = network.state_dict(), load_file(folder / "model.safetensors")
        fitting = {k: v for k, v in tensors.items() if v.shape == own[k].shape}
        network.load_state_dict(fitting, strict=False)
        return network.eval()


@pytest.fixture
def package(monkeypatch):
    transformers = ModuleType("transformers")
    transformers.CONFIG_MAPPING = {"tiny": Config, "words": TextConfig, "lm": TextConfig}
    transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING = {Config: Classifier}
    transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING = {TextConfig: Classifier}
    for name in ("ImageClassification", "SequenceClassification", "CausalLM", "MaskedLM"):
        setattr(transformers, f"AutoModelFor{name}", Auto(name, ()))
    transformers.logging = SimpleNamespace(
        get_verbosity=lambda: 30, set_verbosity=lambda level: None,
        set_verbosity_error=lambda: None, is_progress_bar_enabled=lambda: True,
        disable_progress_bar=lambda: None, enable_progress_bar=lambda: None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return transformers


def folder_of(path, weights=True, **values):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "tiny", **values}))
    if weights:
        torch.manual_seed(1)
        network = Classifier(Config(**{"model_type": "tiny", **values}))
        save_file(network.state_dict(), path / "model.safetensors")
    return path


def network_of(place, shape=SHAPE, **options):
    torch.manual_seed(0)
    return build({"name": f"hf:{place}", "shape": list(shape), "classes": 4, **options})


def test_a_folder_s_weights_are_taken_but_for_a_classifier_of_another_size(package, tmp_path):
    folder = folder_of(tmp_path / "net")
    network = network_of(folder)
    tensors = load_file(folder / "model.safetensors")
    assert network.training
    assert network.made_by == "ImageClassification"
    assert torch.equal(network.convolution.weight, tensors["convolution.weight"])
    assert network.classifier.weight.shape == (4, 6)
    fresh = network_of(folder, pretrained=False)
    assert fresh.convolution.weight.dtype == torch.float32
    assert not torch.equal(fresh.convolution.weight, tensors["convolution.weight"])
    assert network_of(folder / "config.json").classifier.weight.shape == (4, 6)


def test_a_checkpoint_needs_the_folder_no_more(package, tmp_path):
    folder = folder_of(tmp_path / "net", width=9)
    network = network_of(folder)
    groups = find_groups(network.eval(), SHAPE)
    smaller = prune_groups(network, groups, np.arange(groups.count) % 3 > 0)
    assert smaller.convolution.out_channels == 6
    checkpoint.save(tmp_path / "pruned", smaller, data={})
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    loaded, _ = checkpoint.load(tmp_path / "pruned")
    assert describe(loaded) == describe(smaller)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(loaded.eval()(images)["logits"], smaller(images)["logits"])


@pytest.mark.parametrize(
    ("kind", "architecture", "made_by"),
    [
        ("tiny", "TinyModel", "ImageClassification"),
        ("tiny", "TinyForImageClassificationWithTeacher", "ImageClassification"),
        ("words", "WordsModel", "SequenceClassification"),
        ("words", "WordsForMaskedLM", "MaskedLM"),
        ("words", "WordsForCausalLM", "CausalLM"),
        ("words", "WordsLMHeadModel", "CausalLM"),
    ],
)
def test_the_config_says_what_is_built(package, tmp_path, kind, architecture, made_by):
    folder = folder_of(tmp_path / "net", False, architectures=[architecture], model_type=kind)
    network = network_of(folder, shape=(5,))
    assert network.made_by == made_by
    outputs = network.classifier.out_features
    assert outputs == (4 if "Classification" in made_by else 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "huge"}, "'huge', which this version of transformers does not know"),
        ({"width": -1}, "transformers cannot build hf:.*: a width is"),
        ({"num_channels": 1}, "for images of 1 channels: not of 3"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(package, tmp_path, values, message):
    folder = folder_of(tmp_path / "net", weights=False, **values)
    with pytest.raises(InputError, match=message) as caught:
        network_of(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has no weights to begin with"):
        network_of(folder, pretrained=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no .*config.json"), ("{", "no.* readable config"), ("{}", "no model_type")],
)
def test_a_folder_that_is_none_is_said_in_one_line(package, tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        network_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs transformers, which cannot be imported"):
        network_of(tmp_path)


def test_a_run_is_named_by_the_folder(tmp_path):
    (tmp_path / "net").mkdir()
    assert folder_name(f"hf:{tmp_path}/net") == "hf-net"
    assert folder_name(f"hf:{tmp_path}/net/config.json") == "hf-net"
    assert folder_name("nets/mine.py:make_net") == "mine-make_net"
    assert folder_name("timm:hub/resnet18") == "timm-hub-resnet18"
    assert folder_name("resnet8") == "resnet8"


def test_the_packages_own_networks_are_pruned_and_rebuilt(tmp_path):
    try:
        transformers = importlib.import_module("transformers")
    except Exception as error:
        pytest.skip(f"transformers is not importable here: {str(error).splitlines()[0]}")
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    network = network_of(tmp_path / "net", (3, 16, 16)).eval()
    groups = find_groups(network, (3, 16, 16))
    smaller = prune_groups(network, groups, np.arange(groups.count) % 4 > 0)
    checkpoint.save(tmp_path / "pruned", smaller, data={})
    loaded, _ = checkpoint.load(tmp_path / "pruned")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.eval()(images).logits, smaller(images).logits)
