"""One trial's curve: its evaluations as losses, and the area under it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Curve = Sequence[Mapping[str, Any]]
"""The evaluations of one trial in order of their steps, as `tracking.rows.curves` gives them."""


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


def area(
    curve: Curve, *, metric: str, direction: str, logarithmic: bool = True, best_so_far: bool = True
) -> float | None:
    """Area under a curve per length of its axis: a mean, in the metric's unit; None without a finite evaluation.

    The axis is ln(1 + epochs), on which early speed counts, or epochs. The curve runs straight from one evaluation to
    the next, and is flat before the first one. No other trial is in it, so it is known when the trial ends. On a scale
    from a start to a best value, (start - area) / (start - best) is the ALC in [0, 1] (methodology 1.2).
    """
    points = [point for point in measured(curve, metric) if point.get("epoch")]
    if not points:
        return None
    values = [float(point[metric]) for point in points]
    if best_so_far:
        values = list(itertools.accumulate(values, min if sign(direction) > 0 else max))
    axis = [math.log1p(point["epoch"]) if logarithmic else float(point["epoch"]) for point in points]
    ends = itertools.pairwise(zip(axis, values, strict=True))
    later = sum((end - start) * (one + other) / 2 for (start, one), (end, other) in ends)
    return (axis[0] * values[0] + later) / axis[-1]
