"""Plain JSON values against the fields of a dataclass: what in them its `to_json` cannot have written."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63
"""Whole numbers stay below it in size."""

Test = Callable[[Any], bool]


def misfit(cls: Any, values: Any) -> str | None:
    """What is wrong with the values of a dataclass, in a few words that name the field; None: nothing."""
    if not isinstance(values, Mapping):
        return f"it is no {cls.__name__}"
    fields = _fields(cls)
    for name in values:
        if name not in fields:
            return f"`{name}` is unknown to this version"
    for name, (accepts, required) in fields.items():
        if name not in values:
            if required:
                return f"`{name}` is missing"
        elif not accepts(values[name]):
            return f"`{name}` cannot be {values[name]!r:.60}"
    return None


@cache
def _fields(cls: Any) -> dict[str, tuple[Test, bool]]:
    """The test of each field, and whether it has no default."""
    hints = get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (_test(hints[field.name]), field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


def _test(annotation: Any) -> Test:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return lambda value: misfit(annotation, value) is None
    if origin in (Union, types.UnionType):
        tests = [_test(one) for one in arguments]
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin in (Mapping, dict):
        inner = _test(arguments[1])
        return lambda value: isinstance(value, Mapping) and all(map(inner, value.values()))
    if origin is Sequence:
        inner = _test(arguments[0])
        return lambda value: isinstance(value, list | tuple) and all(map(inner, value))
    return _SCALARS.get(annotation, lambda value: True)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -LARGEST < value < LARGEST


_SCALARS: Mapping[Any, Test] = {
    int: _is_whole,
    # JSON writes 1.0 as such, but a module may log a whole number.
    float: lambda value: type(value) is float or _is_whole(value),
    bool: lambda value: type(value) is bool,
    str: lambda value: type(value) is str,
    type(None): lambda value: value is None,
}
