"""From values by their names to a point of the joint space, and why there may be none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.config import RangeConfig
from search.joint import BATCH_SIZE, OPTIMIZER, RATE, SCHEDULE, JointSpace, Point, coordinate
from search.space import Cell, value_at

AXES = (BATCH_SIZE, OPTIMIZER, SCHEDULE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enqueued:
    """A configuration that is asked before all others."""

    point: Point
    described: str


def holds(extent: RangeConfig, value: Any) -> bool:
    """Whether a range has this value."""
    if extent.values is not None:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in extent.values)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    step = extent.step or (1 if extent.is_integer else None)
    strides = 0.0 if step is None else (value - extent.low) / step
    return extent.low <= value <= extent.high and abs(strides - round(strides)) < 1e-9


def place_of(extent: RangeConfig, value: Any) -> float:
    """Where a value lies in its range, from 0 to 1: what `value_at` makes it of."""
    if extent.values is not None:
        return (list(extent.values).index(value) + 0.5) / len(extent.values)
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    if extent.log:
        low, high = (extent.low - 0.5, extent.high + 0.5) if extent.is_integer else (extent.low, extent.high)
        return min(max(math.log(value / low) / math.log(high / low), 0.0), 1.0)
    step = extent.step or (1 if extent.is_integer else None)
    if step is None:
        return float((value - extent.low) / (extent.high - extent.low))
    count = round((extent.high - extent.low) / step) + 1
    return float((round((value - extent.low) / step) + 0.5) / count)


def point_at(joint: JointSpace, cell: Cell, values: Mapping[str, Any]) -> Point:
    """The point of a cell at which all its parameters have these values, which lie in their ranges."""
    point = joint.axes_of(cell)
    for name, extent in cell.ranges.items():
        value = int(values[name]) if extent.is_integer else values[name]
        point[coordinate(cell, name)] = place_of(extent, value) if name == RATE else value
    return point


def enqueued(joint: JointSpace, configurations: Sequence[Mapping[str, Any]]) -> list[Enqueued]:
    """The points of configurations by name. What they leave out lies in the middle of its range.

    Of the batch sizes that is the middle one, of optimizers and schedules the first.

    Raises:
        ValueError: with a sentence for every name that is not searched and every value out of its range.
    """
    places = [f"search.enqueue.{index}" for index in range(len(configurations))]
    pairs = list(zip(places, configurations, strict=True))
    found = [sentence for where, one in pairs for sentence in _mistakes(joint, one, where)]
    if found:
        raise ValueError("\n".join(found))
    return [_enqueued(joint, one) for _, one in pairs]


def _enqueued(joint: JointSpace, configuration: Mapping[str, Any]) -> Enqueued:
    cell = joint.cell_at(**_axes(joint, configuration))
    middle = {name: value_at(extent, 0.5) for name, extent in cell.ranges.items()}
    values = {**middle, **{name: configuration[name] for name in cell.ranges if name in configuration}}
    filled = [name for name in (*joint.axes(), *values) if name not in configuration]
    parts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    where = f"batch size {cell.batch_size} with {cell.optimizer}, {cell.schedule}"
    return Enqueued(
        point=point_at(joint, cell, values),
        described=", ".join([where, *parts]) + (f" (filled in: {', '.join(filled)})" if filled else ""),
    )


def _axes(joint: JointSpace, configuration: Mapping[str, Any]) -> dict[str, Any]:
    search = joint.space.search
    default = {
        BATCH_SIZE: joint.sizes[len(joint.sizes) // 2],
        OPTIMIZER: next(iter(search.optimizers)),
        SCHEDULE: next(iter(search.schedules)),
    }
    return {name: configuration.get(name, value) for name, value in default.items()}


def _mistakes(joint: JointSpace, configuration: Mapping[str, Any], where: str) -> Iterator[str]:
    search, axes = joint.space.search, _axes(joint, configuration)
    known: dict[str, Sequence[Any]] = {
        BATCH_SIZE: joint.sizes,
        OPTIMIZER: list(search.optimizers),
        SCHEDULE: list(search.schedules),
    }
    wrong = [name for name in AXES if not holds(RangeConfig(values=known[name]), axes[name])]
    for name in wrong:
        some = ", ".join(map(str, known[name]))
        yield f"`{where}.{name}` must be one of {some}, which are searched, but got {axes[name]!r}."
    if wrong:
        return
    cell = joint.cell_at(**axes)
    at = f"batch size {cell.batch_size} with {cell.optimizer}, {cell.schedule}"
    for name, value in configuration.items():
        if name in cell.ranges and not holds(cell.ranges[name], value):
            yield f"`{where}.{name}` must be {_rule(cell.ranges[name])} at {at}, but got {value!r}. Widen its range."
        elif name not in cell.ranges and name not in AXES:
            names = ", ".join([*AXES, *cell.ranges])
            yield f"`{where}.{name}` must be searched there, but at {at} only these are: {names}. Leave it out."


def _rule(extent: RangeConfig) -> str:
    if extent.values is not None:
        return f"one of {', '.join(map(str, extent.values))}"
    whole = "a whole number " if extent.is_integer else ""
    return f"{whole}from {extent.low:g} to {extent.high:g}{f' in steps of {extent.step:g}' if extent.step else ''}"
