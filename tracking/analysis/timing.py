"""Step time and memory against batch size, and the batch size that reaches a target soonest (methodology 1.9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracking.analysis.scaling import Array, Hyperbola, positive, too_few

LEAST_TIMES = 3
"""Batch sizes that a line through step times or memory needs, so that one of them can be wrong."""
MARGIN = 0.05
"""Share of the memory left free (the margin of Lightning's batch-size finder)."""
FLAT = 0.1
"""A time within this share of the shortest counts as equally good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of one optimizer step: overhead + per_example x B."""

    overhead: float = math.nan
    per_example: float = math.nan
    half_batch: float = math.nan
    """overhead / per_example: the batch size at which half of the greatest throughput is reached."""
    reason: str | None = None

    def seconds(self, batch_size: float) -> float:
        """Seconds of one step at a batch size."""
        return self.overhead + self.per_example * batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeOptimal:
    """The batch size that reaches the target in the shortest time."""

    batch_size: float = math.nan
    seconds: float = math.nan
    """Time to the target there."""
    low: float = math.nan
    """The smallest batch size within a tenth of the shortest time."""
    high: float = math.nan
    """The largest one."""
    clipped: bool = False
    """Whether `batch_size` is where the allowed sizes end: without the limit another one would be faster."""
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes that training takes at its peak: fixed + per_example x B."""

    fixed: float = math.nan
    per_example: float = math.nan
    largest: float = math.nan
    """The largest whole batch size that fits and leaves the margin free; infinite where memory does not grow."""
    reason: str | None = None


def fit_step_time(batch_sizes: Sequence[float], seconds: Sequence[float]) -> StepTime:
    """The line through the medians of each batch size that has the least sum of relative errors.

    Absolute values instead of squares: a size that was timed while something else ran does not move the line.
    """
    sizes, times = _medians(batch_sizes, seconds)
    if len(sizes) < LEAST_TIMES:
        reason = too_few(LEAST_TIMES, "batch sizes with a step time", "have one", len(sizes))
        return StepTime(reason=reason)
    overhead, per_example = _line(sizes, times)
    half = overhead / per_example if per_example > 0 else math.inf
    return StepTime(overhead=overhead, per_example=per_example, half_batch=half)


def time_optimal(
    hyperbola: Hyperbola, step_time: StepTime, *, largest: float | None = None, smallest: float = 1.0
) -> TimeOptimal:
    """The batch size at which S(B) (a + b B) is least: sqrt(critical x half_batch), within the sizes allowed.

    `largest` is what memory or the training set allows. The derivative of S_min a + E_min b + S_min b B + E_min a / B
    is zero there; the time is then (sqrt(S_min a) + sqrt(E_min b))^2.
    """
    reason = _no_time(hyperbola, step_time, largest)
    if reason is not None:
        return TimeOptimal(reason=reason)
    free = math.sqrt(hyperbola.critical * step_time.half_batch)
    most = math.inf if largest is None else largest
    best = min(max(free, smallest), most)
    low, high = _as_fast(hyperbola, step_time, best)
    return TimeOptimal(
        batch_size=best,
        seconds=seconds_to_target(hyperbola, step_time, best),
        low=max(low, smallest),
        high=min(high, most),
        clipped=best != free,
    )


def seconds_to_target(hyperbola: Hyperbola, step_time: StepTime, batch_size: float) -> float:
    """Steps to the target times the seconds of a step, by the two fits."""
    return hyperbola.steps(batch_size) * step_time.seconds(batch_size)


def largest_batch(batch_sizes: Sequence[float], peak_bytes: Sequence[float], *, limit: float) -> Memory:
    """The largest batch size whose peak stays `MARGIN` below `limit` bytes, by a line through the peaks measured."""
    sizes, peaks = _medians(batch_sizes, peak_bytes)
    if len(sizes) < LEAST_TIMES:
        reason = too_few(LEAST_TIMES, "batch sizes with a measured peak of memory", "have one", len(sizes))
        return Memory(reason=reason)
    fixed, per_example = _line(sizes, peaks)
    room = (1 - MARGIN) * limit - fixed
    largest = float(room // per_example) if per_example > 0 else math.inf
    if room < max(per_example, 0.0):
        reason = f"`limit` must leave room for one example beside the fixed {fixed:.4g} bytes, but got {limit:.4g}."
        return Memory(fixed=fixed, per_example=per_example, reason=reason)
    return Memory(fixed=fixed, per_example=per_example, largest=largest)


def _no_time(hyperbola: Hyperbola, step_time: StepTime, largest: float | None) -> str | None:
    """Why the time-optimal batch size cannot be given, or None."""
    if step_time.reason is not None:
        return step_time.reason
    if math.isinf(step_time.half_batch) and largest is None:
        return "needs `largest`, since a step takes no longer with more examples, but it is not given"
    # From a lower bound of the critical size follows one of the best size: enough where memory ends before it.
    beyond = hyperbola.bound == "at least" and largest is not None
    if beyond and math.sqrt(hyperbola.critical * step_time.half_batch) >= (largest or 0.0):
        return None
    return hyperbola.reason


def _as_fast(hyperbola: Hyperbola, step_time: StepTime, best: float) -> tuple[float, float]:
    """The batch sizes between which the time is at most 1 + `FLAT` times that at the best: roots of a quadratic."""
    rising = hyperbola.s_min * step_time.per_example
    falling = hyperbola.e_min * step_time.overhead
    level = (1 + FLAT) * seconds_to_target(hyperbola, step_time, best)
    level -= hyperbola.s_min * step_time.overhead + hyperbola.e_min * step_time.per_example
    root = math.sqrt(max(level**2 - 4 * rising * falling, 0.0))
    return 2 * falling / (level + root), (level + root) / (2 * rising) if rising > 0 else math.inf


def _medians(batch_sizes: Sequence[float], values: Sequence[float]) -> tuple[Array, Array]:
    """The distinct batch sizes and the median of the finite, positive values of each."""
    sizes, found = positive(batch_sizes), np.asarray(values, dtype=np.float64)
    usable = np.isfinite(found) & (found > 0)
    distinct = np.unique(sizes[usable])
    medians = [float(np.median(found[usable & (sizes == size)])) for size in distinct]
    return distinct, np.asarray(medians, dtype=np.float64)


def _line(sizes: Array, values: Array) -> tuple[float, float]:
    """Intercept and slope, neither negative, with the least sum of |line / value - 1|.

    Such a line passes through two of the points, or through one if it is level or starts at 0: so all are tried.
    """
    i, j = np.triu_indices(len(sizes), 1)
    slopes = (values[j] - values[i]) / (sizes[j] - sizes[i])
    level, steep = np.zeros_like(values), values / sizes
    slope = np.concatenate([slopes, level, steep])
    intercept = np.concatenate([values[i] - slopes * sizes[i], values, level])
    errors = np.sum(np.abs((intercept[:, None] + slope[:, None] * sizes) / values - 1), axis=1)
    best = int(np.argmin(np.where((intercept >= 0) & (slope >= 0), errors, np.inf)))
    return float(intercept[best]), float(slope[best])
