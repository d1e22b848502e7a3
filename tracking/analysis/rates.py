"""The best learning rate of a cell, read off its trials, and whether it lies at the edge of what was tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Edge = Literal["", "low", "high", "infeasible"]

EDGE = 0.1
"""A best rate within this share of its range from a bound, in logarithms, lies at the edge."""
WINDOW = 1.0
"""How far above the best a trial may lie and still shape the parabola, in units of the log objective."""
LEAST_TRIALS = 4
"""Trials that a parabola needs to leave one residual."""
DRAWS = 400
"""Bootstrap draws of the trials of a cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best learning rate of a cell: the vertex of a parabola through its best trials, over the log of the rate."""

    learning_rate: float = math.nan
    """The vertex; the best trial's own rate where that lies at a bound (the optimum is there or beyond) or where rates
    just above diverge and nothing rises in between. NaN where `reason` says why."""
    low: float = math.nan
    high: float = math.nan
    """95 % interval by a bootstrap over the trials. Where `learning_rate` is a trial's own: the rates tried on both
    sides of it, 0 or infinite on the side of the bound."""
    edge: Edge = ""
    """`low`, `high`: the best trial lies at that bound. `infeasible`: the next higher rate tried diverged."""
    value: float = math.nan
    """The objective there, by the parabola; the trial's where the rate is a trial's own."""
    log_sd: float = math.nan
    """Standard deviation of the log of the rate over the bootstrap."""
    trials: int = 0
    """Trials that shaped the parabola."""
    reason: str | None = None


def edge_of(rate: float, *, bounds: tuple[float, float] | None, tried: Sequence[float], lost: Sequence[float]) -> Edge:
    """Where the best rate lies in its range: at a bound, right below a rate that diverged, or neither (empty)."""
    if bounds is not None and bounds[0] < bounds[1]:
        share = math.log(rate / bounds[0]) / math.log(bounds[1] / bounds[0])
        if share <= EDGE or share >= 1 - EDGE:
            return "low" if share <= EDGE else "high"
    above = min((other for other in (*tried, *lost) if other > rate), default=math.inf)
    return "infeasible" if above in lost else ""


def rate_optimum(
    rates: Sequence[float],
    values: Sequence[float],
    *,
    bounds: tuple[float, float] | None,
    infeasible_rates: Sequence[float] = (),
    seed: int = 0,
) -> Optimum:
    """The best rate of a cell, from the rate and the objective (smaller is better) of each of its feasible trials.

    Positive objectives (a loss, steps to the target) are compared by their logarithms. Others (a negated accuracy) have
    no such scale: there, the distance of the middle trial from the best takes the place of one unit. Trials whose
    objective is not finite are left out.
    """
    pairs = zip(rates, values, strict=True)
    tried = [(float(rate), float(value)) for rate, value in pairs if rate > 0 and math.isfinite(value)]
    if not tried:
        return Optimum(reason="needs at least 1 trial with a finite objective, but 0 have one")
    x = np.log([rate for rate, _ in tried])
    y, unscaled = _scaled([value for _, value in tried])
    best = int(np.argmin(y))
    edge = edge_of(tried[best][0], bounds=bounds, tried=[rate for rate, _ in tried], lost=infeasible_rates)
    near = y <= y[best] + WINDOW
    vertex, height, convex = _vertices(x, y, np.ones((1, len(x))))
    lacking = _lacking(len(np.unique(x[near])), convex=bool(convex[0]))
    if edge in ("low", "high") or (edge == "infeasible" and lacking):
        return _beside(tried[best], [*infeasible_rates, *(rate for rate, _ in tried)], edge, int(near.sum()))
    if lacking:
        return Optimum(reason=lacking)
    draws = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), DRAWS).astype(np.float64)
    spread = _vertices(x, y, draws)[0]
    low, high = np.exp(np.quantile(spread, [0.025, 0.975]))
    return Optimum(
        learning_rate=math.exp(vertex[0]),
        low=float(low),
        high=float(high),
        edge=edge,
        value=unscaled(float(height[0])),
        log_sd=float(np.std(spread)),
        trials=int(near.sum()),
    )


def _lacking(distinct: int, *, convex: bool) -> str | None:
    """What a parabola through so many different rates would need; None: nothing."""
    if distinct < LEAST_TRIALS:
        return f"needs at least {LEAST_TRIALS} rates about as good as the best one, but {distinct} are"
    return None if convex else f"needs a best rate between worse ones, but the {distinct} best rates show none"


def _scaled(values: Sequence[float]) -> tuple[Array, Callable[[float], float]]:
    """The objectives on a scale on which one unit is a fair distance from the best, and the way back."""
    found = np.asarray(values, dtype=np.float64)
    if np.all(found > 0):
        return np.log(found), math.exp
    least = float(found.min())
    unit = float(np.median(found)) - least or 1.0
    return (found - least) / unit, lambda scaled: least + unit * scaled


def _vertices(x: Array, y: Array, counts: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Vertex, height and whether there is a minimum, of a parabola for each row of `counts` (how often a trial counts).

    Only the trials within the window of the row's best shape it. A vertex beyond them is their outermost rate; where
    the parabola has no minimum, the row's best trial stands in.
    """
    drawn = np.where(counts > 0, y, np.inf)
    best = np.argmin(drawn, axis=1)
    shaping = drawn <= (y[best] + WINDOW)[:, None]
    # Around the middle and in units of the spread, so that powers of x are of one size.
    middle, unit = float(x.mean()), float(np.ptp(x)) or 1.0
    z = (x - middle) / unit
    powers = np.stack([np.ones_like(z), z, z**2])
    weighted = powers[None] * (counts * shaping)[:, None]
    normal, right = weighted @ powers.T, weighted @ y
    level, slope, bend = np.moveaxis(np.linalg.pinv(normal, hermitian=True) @ right[:, :, None], 1, 0)[:, :, 0]
    convex = (bend > 1e-9) & (np.sum(shaping, axis=1) > 2)
    place = -slope / np.where(convex, 2 * bend, 1.0)
    lowest, highest = np.where(shaping, z, np.inf).min(axis=1), np.where(shaping, z, -np.inf).max(axis=1)
    place = np.where(convex, np.clip(place, lowest, highest), z[best])
    height = np.where(convex, level + slope * place + bend * place**2, y[best])
    return middle + unit * place, height, convex


def _beside(best: tuple[float, float], tried: Sequence[float], edge: Edge, near: int) -> Optimum:
    """The best trial's own rate: all that is known where it lies at a bound, or below a cliff."""
    rate, value = best
    low = 0.0 if edge == "low" else max((other for other in tried if other < rate), default=rate)
    high = math.inf if edge == "high" else min((other for other in tried if other > rate), default=rate)
    width = math.log(high / low) if low > 0 and high < math.inf else math.inf
    # An interval of 95 % is four standard deviations wide.
    return Optimum(
        learning_rate=rate,
        low=low,
        high=high,
        edge=edge,
        value=value,
        log_sd=width / 4,
        trials=near,
    )
