"""What batch size does to the number of steps: the law over batch sizes, the critical one, the economical one.

Steps follow S(B) = S_min + E_min / B (McCandlish et al. 2018, eq. 2.11). Batch sizes are in examples, `math.inf` steps
mean that the target was never reached. What cannot be given is NaN: `reason` says why.
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
DRAWS = 500
"""Bootstrap draws: about a dozen lie beyond each end of a 95 % interval."""
REACH = 12.0
"""How far beyond the tested batch sizes a critical one is sought, in logarithms: e^12 is as good as infinite."""
PERFECT, NONE = 1.9, 1.1
"""Steps saved by doubling the batch, as a ratio: above the first all of them, below the second next to none."""


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


def fit_hyperbola(batch_sizes: Sequence[float], steps: Sequence[float], *, seed: int = 0) -> Hyperbola:
    """Least squares in log S, with a residual bootstrap of the critical batch size.

    The residuals are inflated by sqrt(n / (n - 2)): two parameters have taken their share of the scatter. Covers about
    nine times in ten, with four sizes eight. Raises ValueError for a batch size that is not positive.
    """
    sizes, y = _reached(batch_sizes, steps)
    never = sum(math.isinf(value) for value in steps)
    distinct = len(np.unique(sizes))
    if distinct < LEAST_SIZES:
        reason = too_few(LEAST_SIZES, "batch sizes that reach the target", "do", distinct)
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


def too_few(least: int, what: str, verb: str, got: int) -> str:
    """Why a quantity cannot be given."""
    return f"needs at least {least} {what}, but {got} {verb}"


def positive(batch_sizes: Sequence[float]) -> Array:
    """Batch sizes as an array.

    Raises:
        ValueError: if one is not greater than 0.
    """
    sizes = np.asarray(batch_sizes, dtype=np.float64)
    if sizes.size and not np.all(sizes > 0):
        raise ValueError(f"`batch_sizes` must be greater than 0, but got {float(np.min(sizes))}.")
    return sizes


def _reached(batch_sizes: Sequence[float], steps: Sequence[float]) -> tuple[Array, Array]:
    """Batch sizes and log steps of the rows that reach the target; a hit before the first step has no logarithm."""
    sizes, counts = positive(batch_sizes), np.asarray(steps, dtype=np.float64)
    usable = np.isfinite(counts) & (counts > 0)
    return sizes[usable], np.log(counts[usable])


def _curve(batch_sizes: Sequence[float], steps: Sequence[float]) -> list[tuple[float, float]]:
    """Batch size and its fewest steps, by size; sizes of which nothing is known are left out."""
    fewest: dict[float, float] = {}
    for size, count in zip(positive(batch_sizes).tolist(), steps, strict=True):
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
