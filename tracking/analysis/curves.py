"""One trial's curve: its evaluations as losses, and the area under what it has learned."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Curve = Sequence[Mapping[str, Any]]
"""The evaluations of one trial in order of their steps, as `tracking.rows.curves` gives them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The scale of a study's learning: areas of trials compare only on one scale."""

    start: float
    """Objective before anything is learned."""
    best: float
    """Objective that counts as everything learned."""


def sign(direction: str) -> float:
    """What a metric of this direction is multiplied by so that less is better."""
    if direction not in ("min", "max"):
        raise ValueError(f"`direction` must be min or max, but got {direction!r}.")
    return 1.0 if direction == "min" else -1.0


def loss(value: float, direction: str) -> float:
    """A metric's value as a loss: less is better, and what is not finite is worst."""
    return sign(direction) * float(value) if math.isfinite(value) else math.inf


def measured(curve: Curve, metric: str) -> list[Mapping[str, Any]]:
    """The evaluations at which a metric was logged and finite."""
    return [point for point in curve if point.get(metric) is not None and math.isfinite(point[metric])]


def span(curves: Iterable[Curve], *, metric: str, direction: str) -> Span | None:
    """The scale that a study's own curves give; None if nothing was learned in any of them.

    The start is the median of first evaluations: trials that blow up at once do not move it.
    """
    runs = [[point[metric] for point in measured(curve, metric)] for curve in curves]
    values = [value for run in runs for value in run]
    if not values:
        return None
    start = statistics.median(run[0] for run in runs if run)
    best = min(values, key=lambda value: loss(value, direction))
    return Span(start=start, best=best) if best != start else None


def area(curve: Curve, *, metric: str, scale: Span, logarithmic: bool = True, best_so_far: bool = True) -> float | None:
    """Area under the share learned, in [0, 1]; None without evaluations, or on a scale of no length.

    The share, (start - value) / (start - best) cut to [0, 1], is 0 before training and runs straight from one
    evaluation to the next over ln(1 + E / epoch), or over E itself; a value that is not finite has learned nothing.
    """
    points = [point for point in curve if None not in (point.get(metric), point.get("examples"), point.get("epoch"))]
    if not points or not points[-1]["epoch"] or not abs(scale.start - scale.best) > 0.0:
        return None
    values = np.array([point[metric] if math.isfinite(point[metric]) else scale.start for point in points], dtype=float)
    shares = np.clip((scale.start - values) / (scale.start - scale.best), 0.0, 1.0)
    if best_so_far:
        shares = np.maximum.accumulate(shares)
    examples = np.array([point["examples"] for point in points], dtype=float)
    epoch = examples[-1] / points[-1]["epoch"]
    axis = np.log1p(examples / epoch) if logarithmic else examples
    return float(np.trapezoid([0.0, *shares], [0.0, *axis]) / axis[-1])
