"""The rules of ranges, and of the arguments on an axis, which may be ranges: a sentence each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.schema import build, under
from search.config import RangeConfig

_RANGE_KEYS = frozenset(field.name for field in dataclasses.fields(RangeConfig))


def mistakes_of_axis(
    where: str, axis: Mapping[str, Mapping[str, Any]], check: Callable[..., Iterator[str]]
) -> Iterator[str]:
    """Yield a sentence for every rule that the arguments on an axis break, wherever their ranges reach."""
    for name, args in axis.items():
        place = f"{where}.{name}"
        ranges = {key: value for key, value in args.items() if isinstance(value, Mapping) and _RANGE_KEYS & set(value)}
        broken = {key: list(mistakes_of_range(value, f"{place}.{key}")) for key, value in ranges.items()}
        for sentences in broken.values():
            yield from sentences
        fixed = {key: value for key, value in args.items() if key not in ranges}
        ends = {key: ends_of(value) for key, value in ranges.items() if not broken[key]}
        # A rule broken at both ends is one mistake, and so is one that no range has part in.
        found = (sentence for point in _points(fixed, ends) for sentence in check(name, point, where=place))
        yield from dict.fromkeys(found)


def _points(fixed: Mapping[str, Any], ends: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Arguments at which a rule would break if it breaks anywhere: every end once, the others at their first."""
    first = {**fixed, **{key: values[0] for key, values in ends.items()}}
    yield first
    for key, values in ends.items():
        yield from ({**first, key: value} for value in values[1:])


def ends_of(value: Mapping[str, Any]) -> list[Any]:
    """The values of a sound range that rules are checked at: its bounds and one step, or its choices."""
    extent = RangeConfig(**value)
    if extent.values is not None:
        return list(extent.values)
    assert extent.low is not None and extent.high is not None, "a sound range has bounds"
    return [extent.low, extent.high, *([] if extent.step is None else [extent.low + extent.step])]


def mistakes_of_range(value: Any, name: str) -> Iterator[str]:
    """Yield a sentence for every rule that a range breaks, its type included."""
    # Not what `build` makes: there whole numbers become floats, and here they make a range of whole numbers.
    yield from mistakes_of_type(RangeConfig, value, name) or (
        under(name, sentence) for sentence in RangeConfig(**value).mistakes()
    )


def mistakes_of_type(annotation: Any, value: Any, name: str) -> list[str]:
    """A sentence for everything in which a value is not what an annotation asks."""
    found: list[str] = []
    build(annotation, value, name, lambda _, sentence: found.append(sentence))
    return found
