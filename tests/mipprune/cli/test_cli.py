"""The command line as a user meets it: whole runs on digits, wrong input, checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import refused, run

from formulations import LayerProblem, save_problem, square

QUICK = ["model.name=resnet8", "model.width=8", "regularize.epochs=2", "finetune.epochs=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a finished run in runs/quick."""
    folder = tmp_path_factory.mktemp("cli")
    result = run(
        "train", "digits-spr", "name=quick", "budget.macs=0.5", "--json", "out.json", *QUICK,
        cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def test_train_writes_a_run_that_meets_its_budget(folder):
    quick = folder / "runs/quick"
    result = json.loads((quick / "result.json").read_text())
    assert result == json.loads((folder / "out.json").read_text())
    for name in ("dense", "pruned"):
        assert set(result[name]) == {"accuracy", "macs", "params", "bytes", "latency_ms"}
        assert result[name]["bytes"] == (quick / name / "model.safetensors").stat().st_size
    assert abs(result["pruned"]["macs"] / result["dense"]["macs"] - 0.5) <= 0.01
    assert result["budget"] == {"macs": 0.5}
    assert (result["method"], result["seed"]) == ("spr", 0)
    phases = [json.loads(line)["phase"] for line in (quick / "metrics.jsonl").open()]
    assert (
        phases == ["reference"] * 4 + ["dense"] + ["regularize"] * 2 + ["remove"] + ["finetune"] * 2
    )
    assert (quick / "config.yaml").exists()
    assert list((quick / "tensorboard").iterdir())


def test_eval_of_a_run_gives_its_result_again(folder):
    result = run("eval", "runs/quick", "--json", "eval.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    pruned = json.loads((folder / "runs/quick/result.json").read_text())["pruned"]
    again = json.loads((folder / "eval.json").read_text())
    for name in ("accuracy", "macs", "params", "bytes"):
        assert again[name] == pruned[name]


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing_else(tmp_path):
    result = run("train", "digits-spr", "--dry-run", "--json", "plan.json", *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["steps"]["regularize"] == 2 * (plan["images"]["train"] // 64)
    assert plan["budget"] == {"unit": "macs", "share": 0.4, "count": round(0.4 * plan["macs"])}
    assert max(plan["layers"].values()) < plan["groups"] < sum(plan["layers"].values())  # coupled
    assert plan["memory_bytes"]["weights"] == 4 * plan["params"]
    assert f"{plan['params']:,} parameters" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(folder, tmp_path, damage):
    """Both states of the run, and what eval reads."""

    broken = tmp_path / "runs" / "broken"
    shutil.copytree(folder / "runs/quick", broken)
    for name in ("pruned", "last", "last.previous"):
        weights = broken / name / "model.safetensors"
        data = weights.read_bytes()
        if damage == "truncated":
            weights.write_bytes(data[: len(data) // 2])
        else:
            weights.unlink()
    files = {p: p.read_bytes() for p in broken.rglob("*") if p.is_file()}
    refused(run("eval", broken, cwd=tmp_path), "corrupt checkpoint")
    refused(
        run(
            "train",
            "digits-spr",
            "name=broken",
            "budget.macs=0.5",
            *QUICK,
            "--resume",
            cwd=tmp_path,
        ),
        "corrupt checkpoint",
    )
    assert files == {p: p.read_bytes() for p in broken.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "digits-sp"], ["digits-sp", "'digits-spr'"]),
        (["train", "digits-spr", "method.lamm=1"], ["method.lamm", "'method.lam'"]),
        (["train", "digits-spr", "pretrain.lr=1e39"], ["lr=1e+39", "float32"]),
        (["train", "digits-spr", "regularize.lr=.inf"], ["regularize.lr=inf", "finite"]),
        (["train", "digits-spr", "seed=4294967296"], ["seed=4294967296", "less than"]),
        (["train", "digits-spr", "data.batch=many"], ["data.batch", "integer"]),
        (["train", "digits-spr", "method.alpha=2"], ["method.alpha", "less than 1"]),
        (["train", "digits-spr", "method=complexity", "granularity=link"], ["physically"]),
        (["train", "digits-spr", "method=greg"], ["trained network", "pretrain.epochs"]),
        (["train", "digits-complexity", "model=mlp", "model.width=", "model.shortcut="], ["sigma"]),
        (["train", "digits-spr", "method=spd"], ["'spd'", "'spr'"]),
        (["train", "digits-spr", "nonsense"], ["nonsense", "key=value"]),
        (["train", "digits-spr", "budget.macs=0.0001"], ["unreachable", "smallest"]),
        (["train", "digits-spr", "budget.params=0.5"], ["one budget"]),
        (["train", "digits-spr", "data.batch=5000"], ["data.batch=5000", "1347"]),
        (["train", "digits-spr", "device=cuda:99"], ["device=cuda:99"]),
        (["train", "digits-spr", "model=mlp", "model.shortcut=A"], ["mlp", "model.shortcut"]),
        (["train", "digits-spr", "model.shortcut=A", "model=mlp"], ["mlp", "model.shortcut"]),
        (["train", "model.depth=3"], ["unknown key 'model.depth'", "'model.width'"]),
        (["train"], ["name a recipe", "model=NAME"]),
        (["train", "nets.py:make"], ["unknown recipe"]),
        (["train", "cifar10-resnet20-spr", "data.path=nowhere"], ["data.path=nowhere"]),
        (["train", "digits-spr", "init=nowhere.safetensors"], ["nowhere.safetensors"]),
        (["train", "digits-spr", "--resume", "name=never"], ["never", "no checkpoint"]),
        (["eval", "nowhere"], ["nowhere"]),
        (["eval"], ["init=FILE"]),
        (["compare", "layer:nowhere.npz"], ["nowhere.npz"]),
        (["compare", "tower:hanoi"], ["tower:hanoi", "layer:FILE.npz"]),
        (["compare", "layer:generated", "time_limit=0"], ["time_limit"]),
        (["compare", "layer:generated", "--json", "no/where.json"], ["no/where.json"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, words, expected):
    refused(run(*words, cwd=tmp_path), *expected)
    assert not list(tmp_path.iterdir())


def test_an_existing_run_is_not_overwritten(folder):
    before = (folder / "runs/quick/result.json").read_text()
    refused(run("train", "digits-spr", "name=quick", cwd=folder), "runs/quick exists")
    assert (folder / "runs/quick/result.json").read_text() == before


def test_weights_of_another_architecture_are_refused(folder):
    weights = folder / "runs/quick/dense/model.safetensors"
    words = ["eval", "model=resnet14", f"init={weights}"]
    refused(run(*words, cwd=folder), "does not fit this model", "missing")


@pytest.mark.parametrize(("array", "value"), [("G", np.nan), ("B", np.inf)])
def test_layer_problems_with_wrong_numbers_are_refused(tmp_path, array, value):
    arrays = {"G": np.eye(3), "B": np.ones((3, 1)), "c0": 1.0, "block": 1, "ridge": 1, "cost": 1}
    arrays[array][0, 0] = value
    np.savez(tmp_path / "p.npz", **arrays)
    refused(run("compare", "layer:p.npz", cwd=tmp_path), f"{array}[0, 0]")
    arrays[array] = np.ones((5, 1)) if array == "B" else np.eye(4)
    np.savez(tmp_path / "p.npz", **arrays)
    refused(run("compare", "layer:p.npz", cwd=tmp_path), "rows like G")


def test_compare_names_its_rows_and_the_trained_one_meets_the_relaxation(folder):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((60, 8)) @ (np.eye(8) + 0.4)
    outputs = inputs @ rng.standard_normal((8, 3))
    problem = LayerProblem.from_data(inputs, outputs, square(0.1, 0.5))
    save_problem(problem, folder / "p.npz")
    sources = (
        ["layer:p.npz"],
        ["layer:generated", "groups=8"],
        ["layer:runs/quick/dense:layer1.0.conv2", "ridge=0.5", "price=0.03"],
    )
    for words in sources:
        words = [*words, "time_limit=1e6", "--json", "rows.json"]
        result = run("compare", *words, cwd=folder)
        assert result.returncode == 0, result.stderr
        rows = {r["name"]: r for r in json.loads((folder / "rows.json").read_text())["rows"]}
        assert list(rows)[:5] == [
            "exact",
            "big-m-relaxation",
            "perspective-relaxation",
            "perspective+schur",
            "perspective+ascent",
        ]
        assert [name for name in rows if "perspective" not in name][2:] == [
            "spr-trained",
            "spr λ=0.1, ranked",
            "spr λ=1, ranked",
            "group-lasso",
            "magnitude",
        ]
        exact, relaxed, trained = (
            rows[n] for n in ("exact", "perspective-relaxation", "spr-trained")
        )
        assert exact["status"] == "optimal"
        assert trained["objective"] == pytest.approx(relaxed["objective"], rel=1e-5)
        assert trained["objective"] <= exact["objective"]
        assert rows["big-m-relaxation"]["bound"] <= exact["objective"]
        for name in ("group-lasso", "magnitude"):
            assert rows[name]["objective"] >= exact["bound"] * (1 - 1e-9)
        for row in rows.values():
            assert row["kept"] == len(row["support"])


def test_recipes_are_listed_and_valid(tmp_path):
    result = run("recipes", cwd=tmp_path)
    assert result.returncode == 0
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"digits-spr", "cifar10-resnet20-spr", "cifar10-resnet56-spr"} <= set(names)


@pytest.mark.parametrize("command", ["train", "eval", "compare", "recipes"])
def test_every_command_has_an_example(tmp_path, command):
    result = run(command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"mipprune {command}" in result.stdout.partition("Example")[2]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mipprune.training.run", {"pyomo", "highspy"}),
        (
            "import formulations.layer.problem, formulations.layer.solvers.outer_approximation",
            {"torch"},
        ),
        ("import mipprune.cli", {"torch", "pydantic"}),
    ],
)
def test_imports_stay_light(statement, absent):
    code = f"{statement}; import sys; print(*({absent!r} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.split()) == (0, []), found.stderr


def test_module_runs_from_a_recipe_file(tmp_path):
    recipe = Path(tmp_path / "mine.yaml")
    recipe.write_text(
        "model: {name: mlp, hidden: [16]}\nmethod: {step: gradient, lam: 0.3, threshold: 0.3}\n"
        "regularize: {epochs: 3}\nfinetune: {epochs: 1}\n"
    )
    result = run("train", recipe, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "runs/mine-seed0/result.json").read_text())
    assert written["budget"] is None
    assert written["dense"]["accuracy"] is None
    assert written["pruned"]["macs"] <= written["dense"]["macs"]


def test_the_version_is_said(tmp_path):
    assert run("--version", cwd=tmp_path).stdout.startswith("mipprune 0.")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("train", "method.lam_end"),
        ("eval", "data.name"),
        ("prune", "budget.macs"),
        ("certify", "images"),
        ("compare", "groups"),
        ("valley", "eigenvectors"),
        ("export", "threads"),
    ],
)
def test_settings_are_listed(tmp_path, command, key):
    result = run(command, "--help-settings", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert any(line.split()[:1] == [key] for line in result.stdout.splitlines())


def test_a_shell_completes_recipes_and_settings(tmp_path):
    def completed(words, place):
        environment = {"_MIPPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words}
        found = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv = ['mipprune']\n"
             "from mipprune.cli import main\nmain()"],
            env={**os.environ, "HOME": str(tmp_path), **environment, "COMP_CWORD": str(place)},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return found.stdout.split()

    assert completed("mipprune train digits-s", 2) == ["digits-slimming", "digits-spr"]
    assert completed("mipprune train digits-spr budget.m", 3) == [
        "budget.macs=",
        "budget.multiple=",
    ]
    assert completed("mipprune prune budget.p", 2) == ["budget.params="]
    assert completed("mipprune eval data.n", 2) == ["data.name="]
    assert completed("mipprune derive pseudo", 2) == ["pseudo-huber"]
