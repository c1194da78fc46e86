"""mipprune prune: budget, repetition, resumption, wrong input; layer problems on a cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import yaml
from joblib.externals.loky.process_executor import _ExecutorManagerThread
from tasks import small_network
from typer.testing import CliRunner

from formulations import LayerProblem, square
from formulations.errors import InputError
from formulations.layer.solvers.selection import eliminate
from formulations.layer.stack import Stack
from mipprune.cli import app
from mipprune.config.overrides import configure
from mipprune.config.prune import PruneConfig
from mipprune.data.registry import load
from mipprune.measures.network import accuracy
from mipprune.oneshot.parallel import run_all
from mipprune.oneshot.run import finetune, prune_checkpoint
from mipprune.runs import checkpoint

# bounds of the root will do
QUICK = ["images=60", "positions=16", "trials=20", "tolerance=0.9", "parallel=threads", "jobs=1"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A checkpoint of a small network trained a little on digits."""
    return train_a_little(tmp_path_factory, "B")


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """The same with zero-padding shortcuts."""
    return train_a_little(tmp_path_factory, "A")


def train_a_little(tmp_path_factory, shortcut):
    network = small_network("resnet8", width=8, shortcut=shortcut)
    data = load("digits", None, torch.device("cpu"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        for images, labels in data.train_batches(64, 0, epoch):
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("prune") / "dense"
    checkpoint.save(folder, network, data={"name": "digits", "path": None})
    return folder


def run(dense, runs, *words, **options):
    config = configure(PruneConfig, {}, ["budget.macs=0.5", f"runs={runs}", *QUICK, *words])
    return prune_checkpoint(dense, config, **options)


def tensors(folder):
    return checkpoint.load(folder)[0].state_dict()


def same(a, b):
    a, b = tensors(a), tensors(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_budget_is_met_and_a_second_run_gives_the_same_network(request, tmp_path, shortcut):
    dense = request.getfixturevalue({"A": "padded", "B": "dense"}[shortcut])
    first, _ = (run(dense, tmp_path, f"name={name}") for name in "ab")
    assert 0.49 <= first["kept"]["macs"] <= 0.5
    assert same(tmp_path / "a/pruned", tmp_path / "b/pruned")
    assert any(len(row["readers"]) > 1 for row in first["choices"])
    for row in first["choices"]:
        assert 0 <= row["bound"] <= row["objective"] * (1 + 1e-9)
    assert not (tmp_path / "a/state").exists()
    data = load("digits", None, torch.device("cpu"))
    network = checkpoint.load(tmp_path / "a/pruned")[0]
    assert accuracy(network, data) == first["pruned"]["accuracy"]
    assert first["pruned"]["accuracy"] > first["accuracy_removed"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_network(padded, tmp_path):
    dense, whole = padded, run(padded, tmp_path, "name=whole")
    stops = [
        "layer2.0.conv2: calibration",
        "layer2.0.conv2: error",
        "layer1.0.conv1 and 3 more: error",
        "channels chosen, gap",
        "layer2.0.conv2: refit",
    ]
    for stop_at in stops:

        def stop(line, stop_at=stop_at):
            if stop_at in line:
                raise KeyboardInterrupt

        options = {"resume": (tmp_path / "cut").exists()}
        with pytest.raises(KeyboardInterrupt):
            run(dense, tmp_path, "name=cut", report=stop, **options)
    lines = []
    result = run(dense, tmp_path, "name=cut", resume=True, report=lines.append)
    assert not any("calibration" in line for line in lines)
    assert same(tmp_path / "whole/pruned", tmp_path / "cut/pruned")
    assert result["channels"] == whole["channels"]


def test_a_run_of_an_older_version_goes_on_and_one_with_other_settings_does_not(dense, tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dense, tmp_path, "name=old", "method=magnitude-l2", report=stop)
    file = tmp_path / "old/config.yaml"
    settings = yaml.safe_load(file.read_text())
    del settings["trials"]  # it is another than the default
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match="began with trials=128, not 20: resume it"):
        run(dense, tmp_path, "name=old", "method=magnitude-l2", resume=True)
    del settings["recalibrate"], settings["budget"]["floor"]  # these are at their defaults
    file.write_text(yaml.safe_dump({**settings, "trials": 20, "forgotten": True}))
    words = ["name=old", "method=magnitude-l2"]
    with pytest.raises(InputError, match="began with seed=0, not 1; images=60, not 61: resume"):
        run(dense, tmp_path, *words, "images=61", "seed=1", resume=True)
    assert run(dense, tmp_path, *words, resume=True)["method"] == "magnitude-l2"


def test_a_run_goes_on_with_the_same_files_by_other_paths_and_not_with_others(dense, tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    words = ["name=moved", "method=magnitude-l2"]
    with pytest.raises(KeyboardInterrupt):
        run(dense, tmp_path, *words, report=stop)
    network, _ = checkpoint.load(dense)
    with torch.no_grad():
        next(network.parameters()).flatten()[0] += 1
    checkpoint.save(tmp_path / "other", network, data={"name": "digits", "path": None})
    with pytest.raises(InputError, match="moved began with other weights than those"):
        run(tmp_path / "other", tmp_path, *words, resume=True)
    file = tmp_path / "moved/config.yaml"
    settings = file.read_text()
    file.write_text(yaml.safe_dump({**yaml.safe_load(settings), "contents": {"images": "others"}}))
    with pytest.raises(InputError, match="moved began with other training images than those"):
        run(dense, tmp_path, *words, resume=True)
    file.write_text(settings)
    shutil.copytree(dense, tmp_path / "copy")
    assert run(tmp_path / "copy", tmp_path, *words, resume=True)["folder"].endswith("moved")


@pytest.mark.parametrize(
    ("number", "message"),
    [(0.0, "conv2 sees no input that varies.*images=N"), (float("nan"), "holds numbers that are")],
)
def test_a_network_with_a_dead_layer_is_refused_in_one_line(dense, tmp_path, number, message):
    network, _ = checkpoint.load(dense)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(network.get_submodule("layer2.0.bn1"), name).fill_(number)
    checkpoint.save(tmp_path / "dead", network, data={"name": "digits", "path": None})
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path / "dead", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["{", "", "[[1]]"])
def test_a_damaged_result_on_the_way_is_named(dense, tmp_path, damage):
    def stop(line):
        if "refit, error" in line:
            raise KeyboardInterrupt

    words = ["name=cut", "method=magnitude-l2"]
    with pytest.raises(KeyboardInterrupt):
        run(dense, tmp_path, *words, report=stop)
    (tmp_path / "cut/state/refit.json").write_text(damage)
    with pytest.raises(InputError, match=r"state/refit.json is damaged.* --resume finds it out"):
        run(dense, tmp_path, *words, resume=True)


def test_a_stopped_command_leaves_one_line_and_nothing_in_memory(dense, tmp_path):
    words = ["prune", dense, "budget.macs=0.5", "images=60", "positions=16", "trials=20", "jobs=2"]
    with subprocess.Popen(
        [sys.executable, "-m", "mipprune", *map(str, words), "tolerance=1e-9", "nodes=100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stderr:
            if "error of every number" in line:
                break
        os.killpg(process.pid, signal.SIGINT)  # the workers too, as Ctrl-C does
        said = [line for line in process.stderr if not re.match(r"[\w. ]+: error of", line)]
    assert said == ["mipprune: stopped by SIGINT: go on with --resume\n"]
    assert process.returncode == 130


def test_workers_stopped_before_a_call_is_handed_on_say_nothing(monkeypatch):
    said, kill = [], _ExecutorManagerThread.kill_workers

    def with_a_call_left(self, reason=""):
        kill(self, reason)
        self.work_ids_queue.put(-1)

    monkeypatch.setattr(threading, "excepthook", said.append)
    monkeypatch.setattr(_ExecutorManagerThread, "kill_workers", with_a_call_left)
    calls = [(60,)] * 4
    with pytest.raises(KeyboardInterrupt), run_all(time.sleep, calls, backend="processes", jobs=2):
        raise KeyboardInterrupt
    assert not said


@pytest.mark.parametrize("method", ["spr-score", "magnitude-l1", "group-norm", "taylor", "random"])
def test_scores_choose_within_the_budget_too(dense, tmp_path, method):
    result = run(dense, tmp_path, f"method={method}")
    assert 0.3 <= result["kept"]["macs"] <= 0.5
    assert result["choices"] == []


def test_fine_tuning_goes_on_from_the_pruned_network(dense, tmp_path):
    config = configure(PruneConfig, {}, ["budget.macs=0.6", f"runs={tmp_path}", *QUICK])
    result = prune_checkpoint(dense, config)
    trained = finetune(result, config, 1)
    assert trained["pruned"]["macs"] == result["pruned"]["macs"]
    assert trained["dense"]["accuracy"] == result["pruned"]["accuracy"]
    assert (trained["method"], trained["budget"]) == ("none", None)
    assert not same(
        tmp_path / "resnet8-exact-macs0.6/pruned",
        tmp_path / "resnet8-exact-macs0.6-finetuned/pruned",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=5000"], "images=5000: digits has"),
        (["budget.macs=0.001"], "the smallest network"),
        (["budget.macs=1.5"], "in (0, 1]"),
        (["budget.params=0.5"], "one budget"),
        (["parallel=abacus"], "parallel=abacus is unknown"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(dense, tmp_path, words, message):
    with pytest.raises(InputError) as caught:
        run(dense, tmp_path / "runs", *words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_network_whose_channels_are_all_shared_is_refused(tmp_path):
    network = small_network("resnet8", width=4)
    checkpoint.save(tmp_path / "d", network, data={"name": "digits", "path": None})
    protect = "protect=[layer*.conv1, layer3.0.conv2]"
    with pytest.raises(InputError, match=r"no prunable groups.*candidates=all"):
        run(tmp_path / "d", tmp_path / "runs", protect, "candidates=inner")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_inner_candidates_leave_the_channels_of_the_stages(dense, tmp_path):
    result = run(dense, tmp_path, "budget.macs=0.6", "candidates=inner")
    assert "conv1" not in result["layers"]
    assert "layer1.0.conv1" in result["layers"]
    assert all(len(row["readers"]) == 1 for row in result["choices"])


def test_the_command_prunes_and_writes_json(dense, tmp_path):
    words = ["prune", str(dense), "budget.macs=0.6", f"runs={tmp_path}", *QUICK]
    found = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "out.json")])
    assert found.exit_code == 0, found.output
    out = json.loads((tmp_path / "out.json").read_text())
    assert out == json.loads((tmp_path / "resnet8-exact-macs0.6/result.json").read_text())
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, InputError)
    assert "exists" in str(again.exception)
    for wrong in (["prune"], ["prune", str(dense), "images=0"], ["prune", str(dense)]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, InputError)


# cloudpickle looks for functions in every module there is, deprecated ones too
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_dask_workers_give_what_this_process_gives():
    pytest.importorskip("distributed", reason="dask is not installed: pip install mipprune[dask]")
    stacks = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        inputs = generator.standard_normal((40, 8))
        outputs = inputs @ generator.standard_normal((8, 3))
        problem = LayerProblem.from_data(inputs, outputs, square(1e-3, 1.0), 2)
        stacks.append((Stack((problem,)),))
    with run_all(eliminate, iter(stacks), backend="dask", jobs=2) as found:
        paths = list(found)
    for (stack,), path in zip(stacks, paths, strict=True):
        np.testing.assert_allclose(path.errors, eliminate(stack).errors)
        assert path.order.tolist() == eliminate(stack).order.tolist()
