"""Every file of a run's folder: a folder in its place, cut, empty, unreadable, no text, missing."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from formulations.errors import InputError
from mipprune.cli import app
from mipprune.runs import checkpoint
from mipprune.runs.layout import CheckpointLayout

GOLDEN = Path(__file__).parents[2] / "golden" / "data"


def folder(path):
    path.unlink()
    path.mkdir()


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def unreadable(path):
    """Of what even root cannot read."""
    path.unlink()
    path.symlink_to(path.name)


def binary(path):
    path.write_bytes(b"\xff\xfe\x98" * 40)


def missing(path):
    path.unlink()


DAMAGES = [folder, cut, empty, unreadable, binary, missing]


def said(*words):
    """The line of a command that fails as it should."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, InputError), (words, result.exception, result.output)
    line = str(result.exception)
    assert "\n" not in line
    return line


@pytest.fixture
def run(tmp_path):
    """A finished run, with the checkpoints from which it was pruned and stopped."""
    run = tmp_path / "runs" / "half"
    shutil.copytree(GOLDEN / "finished", run)
    shutil.copytree(GOLDEN / "stopped" / "last", run / "last")
    return run


@pytest.mark.parametrize("name", ["SHA256SUMS", "model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_command_takes_a_damaged_checkpoint_for_another(
    run, tmp_path, monkeypatch, damage, name
):
    """Not even where a run has others beside it."""
    monkeypatch.chdir(tmp_path)
    damage(run / "pruned" / name)
    where = f"pruned/{name}"
    commands = [
        ["eval", run],
        ["certify", run],
        ["export", run, "--program", "a.pt2"],
        ["valley", run / "pruned", run / "dense"],
        ["prune", run, "budget.macs=0.5"],
        ["compare", f"layer:{run}/pruned:layer1.0.conv2"],
        ["compare", f"budget:{run}/pruned"],
    ]
    for words in commands:
        line = said(*words)
        assert line.startswith("corrupt checkpoint: ")
        assert where in line
        assert "restore it from a copy" in line


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resumed_run_says_what_is_wrong_with_both_of_its_states(run, tmp_path, damage):
    words = ["model.width=4", "regularize.epochs=4", "finetune.epochs=2", "reference=true"]
    damage(run / "last" / "state.json")
    assert "last/state.json" in said(
        *("train", "digits-spr", "name=half", f"runs={run.parent}", "--resume"),
        *("model.name=resnet8", *words),
    )


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d not in (cut, missing)])
def test_a_resumed_run_says_what_is_wrong_with_its_settings(run, damage):
    """A file that was cut, or is not there, may still say the same."""
    damage(run / "config.yaml")
    line = said("train", "digits-spr", "name=half", f"runs={run.parent}", "--resume")
    assert "config.yaml" in line or damage is empty  # of other settings, then


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_report_names_the_file(run, damage, name):
    damage(run / name)
    less = {(empty, "metrics.jsonl"), (cut, "metrics.jsonl"), (empty, "config.yaml")}
    if damage is missing or (damage, name) in less:
        # there is less in it: that is a run that has not got so far
        assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
        return
    line = said("report", run)
    assert name in line
    assert "restore it from a copy, or move it away" in line


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not missing])
def test_a_certificate_needs_no_damaged_result(run, damage):
    damage(run / "result.json")
    line = said("certify", run)
    assert "result.json" in line
    assert "move it away to go without" in line


def test_a_result_of_another_network_is_refused(run):
    file = run / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "channels": {"no": [1]}}))
    assert "are none of dense/" in said("certify", run)


def test_a_stray_file_is_named(run):
    (run / "pruned" / "notes.txt").write_text("mine")
    assert "pruned/notes.txt is none of its files: move it away" in said("eval", run)


def test_the_generation_before_is_taken_where_a_file_is_a_folder(run):
    shutil.copytree(run / "last", run / "last.previous")
    folder(run / "last" / "model.safetensors")
    found = checkpoint.load_generation(run / "last")
    assert "last/model.safetensors is a folder" in found.broken
    assert CheckpointLayout(run / "last").previous.exists()
