"""Whole runs of every method through one engine: the same result, exact resumption."""

import json
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks import task_of

from mipprune.analysis.evaluate import evaluate_checkpoint
from mipprune.config.evaluate import EvalConfig
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe, recipe_names
from mipprune.config.train import Config
from mipprune.methods.registry import create, log_of
from mipprune.models.registry import build
from mipprune.runs import checkpoint
from mipprune.training.run import Hooks, train

SMALL = ["model=resnet8", "model.width=4", "reference=false", "data.batch=128", "recalibrate=128"]
EPOCHS = ["pretrain.epochs=0", "regularize.epochs=4", "finetune.epochs=2"]
QUICK = {
    "spr": ["budget.macs=0.5"],
    "greg1": ["pretrain.epochs=1", "method.growth=0.2", "method.stabilise=5"],
    "greg2": [
        "pretrain.epochs=1", "method.growth=0.2", "method.pick_growth=2e-3", "method.stabilise=5",
    ],
    "directional": ["method.c=0.3", "finetune.epochs=0"],
    "complexity": ["method.nu=3", "method.rate=0.05", "budget.macs="],
    "lasso": [], "slimming": [], "magnitude": [], "taylor": [], "uniform": [], "random": [],
}  # fmt: skip
DATA = {
    "digits": ((1, 8, 8), 10, 1347),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    # smaller images than its own, which change no groups and take a tenth of the time to trace
    "imagenet": ((3, 64, 64), 1000, 1_281_167),
}
KEYS = {
    "dense", "pruned", "method", "granularity", "seed", "seconds", "budget", "kept", "device",
    "folder", "accuracy_regularized", "accuracy_removed", "layers",
}  # fmt: skip


def config(name, folder, run, *words):
    overrides = [*SMALL, *EPOCHS, *QUICK[name], *words, f"runs={folder}", f"name={run}"]
    return configure(Config, read_recipe(f"digits-{name}"), overrides)


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]


class Killed(Exception):
    """In the place of a signal."""


def killed_after(*moments):
    """Hooks that raise once behind each of these checkpoints."""
    left = set(moments)

    def die(run):
        if (run.place.phase, run.place.epoch) in left:
            left.remove((run.place.phase, run.place.epoch))
            raise Killed

    return Hooks(after_save=die)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the result of a method's whole run, which is trained once."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def run(name):
        return folder / name, train(config(name, folder, name))

    return run


