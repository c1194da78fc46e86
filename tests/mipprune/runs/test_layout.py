"""One module knows where the files of a run and of a checkpoint lie."""

import ast
from pathlib import Path

import pytest

import mipprune
from mipprune.runs.layout import CheckpointLayout, RunLayout

ROOT = Path(mipprune.__file__).parent
NAMES = {
    path.name
    for layout in (RunLayout(Path("run")), CheckpointLayout(Path("checkpoint")))
    for name in dir(type(layout))
    if not name.startswith("_") and (path := getattr(layout, name)).suffix in (".json", ".jsonl")
} | {"config.yaml", "model.safetensors", "state.safetensors", "SHA256SUMS"}


def constants(path):
    """Strings of a module; its docstrings say more than a name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_other_module_names_the_files_of_a_run(path):
    if path == ROOT / "runs" / "layout.py":
        return
    assert not NAMES & set(constants(path))


def test_the_names_are_those_of_folders_that_exist():
    """Runs and checkpoints that were written before must be found."""
    run, checkpoint = RunLayout(Path("r")), CheckpointLayout(Path("r/last"))
    assert run.metrics == Path("r/metrics.jsonl")
    assert run.config == Path("r/config.yaml")
    assert run.result == Path("r/result.json")
    assert run.certificate == Path("r/certificate.json")
    assert run.last == checkpoint.path
    assert checkpoint.previous == Path("r/last.previous")
    assert checkpoint.weights == Path("r/last/model.safetensors")
    assert checkpoint.model == Path("r/last/model.json")
    assert checkpoint.sums == Path("r/last/SHA256SUMS")


def test_the_network_before_removal_is_the_regularized_one_where_there_is_one(tmp_path):
    layout = RunLayout(tmp_path)
    layout.dense.mkdir()
    assert layout.compared == layout.dense
    layout.regularized.mkdir()
    assert layout.compared == layout.regularized
