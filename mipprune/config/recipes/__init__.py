"""The recipes that ship, each a YAML file beside this one, and how one is read."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from formulations.errors import InputError
from mipprune.config.words import nearest

# what is trained by where no recipe is named
DEFAULT = "default"


def recipe_names() -> list[str]:
    """Names of the recipes that ship, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path.

    Raises
    ------
    InputError
        If there is none, with the nearest name; if the file is not a mapping.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise InputError(f"cannot read the recipe {name}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"recipe {name} is not text") from None
    elif name in recipe_names():
        text = (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    elif "=" in name:
        raise InputError(
            f"{name} is a setting: a recipe comes first, such as digits-spr (all: mipprune recipes)"
        )
    else:
        raise InputError(
            f"unknown recipe {name!r}{nearest(name, recipe_names())} (all: mipprune recipes)"
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"recipe {name} is not a mapping of keys to values")
    return values
