"""What batch size does: steps to the target against it, step time, memory, and the batch that arrives soonest.

Steps follow S(B) = S_min + E_min / B (McCandlish et al. 2018, eq. 2.11), a step takes a + b B seconds. Batch sizes are
in examples, `math.inf` steps mean that the target was never reached. What cannot be given is NaN: `reason` says why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_SIZES = 4
"""Batch sizes that a fit of two parameters needs to leave two residuals."""
LEAST_TIMES = 3
"""Batch sizes that a line through step times or memory needs, so that one of them can be wrong."""
DRAWS = 500
"""Bootstrap draws: about a dozen lie beyond each end of a 95 % interval."""
REACH = 12.0
"""How far beyond the tested batch sizes a critical one is sought, in logarithms: e^12 is as good as infinite."""
PERFECT, NONE = 1.9, 1.1
"""Steps saved by doubling the batch, as a ratio: above the first all of them, below the second next to none."""
MARGIN = 0.05
"""Share of the memory left free (the margin of Lightning's batch-size finder)."""
FLAT = 0.1
"""A time within this share of the shortest counts as equally good."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperbola:
    """Steps to the target S(B) = s_min + e_min / B, and where its two halves meet."""

    s_min: float = math.nan
    """Steps that no batch size saves. Only describes the tested sizes where not `bracketed`."""
    e_min: float = math.nan
    """Examples that no batch size saves. Only describes the tested sizes where not `bracketed`."""
    critical: float = math.nan
    """e_min / s_min: twice the least steps and twice the least examples. The outermost tested size where `bound` is."""
    low: float = math.nan
    """Lower end of the approximate 95 % interval of `critical`."""
    high: float = math.nan
    """Upper end; infinite where the sweep gives none."""
    residual: float = math.nan
    """Root mean square of the residuals of log S."""
    bracketed: bool = False
    """Whether tested sizes lie on both sides of `critical`."""
    bound: Literal["", "at least", "at most"] = ""
    """What `critical` is where not `bracketed`."""
    points: int = 0
    """Rows that were fitted."""
    never: int = 0
    """Rows that never reached the target: left out of the fit."""
    reason: str | None = None

    def steps(self, batch_size: float) -> float:
        """Steps to the target at a batch size."""
        return self.s_min + self.e_min / batch_size


class Regime(NamedTuple):
    """What the way from one batch size to the next larger one saves."""

    small: float
    large: float
    ratio: float
    """S(B) / S(2B): per doubling, whatever the distance between the two sizes."""
    label: Literal["perfect scaling", "diminishing returns", "maximal data parallelism"]


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


def fit_hyperbola(batch_sizes: Sequence[float], steps: Sequence[float], *, seed: int = 0) -> Hyperbola:
    """Least squares in log S, with a residual bootstrap of the critical batch size.

    The residuals are inflated by sqrt(n / (n - 2)): two parameters have taken their share of the scatter. Covers about
    nine times in ten, with four sizes eight. Raises ValueError for a batch size that is not positive.
    """
    sizes, y = _reached(batch_sizes, steps)
    never = sum(math.isinf(value) for value in steps)
    distinct = len(np.unique(sizes))
    if distinct < LEAST_SIZES:
        reason = _too_few(LEAST_SIZES, "batch sizes that reach the target", "do", distinct)
        return Hyperbola(points=len(sizes), never=never, reason=reason)
    place = float(_critical(sizes, y[None, :])[0])
    shape = np.log1p(np.exp(place) / sizes)
    log_s_min = float(np.mean(y - shape))
    errors = y - shape - log_s_min
    draws = np.random.default_rng(seed).choice(errors, (DRAWS, len(y))) * math.sqrt(len(y) / (len(y) - 2))
    ends = np.quantile(_critical(sizes, y - errors + draws), [0.025, 0.975])
    critical, low, high = (_unlogged(sizes, float(log)) for log in (place, *ends))
    bound, outside = _bound(sizes, critical)
    return Hyperbola(
        s_min=math.exp(log_s_min),
        e_min=math.exp(log_s_min + place),
        critical={"": critical, "at least": float(sizes.max()), "at most": float(sizes.min())}[bound],
        # Beyond what was tested an end says how the noise fell, nothing of the training.
        low=0.0 if bound == "at most" else low,
        high=math.inf if bound == "at least" else high,
        residual=float(np.sqrt(np.mean(errors**2))),
        bracketed=not bound,
        bound=bound,
        points=len(sizes),
        never=never,
        reason=outside,
    )


def economical_batch(batch_sizes: Sequence[float], steps: Sequence[float], *, factor: float = 1.2) -> float:
    """The largest batch size whose examples to the target are at most `factor` times the least (Zhang et al. 2024).

    Interpolated in logarithms towards the next larger size if that one reaches the target. Free of any model; NaN where
    no size reaches the target.
    """
    curve = _curve(batch_sizes, steps)
    examples = {size: size * count for size, count in curve}
    if not examples or math.isinf(min(examples.values())):
        return math.nan
    limit = factor * min(examples.values())
    sizes = list(examples)
    last = max(position for position, size in enumerate(sizes) if examples[size] <= limit)
    size, following = sizes[last], sizes[last + 1] if last + 1 < len(sizes) else math.inf
    if math.isinf(examples.get(following, math.inf)):
        return size
    share = math.log(limit / examples[size]) / math.log(examples[following] / examples[size])
    return float(size * (following / size) ** share)


def regimes(batch_sizes: Sequence[float], steps: Sequence[float]) -> list[Regime]:
    """What each next larger batch size saves, from small to large, among those that reach the target.

    The names are those of Shallue et al. 2019, the thresholds our own.
    """
    curve = [(size, count) for size, count in _curve(batch_sizes, steps) if math.isfinite(count)]
    found = []
    for (small, before), (large, after) in itertools.pairwise(curve):
        ratio = (before / after) ** (math.log(2) / math.log(large / small))
        found.append(Regime(small, large, ratio, _label(ratio)))
    return found


def fit_step_time(batch_sizes: Sequence[float], seconds: Sequence[float]) -> StepTime:
    """The line through the medians of each batch size that has the least sum of relative errors.

    Absolute values instead of squares: a size that was timed while something else ran does not move the line.
    """
    sizes, times = _medians(batch_sizes, seconds)
    if len(sizes) < LEAST_TIMES:
        reason = _too_few(LEAST_TIMES, "batch sizes with a step time", "have one", len(sizes))
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
        reason = _too_few(LEAST_TIMES, "batch sizes with a measured peak of memory", "have one", len(sizes))
        return Memory(reason=reason)
    fixed, per_example = _line(sizes, peaks)
    room = (1 - MARGIN) * limit - fixed
    largest = float(room // per_example) if per_example > 0 else math.inf
    if room < max(per_example, 0.0):
        reason = f"`limit` must leave room for one example beside the fixed {fixed:.4g} bytes, but got {limit:.4g}."
        return Memory(fixed=fixed, per_example=per_example, reason=reason)
    return Memory(fixed=fixed, per_example=per_example, largest=largest)


def _too_few(least: int, what: str, verb: str, got: int) -> str:
    return f"needs at least {least} {what}, but {got} {verb}"


def _positive(batch_sizes: Sequence[float]) -> Array:
    sizes = np.asarray(batch_sizes, dtype=np.float64)
    if sizes.size and not np.all(sizes > 0):
        raise ValueError(f"`batch_sizes` must be greater than 0, but got {float(np.min(sizes))}.")
    return sizes


def _reached(batch_sizes: Sequence[float], steps: Sequence[float]) -> tuple[Array, Array]:
    """Batch sizes and log steps of the rows that reach the target; a hit before the first step has no logarithm."""
    sizes, counts = _positive(batch_sizes), np.asarray(steps, dtype=np.float64)
    usable = np.isfinite(counts) & (counts > 0)
    return sizes[usable], np.log(counts[usable])


def _curve(batch_sizes: Sequence[float], steps: Sequence[float]) -> list[tuple[float, float]]:
    """Batch size and its fewest steps, by size; sizes of which nothing is known are left out."""
    fewest: dict[float, float] = {}
    for size, count in zip(_positive(batch_sizes).tolist(), steps, strict=True):
        if count > 0:
            fewest[size] = min(count, fewest.get(size, math.inf))
    return sorted(fewest.items())


def _label(ratio: float) -> Literal["perfect scaling", "diminishing returns", "maximal data parallelism"]:
    if ratio > PERFECT:
        return "perfect scaling"
    return "diminishing returns" if ratio >= NONE else "maximal data parallelism"


def _critical(sizes: Array, y: Array) -> Array:
    """Log of the critical batch size of each row of `y` (log S, shape [draws, points]), within the reach.

    For a given critical size c, log S is log S_min + log(1 + c / B), and the best S_min is a mean: what is left is a
    search along one axis, which has no start to choose and cannot run away. A grid, then Gauss-Newton from its minimum.
    """
    lowest, highest = float(np.log(sizes.min())) - REACH, float(np.log(sizes.max())) + REACH
    grid = np.linspace(lowest, highest, 400)
    shapes = _centred(np.log1p(np.exp(grid)[:, None] / sizes))
    target = _centred(y)
    # |target - shape|^2 without the term that is the same for every shape.
    place = grid[np.argmin(np.sum(shapes**2, axis=1) - 2 * target @ shapes.T, axis=1)]
    stride = grid[1] - grid[0]
    for _ in range(15):
        ratio: Array = np.exp(place)[:, None] / sizes
        slope = _centred(ratio / (1 + ratio))
        step = np.sum(slope * (target - _centred(np.log1p(ratio))), axis=1) / (np.sum(slope**2, axis=1) + 1e-300)
        place = np.clip(place + np.clip(step, -stride, stride), lowest, highest)
    return np.asarray(place, dtype=np.float64)


def _centred(rows: Array) -> Array:
    centred: Array = rows - rows.mean(axis=-1, keepdims=True)
    return centred


def _unlogged(sizes: Array, log: float) -> float:
    """The critical size; 0 or infinite where the search ended at its reach."""
    if log > math.log(sizes.max()) + REACH - 1:
        return math.inf
    return 0.0 if log < math.log(sizes.min()) - REACH + 1 else math.exp(log)


def _bound(sizes: Array, critical: float) -> tuple[Literal["", "at least", "at most"], str | None]:
    """Whether the sweep only bounds the critical size, and the sentence that says so."""
    smallest, largest = float(sizes.min()), float(sizes.max())
    if critical > largest:
        return (
            "at least",
            f"needs a batch size above the critical one, which is at least {largest:g}, the largest tested",
        )
    if critical < smallest:
        return (
            "at most",
            f"needs a batch size below the critical one, which is at most {smallest:g}, the smallest tested",
        )
    return "", None


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
    sizes, found = _positive(batch_sizes), np.asarray(values, dtype=np.float64)
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
