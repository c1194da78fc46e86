"""The settings of a command as a table: key, type, default and meaning, read off the schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml

from mipprune.config.schema import Section


class SettingRow(NamedTuple):
    """One setting, as a command line takes it."""

    key: str
    type: str
    default: str
    meaning: str


def settings_rows(kind: type[Section], prefix: str = "") -> Iterator[SettingRow]:
    """Every setting of a section, those below it with dotted keys.

    Parameters
    ----------
    kind : subclass of Section
        The settings of a command, or of a method.
    prefix : str
        Before every key.
    """
    for name, field in kind.model_fields.items():
        arguments = getattr(field.annotation, "__args__", (field.annotation,))
        below = [a for a in arguments if inspect.isclass(a) and issubclass(a, Section)]
        if name == "method" and below:
            yield SettingRow(
                f"{prefix}{name}", "section", "", "the settings of a method: see below"
            )
        elif below:
            yield from settings_rows(below[0], f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            text = yaml.safe_dump(default, default_flow_style=True).splitlines()[0]
            yield SettingRow(
                f"{prefix}{name}", _type(field.annotation), text, field.description or ""
            )


def _type(annotation: Any) -> str:
    """A type as a reader of settings has it: the values of a choice, null for None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "null"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type, arguments))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, arguments))}]"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}.get(
        annotation.__name__, annotation.__name__
    )
