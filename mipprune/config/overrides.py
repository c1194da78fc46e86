"""Build a configuration from a mapping and ``key=value`` words; errors name the nearest key.

Precedence: the defaults of the schema, then the recipe, then the overrides. A section given one
plain value sets its name: ``model=resnet56`` is ``model.name=resnet56``. Another model than the
recipe's keeps of the recipe's options those that it has itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from formulations.errors import InputError
from mipprune.config.schema import MethodConfig, ModelConfig, Section
from mipprune.config.words import nearest, split
from mipprune.models.catalogue import unknown_options

Kind = TypeVar("Kind", bound=Section)


def configure(kind: type[Kind], values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Kind:
    """Build a configuration from a mapping and ``key=value`` words.

    Parameters
    ----------
    kind : type
        The settings of a command, such as :class:`mipprune.config.train.Config`.
    values : mapping
        As a recipe says them; it stays as it is.
    overrides : sequence of str
        Words such as ``budget.macs=0.5``; the text behind the sign is read as YAML.

    Raises
    ------
    InputError
        Naming the key, and the nearest valid one or what its value must be.
    """
    own = {key: _copy(value) for key, value in values.items()}
    typed: set[str] = set()
    for word in overrides:
        key, text = split(word)
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            value = text
        _assign(own, key.split("."), value, kind)
        if key == "model" and isinstance(value, dict):
            typed.update(value)
        typed.add(key.removeprefix("model.").partition(".")[0])
    for key, value in own.items():
        field = kind.model_fields.get(key)
        if field is not None and section_of(field) and not isinstance(value, dict | Section | None):
            own[key] = {"name": _plain(key, value)}
    _drop_options(own, values.get("model"), typed)
    try:
        return kind.model_validate(own)
    except ValidationError as error:
        raise InputError(explain(error, kind)) from None


def as_config(
    kind: type[Kind], given: Kind | Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> Kind:
    """The settings of a call from Python.

    Parameters
    ----------
    kind : type
        What the call works with.
    given : kind, mapping or None
        Settings, ready or as a recipe has them; None for the defaults.
    settings : mapping
        Others in their place, section by section: ``{"budget": {"macs": 0.5}}``.

    Raises
    ------
    InputError
        As :func:`configure`.
    """
    if isinstance(given, kind) and not settings:
        return given
    values = given.model_dump() if isinstance(given, Section) else dict(given or {})
    before = values.get("model")
    for key, value in settings.items():
        old = values.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = {**old, **value}
        values[key] = value
    if isinstance(model := settings.get("model"), Mapping):
        values["model"] = dict(values["model"])
        _drop_options(values, before, set(model))
    return configure(kind, values)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The kind of section that a field holds, None of one that holds a value."""
    kinds = getattr(field.annotation, "__args__", (field.annotation,))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)


def explain(error: ValidationError, kind: type[Section], prefix: str = "") -> str:
    """One line about the first thing that is wrong with the values of a section.

    Parameters
    ----------
    error : ValidationError
    kind : type
        What the values were for.
    prefix : str
        Of its keys, such as ``method.``.
    """
    first = error.errors(include_url=False)[0]
    if isinstance(reason := first.get("ctx", {}).get("error"), InputError):
        return str(reason)
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(key, _keys(kind, prefix))}"
    return f"{key}={first['input']!r} does not fit: {first['msg'].lower()}"


def _plain(key: str, value: Any) -> Any:
    """A section's name; a network in its place has none."""
    if hasattr(value, "state_dict") or callable(value):
        kind = value.__name__ if hasattr(value, "__name__") else type(value).__name__
        raise InputError(
            f"{key}={kind} is a variable, which a run's checkpoints cannot name: put it into a "
            "function of a file and pass model=FILE.py:FUNCTION (mipprune.prune and certify take "
            "a network as it is)"
        )
    return value


def _drop_options(values: dict[str, Any], before: Any, given: Collection[str]) -> None:
    """Leave out what only the model had that another has taken the place of.

    Parameters
    ----------
    values : dict
        Settings; their ``model`` loses options.
    before : mapping or None
        The model of the recipe.
    given : collection of str
        Keys of the model that come from elsewhere, and stay.
    """
    now = values.get("model")
    if not isinstance(before, Mapping) or not isinstance(now, dict):
        return
    name, left = now.get("name"), {k for k in before if k in now} - {"name", *given}
    if left and isinstance(name, str) and name != before.get("name", ModelConfig().name):
        for option in unknown_options(name, left):
            del now[option]


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _assign(values: dict[str, Any], path: list[str], value: Any, kind: type[Section]) -> None:
    head = path[0]
    section = section_of(kind.model_fields[head]) if head in kind.model_fields else None
    if len(path) == 1:
        if section and not isinstance(value, dict):
            path = [head, "name"]  # data=cifar10 keeps data.path, whichever is said first
        else:
            values[head] = value
            return
    below = values.get(head)
    values[head] = below = (
        below if isinstance(below, dict) else {} if below is None else {"name": below}
    )
    if section is MethodConfig and path[1:] == ["name"] and below.get("name") != value:
        below.clear()  # the settings were another method's
    node = below
    for step in path[1:-1]:
        node = node.setdefault(step, {})
        if not isinstance(node, dict):
            raise InputError(f"{'.'.join(path)}: {step} has no keys of its own")
    node[path[-1]] = value


def _keys(kind: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        section = section_of(field)
        keys.append(prefix + name)
        if section:
            keys += _keys(section, f"{prefix}{name}.")
    return keys
