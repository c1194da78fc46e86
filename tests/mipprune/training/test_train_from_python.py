"""``mipprune.train`` from Python: a recipe by name, settings as keywords."""

import pytest

import mipprune
from formulations import InputError

QUICK = {
    "model": {"name": "resnet8", "width": 4},
    "regularize": {"epochs": 1},
    "finetune": {"epochs": 0},
    "reference": False,
    "recalibrate": 0,
}


def test_a_recipe_by_name_takes_settings_as_keywords(tmp_path):
    result = mipprune.train(
        "digits-spr", name="half", runs=str(tmp_path), budget={"macs": 0.5}, **QUICK
    )
    assert result["budget"] == {"macs": 0.5}
    assert result["method"] == "spr"
    assert (tmp_path / "half" / "result.json").is_file()


def test_wrong_settings_are_refused_as_on_the_command_line(tmp_path):
    with pytest.raises(InputError, match="unknown key 'bugdet'"):
        mipprune.train("digits-spr", runs=str(tmp_path), bugdet={"macs": 0.5})
    with pytest.raises(InputError, match="unknown recipe 'digits-sprr'"):
        mipprune.train("digits-sprr")


def test_a_run_is_named_as_the_command_names_it(tmp_path):
    result = mipprune.train("digits-spr", runs=str(tmp_path), seed=3, **QUICK)
    assert result["folder"] == str(tmp_path / "digits-spr-seed3")
