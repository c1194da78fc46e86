"""Certificates against enumeration; kept channels found again in the weights."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from tasks import small_network
from typer.testing import CliRunner

from formulations.errors import InputError
from formulations.layer.stack import Stack
from mipprune.cli import app
from mipprune.config.certify import CertifyConfig
from mipprune.config.overrides import configure
from mipprune.data.registry import load
from mipprune.oneshot.calibration import SegmentedForward, input_means
from mipprune.oneshot.certify import certify_run
from mipprune.oneshot.forward_order import forward_order
from mipprune.oneshot.layer_problems import layer_problem, reader_weights
from mipprune.oneshot.sites import ReadingLayer
from mipprune.runs import checkpoint
from mipprune.runs.record import read_run
from mipprune.structure.groups import find_groups
from mipprune.structure.matching import match
from mipprune.structure.removal import prune_groups

QUICK = ["images=60", "positions=16", "parallel=threads", "jobs=1", "nodes=500", "tolerance=1e-4"]


def random_mask(groups, seed):
    generator = np.random.default_rng(seed)
    kept = generator.random(groups.count) < 0.6
    for group in groups.layers.values():
        kept[group[0]] = True
    return kept


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folders of a dense and a pruned network, and the mask between them."""
    folder = tmp_path_factory.mktemp("certify")
    network = small_network("resnet8", width=6).eval()
    groups = find_groups(network, (1, 8, 8))
    kept = random_mask(groups, 0)
    data = {"name": "digits", "path": None}
    checkpoint.save(folder / "dense", network, data=data)
    checkpoint.save(folder / "pruned", prune_groups(network, groups, kept), data=data)
    return folder, network, groups, kept


def test_a_certificate_agrees_with_enumeration(pair, tmp_path):
    folder, network, groups, kept = pair
    config = configure(CertifyConfig, {}, [*QUICK, "layers=[layer1.0.conv2]"])
    (row,) = certify_run(folder, config)["layers"]
    order = forward_order(network, (1, 8, 8))
    layer = next(layer for layer in order.layers if layer.name == "layer1.0.conv2")
    images = load("digits", None, torch.device("cpu")).sample(60, 0).split(50)
    forward = SegmentedForward((network,), order, images, tmp_path)
    gram = input_means(forward, layer, 16, 0).gram.numpy()
    inner = groups.layers["layer1.0.conv1"]
    reader = ReadingLayer(layer, np.arange(9 * len(inner)), 9)
    problem = Stack((layer_problem(gram, reader_weights(network, layer), reader),))
    values = {
        members: problem.objective(np.isin(np.arange(len(inner)), members)) / problem.constant
        for members in combinations(range(len(inner)), row["kept"])
    }
    made = values[tuple(np.flatnonzero(kept[inner]))]
    assert row["objective"] == pytest.approx(made, rel=1e-6)
    assert row["best"] == pytest.approx(min(values.values()), rel=1e-3)
    assert row["bound"] <= min(values.values()) * (1 + 1e-9)
    assert row["worse"] == pytest.approx(made / min(values.values()) - 1, abs=2e-3)


@pytest.mark.slow
def test_channels_of_a_stage_are_judged_as_one_choice_of_all_their_readers(pair, tmp_path):
    folder, network, groups, kept = pair
    names = ["layer1.0.conv1", "layer2.0.shortcut.0", "layer2.0.conv1"]
    config = configure(CertifyConfig, {}, [*QUICK, f"layers=[{', '.join(names)}]"])
    rows = {row["layer"]: row for row in certify_run(folder, config)["layers"]}
    stage = rows.pop("layer1.0.conv1 and 2 more")
    assert [*rows] == stage["readers"] == names
    layers = {layer.name: layer for layer in forward_order(network, (1, 8, 8)).layers}
    images = load("digits", None, torch.device("cpu")).sample(60, 0).split(50)
    forward = SegmentedForward((network,), forward_order(network, (1, 8, 8)), images, tmp_path)
    problems = {}
    for name in names:  # every reader alone; their errors add up
        block = 1 if "shortcut" in name else 9
        gram = input_means(forward, layers[name], 16, 0).gram.numpy()
        reader = ReadingLayer(layers[name], np.arange(6 * block), block)
        problems[name] = Stack(
            (layer_problem(gram, reader_weights(network, layers[name]), reader),)
        )
    total = sum(problem.constant for problem in problems.values())
    values = {
        members: sum(p.objective(np.isin(np.arange(6), members)) for p in problems.values()) / total
        for members in combinations(range(6), stage["kept"])
    }
    made = values[tuple(np.flatnonzero(kept[groups.layers["conv1"]]))]
    assert stage["objective"] == pytest.approx(made, rel=1e-6)
    assert stage["best"] == pytest.approx(min(values.values()), rel=1e-3)
    assert stage["bound"] <= min(values.values()) * (1 + 1e-9)
    alone = sum(rows[name]["bound"] * problems[name].constant for name in names) / total
    assert alone <= min(values.values()) * (1 + 1e-9)


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("seed", [1, 2])
def test_kept_channels_are_found_after_training(shortcut, seed):
    network = small_network("resnet8", width=8, shortcut=shortcut)
    groups = find_groups(network, (1, 8, 8))
    kept = random_mask(groups, seed)
    smaller = prune_groups(network, groups, kept)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.add_(0.2 * parameter.std().nan_to_num() * torch.randn_like(parameter))
    np.testing.assert_array_equal(match(network, smaller, groups), groups.settle(kept))


def test_another_network_is_not_taken_for_a_part(pair, tmp_path):
    folder, *_ = pair
    other = small_network("resnet8", width=8)
    checkpoint.save(tmp_path / "other", other, data={"name": "digits", "path": None})
    with pytest.raises(InputError, match="part of the dense"):
        certify_run(tmp_path / "other", CertifyConfig(), dense=folder / "dense")
    with pytest.raises(InputError, match="no pruned/ and dense/"):
        certify_run(tmp_path / "other", CertifyConfig())


def test_a_bound_that_proves_nothing_is_called_so(pair, tmp_path):
    folder, *_ = pair
    words = ["certify", str(folder), *QUICK, "nodes=0", "layers=[layer1.0.conv2]"]
    found = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "c.json")])
    assert found.exit_code == 0, found.exception
    (row,) = json.loads((tmp_path / "c.json").read_text())["layers"]
    assert row["status"] == "trivial"
    assert "nothing is proved: the bound is the error of keeping every group" in found.stderr
    assert "layer1.0.conv2: the bound is the trivial one" in " ".join(found.stdout.split())


def test_the_command_prints_draws_and_writes(pair, tmp_path):
    folder, *_ = pair
    words = ["certify", str(folder), *QUICK, "nodes=1", "layers=[layer*.conv2]"]
    options = ["--plot", str(tmp_path / "c.png"), "--json", str(tmp_path / "c.json")]
    found = CliRunner().invoke(app, [*words, *options])
    assert found.exit_code == 0, found.exception
    assert "layer1.0.conv2" in found.output
    assert (tmp_path / "c.png").stat().st_size > 1000
    (folder / "config.yaml").write_text("{}")
    shown = read_run(folder).certificate  # what the report of the run has
    assert shown == tuple(json.loads((tmp_path / "c.json").read_text())["layers"])
    assert {row["layer"] for row in shown} >= {"layer1.0.conv2", "layer3.0.conv2"}
