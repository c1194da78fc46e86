"""Commands with a network of a user's own file: trained, measured, pruned, certified, resumed."""

import json

import pytest
import yaml
from command import refused, run

import mipprune
from formulations.errors import InputError
from mipprune.config.overrides import as_config, configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config

TEXT = """
from torch import nn

def make_net(shape, classes, width=16, hidden=12, kind="relu"):
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    )

def wrong(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def fragile(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(65, classes))
"""
QUICK = ["regularize.epochs=1", "finetune.epochs=1", "recalibrate=0", "device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(TEXT)
    result = run("train", "model=mine.py:make_net", "model.hidden=10", *QUICK, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_network_is_trained_without_a_recipe(folder):
    place = folder / "runs/mine-make_net-digits-seed0"
    config = yaml.safe_load((place / "config.yaml").read_text())
    assert config["model"] == {
        "name": "mine.py:make_net", "shortcut": None, "width": None, "growth": None,
        "multiplier": None, "pretrained": None, "hidden": 10,
    }  # fmt: skip
    assert config["method"]["lam"] == read_recipe("default")["method"]["lam"]
    result = json.loads((place / "result.json").read_text())
    assert result["budget"] == {"macs": 0.5}
    architecture = json.loads((place / "pruned/model.json").read_text())["architecture"]
    assert architecture["name"] == f"{folder}/mine.py:make_net"
    assert architecture["hidden"] == 10


def test_the_default_budget_gives_way_to_one_that_is_typed(folder):
    words = ["budget.params=0.6", "name=params", "--dry-run", "--json", "plan.json"]
    result = run("train", "model=mine.py:make_net", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "plan.json").read_text())["budget"]["unit"] == "params"


def test_every_command_goes_on_with_its_checkpoint(folder):
    place = "runs/mine-make_net-digits-seed0"
    for words in (
        ["eval", place],
        ["prune", f"{place}/dense", "budget.macs=0.6", "images=64", "method=magnitude-l1"],
        ["certify", place, "images=64", "nodes=0", "jobs=1", "parallel=threads"],
        ["export", place, "--program", "net.pt2", "images=16"],
        ["train", "default", f"init={place}/pruned", "budget.macs=0.7", "name=again", *QUICK],
        ["eval", "model=mine.py:make_net", "model.width=4"],
    ):
        result = run(*words, cwd=folder)
        assert result.returncode == 0, (words, result.stderr)
    assert (folder / "runs/mine-make_net-magnitude-l1-macs0.6").is_dir()


def test_a_moved_file_is_named_and_given_anew(folder, tmp_path):
    begun = run("train", "model=mine.py:make_net", "name=moved", "method=none", *QUICK, cwd=folder)
    assert begun.returncode == 0, begun.stderr
    (folder / "runs/moved").rename(tmp_path / "moved")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/mine.py").write_text(TEXT + "# another one\n")
    model = tmp_path / "moved/last/model.json"
    described = json.loads(model.read_text())
    assert described["architecture"]["name"].endswith("/mine.py:make_net")
    there = ["model=nets/mine.py:make_net", "device=cpu"]
    result = run("eval", "moved", *there, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "is not what it was when the checkpoint was written" in result.stderr
    words = ["name=moved", "runs=.", "method=none", "--resume", *QUICK]
    result = run("train", there[0], *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    refused(run("train", "model=nets/mine.py:other", *words, cwd=tmp_path), "began with model.name")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "model=mine.py:make_net", "model.depth=3", "name=x"], ["model.depth", "width"]),
        (["train", "model=mine.py:wrong"], ["puts out (2, 3)", "(2, 10)"]),
        (["train", "model=mine.py:fragile"], ["fails on images (1, 8, 8)", "65"]),
        (["train", "model=absent.py:make_net"], ["there is no file", "absent.py"]),
        (["train", "model=mine.py:absent"], ["no function 'absent'", "make_net"]),
        (["train", "digits-spr", "model=mine.py:absent"], ["no function 'absent'"]),
        (["eval", "model=resnet8"], ["init=FILE"]),
        (["prune", "model=resnet8", "budget.macs=0.5"], ["init=FILE"]),
    ],
)
def test_what_a_file_does_not_give_is_said_in_one_line(folder, words, parts):
    refused(run(*words, cwd=folder), *parts)


def test_the_recipe_s_options_go_with_its_model():
    recipe = read_recipe("digits-spr")

    def options(*words):
        return configure(Config, recipe, words).model.options()

    assert options() == {"shortcut": "A", "width": 16}
    assert options("model=resnet8") == {"shortcut": "A", "width": 16}
    assert options("model=mlp") == {}
    assert options("model=vgg16") == {"width": 16}
    assert options("model=mlp", "model.hidden=[3]") == {"hidden": [3]}
    for words in (["model=mlp", "model.width=4"], ["model.width=4", "model=mlp"]):
        assert options(*words) == {"width": 4}
    assert options("model={name: mlp, width: 4}") == {"width": 4}
    assert options("model=timm:resnet18") == {}
    assert recipe["model"] == {"name": "resnet14", "shortcut": "A", "width": 16}

    def given(**model):
        return as_config(Config, recipe, {"model": model}).model.options()

    assert given(name="mlp") == {}
    assert given(name="mlp", width=4) == {"width": 4}
    assert given(width=4) == {"shortcut": "A", "width": 4}
    assert as_config(Config, recipe, {"model": "mlp"}).model.options() == {}


def test_the_recipe_s_options_that_a_function_takes_stay(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TEXT)
    config = configure(Config, read_recipe("digits-spr"), [f"model={file}:make_net"])
    assert config.model.options() == {"width": 16}
    words = [f"model={file}:make_net", "model.hidden=many", "model.kind=[1, 2]"]
    own = configure(Config, {}, words).model
    assert own.options() == {"hidden": "many", "kind": [1, 2]}
    assert Config.model_validate({"model": own.model_dump()}).model == own
    with pytest.raises(InputError, match=r"unknown key 'model\.kind': the nearest valid one is"):
        configure(Config, {}, ["model=resnet8", "model.kind=3"])


def test_training_from_python_takes_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TEXT)
    result = mipprune.train(
        {"model": f"{file}:make_net", "device": "cpu", "budget": {"macs": 0.5}},
        runs=str(tmp_path),
        regularize={"epochs": 0},
        finetune={"epochs": 0},
    )
    assert result["pruned"]["macs"] < result["dense"]["macs"]
