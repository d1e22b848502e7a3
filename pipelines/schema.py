"""Plain values against the annotations of dataclasses: the typed object, or a sentence for everything that is wrong."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipelines.yaml_source import BAD

Report = Callable[[str, str], None]
"""Called with the dotted name that a mistake is about, and its sentence."""

LARGEST = 2**63 - 1
"""The largest whole number that SQLite, tensors and data frames hold."""
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def build(annotation: Any, value: Any, name: str, report: Report) -> Any:
    """`value` as `annotation` asks, or `BAD`; what is wrong goes to `report`.

    A field that does not fit falls back to its default, so that the rules of the rest can still be checked.
    """
    if value is BAD:
        return BAD
    if dataclasses.is_dataclass(annotation):
        return _build_dataclass(annotation, value, name, report)
    inner = optional(annotation)
    if inner is not None:
        return None if value is None else build(inner, value, name, report)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _build_choice(arguments, value, name, report)
    if origin is Sequence:
        return _build_list(arguments[0], value, name, report)
    if origin is Mapping:
        return _build_mapping(arguments[1], value, name, report)
    if annotation is Any:
        return value
    return _build_scalar(annotation, value, name, report)


def optional(annotation: Any) -> Any:
    """`T` of `T | None`, or None if null is not allowed."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    return next(inner for inner in get_args(annotation) if inner is not type(None))


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a word that is nearly one of `known`, else a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else "."


def under(prefix: str, sentence: str) -> str:
    """The sentence with its first name in backticks made a part of `prefix`."""
    return re.sub(r"`([^`]+)`", lambda match: f"`{prefix}.{match[1]}`", sentence, count=1)


def shown(value: Any) -> str:
    """A value as a sentence quotes it: in YAML's words, at most 60 characters."""
    text = {"True": "true", "False": "false", "None": "null"}.get(repr(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def default_of(cls: Any, name: str) -> Any:
    """The default of a dataclass's field; None if it has none."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _build_dataclass(cls: Any, value: Any, name: str, report: Report) -> Any:
    where = f"`{name}`" if name else "the recipe"
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(value, Mapping):
        report(name, f"{where} must be a mapping with the keys {', '.join(fields)}, but got {shown(value)}.")
        return BAD
    hints = get_type_hints(cls)
    built: dict[str, Any] = {}
    for key, item in value.items():
        inner = f"{name}.{key}" if name else key
        if key not in fields:
            report(inner, f"unknown key `{key}` in {where}{nearest(key, fields)} Known: {', '.join(fields)}.")
        else:
            built[key] = build(hints[key], item, inner, report)
    missing = [key for key, field in fields.items() if is_required(field) and key not in value]
    for key in missing:
        inner = f"{name}.{key}" if name else key
        report(inner, f"`{inner}` is missing.")
    kept = {key: item for key, item in built.items() if item is not BAD}
    if missing or any(is_required(fields[key]) for key in built.keys() - kept.keys()):
        return BAD
    return cls(**kept)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _build_choice(choices: tuple[str, ...], value: Any, name: str, report: Report) -> Any:
    # YAML reads an unquoted `off` as false, and `on` as true.
    word = {False: "off", True: "on"}[value] if isinstance(value, bool) else value
    if isinstance(word, str) and word in choices:
        return word
    hint = nearest(value, choices) if isinstance(value, str) else "."
    rule = f"must be one of {', '.join(choices)}" if len(choices) > 1 else f"must be `{choices[0]}`"
    report(name, f"`{name}` {rule}, but got {shown(value)}{hint}")
    return BAD


def _build_list(inner: Any, value: Any, name: str, report: Report) -> Any:
    if not isinstance(value, list | tuple):
        report(name, f"`{name}` must be a list such as [16, 32], but got {shown(value)}.")
        return BAD
    built = [build(inner, item, f"{name}.{index}", report) for index, item in enumerate(value)]
    return BAD if any(item is BAD for item in built) else tuple(built)


def _build_mapping(inner: Any, value: Any, name: str, report: Report) -> Any:
    if not isinstance(value, Mapping):
        report(name, f"`{name}` must be a mapping, but got {shown(value)}.")
        return BAD
    built = {key: build(inner, item, f"{name}.{key}", report) for key, item in value.items()}
    return BAD if any(item is BAD for item in built.values()) else built


def _build_scalar(kind: type, value: Any, name: str, report: Report) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if type(value) is int and kind is int and abs(value) > LARGEST:
        report(name, f"`{name}` must be a whole number of less than 2^63 in size, but got {shown(value)}.")
        return BAD
    if type(value) is kind:
        return value
    remedy = ""
    if kind is str and isinstance(value, bool | int | float):
        remedy = " Put it in quotes."
    elif kind is int and isinstance(value, float) and value.is_integer():
        remedy = f" Write {int(value)}."
    report(name, f"`{name}` must be {_SCALARS[kind]}, but got {shown(value)}.{remedy}")
    return BAD
