"""prune and certify from Python: networks of one's own, and the same as the commands."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tasks import small_network
from torch import nn
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.config.certify import CertifyConfig
from mipprune.config.evaluate import EvalConfig
from mipprune.config.overrides import configure
from mipprune.config.prune import PruneConfig
from mipprune.data.registry import load
from mipprune.oneshot.api import certify, prune
from mipprune.oneshot.certify import certify_run
from mipprune.oneshot.layer_problems import problem_of_layer
from mipprune.oneshot.run import prune_checkpoint
from mipprune.runs import checkpoint
from mipprune.runs.networks import open_checkpoint
from mipprune.runs.record import read_run

# bounds of the root will do
QUICK = {"positions": 16, "trials": 20, "gap": 0.9, "parallel": "threads", "jobs": 1}


def plain_network():
    """Nothing of mipprune's: convolutions, BatchNorm and linear layers."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 10)),
    )
    return network.train()


@pytest.fixture(scope="module")
def images():
    return load("digits", None, torch.device("cpu")).sample(60)


@pytest.fixture(scope="module")
def result(images):
    network = plain_network()
    with torch.no_grad():
        network(images)  # for the statistics
    return prune(network, images, budget={"macs": 0.5}, **QUICK)


@torch.no_grad()
def error(network, result, images):
    return float((network(images) - result.dense(images)).square().mean())


def test_a_network_of_ones_own_is_pruned_to_its_budget_without_labels(result, images):
    assert 0.45 <= result.macs.share <= 0.5
    assert result.params.after == sum(p.numel() for p in result.network.parameters())
    assert error(result.network, result, images) < error(result.removed, result, images)
    for name, channels in result.kept.items():
        weight = result.network.get_submodule(name).weight
        assert len(channels) == len(weight) == result.layers[name][1]
    assert [choice.layer for choice in result.choices] == ["3", "7", "9"]
    for choice in result.choices:
        assert 0 <= choice.bound <= choice.error * (1 + 1e-9)


def test_what_a_network_of_ones_own_kept_is_certified(result, images):
    lines = []
    options = {"positions": 16, "parallel": "threads", "jobs": 1, "gap": 0.1}
    rows = certify(result, images, layers=["3"], report=lines.append, **options)
    assert result.certificate == rows
    (row,) = rows
    assert row.readers == ("3",)
    assert row.kept == len(row.support) == result.layers["0"][1]
    assert row.bound <= row.best <= row.error * (1 + 1e-9)
    assert row.status in ("root", "tree")
    assert any("3: calibration" in line for line in lines)
    (unproved,) = certify(result, images, layers=["3"], **{**options, "nodes": 0})
    assert unproved.status == "trivial"
    assert unproved.bound <= row.bound * (1 + 1e-9)
    with pytest.raises(InputError, match="no layer that lost inputs is named so"):
        certify(result, images, layers=["absent"], **options)


def test_a_network_of_ones_own_is_saved_as_tensors_and_what_was_kept(result, tmp_path):
    result.save(tmp_path / "run")
    state = load_file(tmp_path / "run/pruned.safetensors")
    for name, tensor in result.network.state_dict().items():
        assert torch.equal(state[name], tensor), name
    found = json.loads((tmp_path / "run/result.json").read_text())
    assert found["channels"] == result.kept
    assert found["pruned"]["macs"] == result.macs.after
    with pytest.raises(InputError, match="exists"):
        result.save(tmp_path / "run")


def test_a_checkpoint_that_names_no_data_set_asks_for_one(tmp_path):
    checkpoint.save(tmp_path / "net", small_network("resnet8", width=4), data={})
    with pytest.raises(InputError, match="names no data set: give data=NAME"):
        open_checkpoint(tmp_path / "net", configure(EvalConfig, {}), own_data=True)


@pytest.mark.slow
def test_a_network_of_mipprune_is_pruned_as_the_command_does_it(images, tmp_path):
    network = small_network("resnet8", width=6)
    checkpoint.save(tmp_path / "dense", network, data={"name": "digits", "path": None})
    words = [f"runs={tmp_path}", "name=run", "images=60", "budget.macs=0.6", "tolerance=0.9"]
    words += ["positions=16", "trials=20", "parallel=threads", "jobs=1"]
    commanded = prune_checkpoint(tmp_path / "dense", configure(PruneConfig, {}, words))
    result = prune(network, images, budget={"macs": 0.6}, **QUICK)
    assert result.kept == commanded["channels"]
    expected = checkpoint.load(tmp_path / "run/pruned")[0].state_dict()
    for name, tensor in result.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name

    result.save(tmp_path / "saved", data={"name": "digits"})
    assert read_run(tmp_path / "saved").method == "exact"
    options = {"images": 60, "positions": 16, "nodes": 0, "parallel": "threads", "jobs": 1}
    rows = certify(result, images, **{k: v for k, v in options.items() if k != "images"})
    found = certify_run(tmp_path / "saved", CertifyConfig(**options))["layers"]
    for one, other in zip(rows, found, strict=True):
        assert one.as_json() | {"seconds": 0} == other | {"seconds": 0}


def test_only_the_score_of_the_loss_needs_labels(images):
    network = small_network("lenet-5")
    options = {"budget": {"macs": 0.5}, "refit": False}
    assert prune(network, images, method="magnitude-l2", **options).macs.share <= 0.5
    with pytest.raises(InputError, match="needs the images' labels"):
        prune(network, images, method="taylor", **options)
    labels = torch.arange(60) % 10
    assert prune(network, images, method="taylor", labels=labels, **options).macs.share <= 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(0, 1, 8, 8)}, "floating-point tensor"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "floating-point tensor"),
        ({"budget": {}}, "needs a budget"),
        ({"budget": {"mac": 0.5}}, "unknown key 'budget.mac'"),
        ({"budget": {"macs": 1e-6}}, "unreachable"),
        ({"method": "best"}, "method='best'"),
        ({"parallel": "abacus"}, "parallel=abacus is unknown"),
    ],
)
def test_wrong_input_is_refused_in_one_line(images, change, message):
    given = {"images": images, "budget": {"macs": 0.5}, **change}
    with pytest.raises(InputError) as caught:
        prune(plain_network(), given.pop("images"), **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layer2.0.conv1", "layer1.0.conv2", "linear"])
def test_a_layer_problem_is_that_of_the_rows_the_layer_sees(images, name):
    network = small_network("resnet8", width=4).eval()
    module, seen = network.get_submodule(name), []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    hook.remove()
    x = seen[0]
    if isinstance(module, nn.Conv2d):
        x = F.unfold(x, module.kernel_size, 1, module.padding, module.stride).mT.flatten(0, 1)
    x = x.double().numpy()
    y = x @ module.weight.detach().double().flatten(1).numpy().T
    problem = problem_of_layer(network, name, images)
    scale = np.abs(problem.gram).max()
    np.testing.assert_allclose(problem.gram, x.T @ x / len(x), atol=1e-6 * scale)
    cross = x.T @ y / len(x)
    np.testing.assert_allclose(problem.cross, cross, atol=1e-6 * np.abs(cross).max())
    assert problem.constant == pytest.approx((y * y).sum() / (2 * len(x)), rel=1e-6)
    assert problem.block == (9 if isinstance(module, nn.Conv2d) else 1)
    with pytest.raises(InputError, match="absent is no layer"):
        problem_of_layer(network, "absent", images)
