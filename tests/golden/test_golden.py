"""Results that stay: recorded by the code as it was before it was moved into rooms.

Choices (supports, widths, channels) must be the same, numbers but for what another processor's
linear algebra may round differently. Folders of runs that were written then are read, resumed,
pruned and certified now.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import run
from safetensors.numpy import load_file

from formulations import LayerProblem, relax, solve
from formulations.symbolic.catalogue import CATALOGUE, entry

DATA = Path(__file__).parent / "data"
SOLVES = json.loads((DATA / "solves.json").read_text())
COMPARISONS = json.loads((DATA / "comparisons.json").read_text())

# price, bound and weight of the catalogue's terms, as they were recorded
NUMBERS = {
    "big-m": (0.1, 6.0, 1.0),
    "pseudo-huber": (0.02, np.inf, 0.05),
    "mcp": (0.1, np.inf, 0.02),
}


def problem_of(name):
    rng = np.random.default_rng(7)
    inputs = rng.standard_normal((200, 8)) @ (np.eye(8) + 0.4 * rng.standard_normal((8, 8)))
    outputs = inputs @ rng.standard_normal((8, 3)) + 0.1 * rng.standard_normal((200, 3))
    if name == "nested":
        term = entry(name).nested(np.repeat(np.arange(2), 2), np.full(2, 0.05), 0.1, 0.05)
    else:
        term = entry(name).term(*NUMBERS.get(name, (0.1, np.inf, 0.05)))
    return LayerProblem.from_data(inputs, outputs, term, 2)


def assert_same(found, recorded, bound=1e-6):
    assert found.status == recorded["status"]
    assert found.support.astype(int).tolist() == recorded["support"]
    assert found.objective == pytest.approx(recorded["objective"], rel=1e-9)
    assert found.bound == pytest.approx(recorded["bound"], rel=bound)


def test_every_term_of_the_catalogue_is_recorded():
    assert {key.partition("/")[0] for key in SOLVES} == set(CATALOGUE)


@pytest.mark.parametrize("key", [key for key in SOLVES if "/relax/" not in key])
def test_solves_end_as_they_did(key):
    name, solver, cardinality = key.split("/")
    limit = None if cardinality == "None" else int(cardinality)
    found = solve(problem_of(name), solver=solver, cardinality=limit)
    assert_same(found, SOLVES[key], bound=1e-4)
    assert found.bound <= found.objective


@pytest.mark.parametrize("key", [key for key in SOLVES if "/relax/" in key])
def test_relaxations_have_the_value_that_they_had(key):
    name, _, form = key.split("/")
    found, recorded = relax(problem_of(name), form), SOLVES[key]
    assert found.status == recorded["status"]
    assert found.objective == pytest.approx(recorded["objective"], rel=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder in which the recorded runs lie under runs/."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(DATA / "stopped", folder / "runs" / "stopped")
    shutil.copytree(DATA / "finished", folder / "runs" / "finished")
    shutil.copytree(DATA / "oneshot", folder / "runs" / "chosen")
    shutil.copytree(DATA / "finished" / "dense", folder / "runs" / "chosen" / "dense")
    return folder


@pytest.mark.parametrize("source", COMPARISONS)
def test_comparisons_print_the_rows_that_they_printed(source, folder):
    words = {"layer:generated": ["groups=12"], "budget:runs/finished/dense": ["macs=0.5"]}.get(
        source, []
    )
    result = run("compare", source, *words, "time_limit=1e6", "--json", "out.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads((folder / "out.json").read_text())["rows"]}
    assert list(rows) == [row["name"] for row in COMPARISONS[source]]
    for recorded in COMPARISONS[source]:
        found = rows[recorded["name"]]
        assert found["support"] == recorded["support"], recorded["name"]
        assert found["objective"] == pytest.approx(recorded["objective"], rel=1e-5)


def assert_same_tensors(one, other):
    one, other = load_file(one), load_file(other)
    assert list(one) == list(other)
    for name in one:
        assert one[name].shape == other[name].shape, name
        np.testing.assert_allclose(one[name], other[name], rtol=1e-2, atol=1e-3, err_msg=name)


def test_a_run_that_was_stopped_then_goes_on_to_the_same_end(folder):
    words = ["model.name=resnet8", "model.width=4", "regularize.epochs=4", "finetune.epochs=2"]
    result = run(
        "train", "digits-spr", "name=stopped", *words, "reference=true", "--resume", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / "runs/stopped/result.json").read_text())
    recorded = json.loads((DATA / "finished/result.json").read_text())
    for name in ("method", "granularity", "seed", "budget", "kept", "layers", "bounds"):
        assert found[name] == recorded[name], name
    for network in ("dense", "pruned"):
        for name in ("macs", "params", "bytes"):
            assert found[network][name] == recorded[network][name]
    # one image more or less of 450
    assert found["pruned"]["accuracy"] == pytest.approx(recorded["pruned"]["accuracy"], abs=0.7)
    tensors = "pruned/model.safetensors"
    assert_same_tensors(folder / "runs/stopped" / tensors, DATA / "finished" / tensors)


def test_a_checkpoint_from_then_is_worth_what_it_was(folder):
    result = run("eval", "runs/finished", "--json", "eval.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / "eval.json").read_text())
    recorded = json.loads((DATA / "finished/result.json").read_text())["pruned"]
    assert found["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.3)
    assert (found["macs"], found["params"]) == (recorded["macs"], recorded["params"])


def test_pruning_without_training_keeps_the_same_channels(folder):
    words = ["budget.macs=0.6", "images=200", "name=again", "jobs=1", "parallel=threads"]
    result = run("prune", "runs/finished/dense", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / "runs/again/result.json").read_text())
    recorded = json.loads((DATA / "oneshot/result.json").read_text())
    for name in ("layers", "channels", "kept"):
        assert found[name] == recorded[name], name
    for one, other in zip(found["fits"], recorded["fits"], strict=True):
        assert one["layer"] == other["layer"]
        assert one["after"] == pytest.approx(other["after"], rel=1e-3)


def test_certificates_of_a_run_from_then_say_what_they_said(folder):
    words = ["images=200", "jobs=1", "parallel=threads", "--json", "certificate.json"]
    result = run("certify", "runs/chosen", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / "certificate.json").read_text())["layers"]
    recorded = json.loads((DATA / "certificate.json").read_text())["layers"]
    for one, other in zip(found, recorded, strict=True):
        for name in ("layer", "readers", "groups", "kept", "support"):
            assert one[name] == other[name], name
        for name in ("objective", "best", "bound"):
            assert one[name] == pytest.approx(other[name], rel=1e-3), name


def test_runs_from_then_make_a_report(folder):
    result = run("report", "runs/finished", "runs/chosen", "--output", "page.html", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "finished" in (folder / "page.html").read_text()