@pytest.mark.parametrize("name", list(QUICK))
def test_every_method_ends_with_the_same_result_and_goes_on_exactly(name, trained, tmp_path):
    """Killed after the second epoch of the regularize phase, and again in fine-tuning."""
    folder, whole = trained(name)
    assert set(whole) >= KEYS
    if whole["budget"]:
        assert whole["kept"]["macs"] <= 0.5
    again = config(name, tmp_path, "again")
    hooks = killed_after(("regularize", 2), ("finetune", 1))
    for resume in (False, True):
        try:
            train(again, resume=resume, hooks=hooks)
        except Killed:
            continue
    if not (tmp_path / "again/result.json").exists():
        train(again, resume=True)
    one, two = (run / "pruned/model.safetensors" for run in (folder, tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()
    result = json.loads((tmp_path / "again/result.json").read_text())
    for key in set(whole) - {"seconds", "folder", "dense", "pruned"}:
        assert result[key] == whole[key], key
    layers = checkpoint.load(folder / "pruned")[0].state_dict()
    for layer, (_, kept) in whole["layers"].items():
        assert (f"{layer}.weight" in layers) == (kept > 0)
        if kept:
            assert len(layers[f"{layer}.weight"]) == kept
    phases = [line["phase"] for line in lines(folder)]
    assert "remove" in phases


@pytest.mark.parametrize("name", ["spr", "greg1", "directional", "magnitude"])
def test_single_weights_stay_zero_through_fine_tuning_and_in_the_checkpoint(name, tmp_path):
    words = ["granularity=link", "budget.macs=", "budget.params=0.3", "method.weights=all"]
    words = words[:3] if name in ("greg1", "magnitude") else words
    result = train(config(name, tmp_path, "sparse", *words))
    network, _ = checkpoint.load(tmp_path / "sparse/pruned")
    zeros = sum(int((p == 0).sum()) for n, p in network.named_parameters() if p.dim() > 1)
    total = sum(p.numel() for p in network.parameters())
    assert result["pruned"]["params"] == total - zeros
    assert 0.2 < result["kept"]["params"] <= 0.301
    shares = checkpoint.sparsity(tmp_path / "sparse/pruned")
    layer = network.get_submodule("layer3.0.conv1").weight
    assert shares["layer3.0.conv1"] == pytest.approx(float((layer == 0).float().mean()))
    again = evaluate_checkpoint(tmp_path / "sparse", EvalConfig(), own_data=True)
    assert again["params"] == result["pruned"]["params"]
    assert again["accuracy"] == result["pruned"]["accuracy"]


def test_complexity_removes_blocks_on_the_way_and_closes_every_gate(tmp_path):
    words = ["model=resnet14", "method.sigma=1", "method.nu=30", "method.rate=0.1"]
    result = train(config("complexity", tmp_path, "blocks", *words))
    assert result["open_gates"] == 0
    gone = [n for n, (_, kept) in result["layers"].items() if kept == 0]
    assert gone
    blocks = [line["blocks"] for line in lines(tmp_path / "blocks") if "blocks" in line]
    assert blocks[-1] < 6
    assert len(result["blocks_left"]) == 6 - len(gone) // 2


def test_spr_removes_whole_blocks_by_nested_indicators(tmp_path):
    words = [
        "granularity=block", "method.weights=scales", "method.block_price=3", "method.lam=0.3",
        "budget.macs=0.25", "regularize.epochs=6", "model.width=8",
    ]  # fmt: skip
    result = train(config("spr", tmp_path, "nested", *words))
    assert [n for n, (_, kept) in result["layers"].items() if kept == 0]
    assert result["kept"]["macs"] <= 0.25


@pytest.mark.parametrize("name", ["directional", "complexity", "spr", "greg2", "lasso", "slimming"])
def test_methods_log_their_own_state(name, trained, tmp_path):
    folder, _ = trained(name)
    logged = [line for line in lines(folder) if line["phase"] == "regularize"][-1]
    expected = {
        "directional": {"threshold", "zero"},
        "complexity": {"nu", "expected_macs", "open_gates"},
        "spr": {"lam", "penalty", "regime_free", "regime_bound", "regime_kept"},
        "greg2": {"stage", "factor_max"},
        "lasso": {"penalty", "zero"},
        "slimming": {"small_scales"},
    }
    assert expected[name] <= set(logged)
    own = set(logged) - {"phase", "epoch", "time", "loss", "accuracy", "images_per_s"}
    method = config(name, tmp_path, "run").method.name
    assert own <= set(log_of(method))


def test_training_in_bfloat16_keeps_float32_weights_and_learns(tmp_path):
    result = train(config("magnitude", tmp_path, "half", "precision=bfloat16", "data.batch=32"))
    network, _ = checkpoint.load(tmp_path / "half/pruned")
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert result["pruned"]["accuracy"] > 50
    assert np.isfinite([line["loss"] for line in lines(tmp_path / "half") if "loss" in line]).all()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_fits_its_network(name):
    """With as many images as its data set has, but those of digits."""
    given = configure(Config, read_recipe(name))
    shape, classes, images = DATA[given.data.name]
    options = given.model.model_dump(exclude={"name"}, exclude_none=True)
    network = build({"name": given.model.name, "shape": shape, "classes": classes, **options})
    method = create(
        given.method,
        task_of(
            network,
            granularity=given.granularity,
            protect=given.protect,
            budget=given.budget.model_dump(),
            momentum=0.0 if given.method.name == "directional" else 0.9,
            trained="init=" in read_text(name) or given.pretrain.epochs > 0,
            steps=given.regularize.epochs * (images // given.data.batch),
        ),
    )
    assert not method.done
    if given.method.name == "directional":
        assert given.optimizer.momentum == 0


def read_text(name):
    return (resources.files("mipprune.config.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["granularity=block", "method.sigma=1", "method.nu=30", "method.rate=0.1"],
        ["protect=[layer1.1.conv2]", "method.nu=30", "method.rate=0.1"],
        ["protect=[conv1,layer*.conv2]", "method.nu=100", "method.begin=0"],
        ["method.sigma=0", "method.nu=30", "method.rate=0.3", "method.begin=0"],
    ],
)
def test_what_has_gone_on_the_way_is_not_missed_by_a_resumed_run(words, tmp_path):
    given = [*words, "budget.macs=", "model=resnet14", "model.shortcut=B"]
    whole = train(config("complexity", tmp_path, "whole", *given))
    hooks = killed_after(("regularize", 3))
    with pytest.raises(Killed):
        train(config("complexity", tmp_path, "again", *given), hooks=hooks)
    again = train(config("complexity", tmp_path, "again", *given), resume=True)
    assert again["layers"] == whole["layers"]
    assert again["pruned"]["accuracy"] == whole["pruned"]["accuracy"]
    groups = [line["groups"] for line in lines(tmp_path / "whole") if "groups" in line]
    assert groups[-1] < groups[0] or groups[0] < 56


def test_schedules_end_with_the_phase_whatever_its_length(tmp_path):
    words = ["method.alpha_end=0.9", "method.lam_end=1", "budget.macs="]
    for batch, epochs in ((140, 3), (100, 9)):
        name, length = f"b{batch}", [f"data.batch={batch}", f"regularize.epochs={epochs}"]
        train(config("spr", tmp_path, name, *words, *length))
        last = [line for line in lines(tmp_path / name) if line["phase"] == "regularize"][-1]
        assert (last["alpha"], last["lam"]) == (pytest.approx(0.9), pytest.approx(1.0))
