"""What a budget buys: expected running time, survival, medians of minima, performance profiles, expected best of n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracking.analysis.convergence import Convergence
from tracking.analysis.curves import sign

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Survival:
    """Kaplan-Meier's estimate of a time to target."""

    median: float
    """First time by which half have arrived; inf: fewer than half did while they were watched."""
    restricted_mean: float
    """Mean of the time to target, counted up to `horizon` at most."""
    horizon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PerformanceProfile:
    """One method's times over several tasks, relative to the best method on each."""

    ratios: tuple[float, ...]
    """Time over the best time of any method; inf: never."""
    score: float
    """Area under `share` from 1 to the largest ratio that counts, in [0, 1]."""

    def share(self, within: float) -> float:
        """Share of the tasks solved within so many times the best time."""
        return sum(ratio <= within for ratio in self.ratios) / len(self.ratios)


def expected_running_time(times: Sequence[float], hits: Sequence[bool]) -> float:
    """Time spent until a hit if one starts anew after each miss: all time spent over the hits; inf without a hit.

    The time of a miss is the time after which it was given up.
    """
    total = sum(time for time, _ in zip(times, hits, strict=True))
    return total / sum(hits) if any(hits) else math.inf


def times_to_target(records: Sequence[Convergence]) -> tuple[list[float], list[bool]]:
    """Steps and whether they are hits, for `kaplan_meier`.

    Pruned trials and those at the end of their budget are censored at their last step; an infeasible one is watched
    for ever and never arrives.
    """
    events = [record.feasible and record.hit is not None for record in records]
    watched = [record.censored_at if record.feasible else math.inf for record in records]
    pairs = zip(records, events, watched, strict=True)
    return [record.arrival if event else censored for record, event, censored in pairs], events


def kaplan_meier(times: Sequence[float], events: Sequence[bool], *, horizon: float | None = None) -> Survival:
    """Median and restricted mean of the time to an event, where some are censored at their time.

    What never arrives is censored at inf. Without a `horizon` the mean is restricted to the last finite time.
    """
    watched, happened = np.asarray(times, dtype=float), np.asarray(events, dtype=bool)
    if watched.size == 0 or watched.shape != happened.shape:
        raise ValueError(
            f"`times` and `events` must be equally many and at least 1, but got {len(times)}, {len(events)}."
        )
    if np.isnan(watched).any() or np.isinf(watched[happened]).any():
        raise ValueError("`times` must be numbers, and finite where an event happened.")
    moments = np.unique(watched[happened])
    at_risk = (watched >= moments[:, None]).sum(axis=1)
    arrived = (watched[happened] == moments[:, None]).sum(axis=1)
    alive = np.cumprod([1.0, *(1.0 - arrived / at_risk)])
    end = max(watched[np.isfinite(watched)].tolist(), default=math.inf) if horizon is None else horizon
    if watched.max() < end and alive[-1] > 0.0:
        raise ValueError(f"`horizon` must be at most {watched.max():g}, the longest time watched, but got {end:g}.")
    edges = np.clip(np.array([0.0, *moments, end]), None, end)
    # Products of shares that make one half exactly in arithmetic miss it by rounding.
    half = moments[alive[1:] <= 0.5 + 1e-12]
    return Survival(
        median=float(half[0]) if half.size else math.inf,
        restricted_mean=float(np.diff(edges) @ alive),
        horizon=end,
    )


def aggregate(studies: Sequence[Sequence[float]]) -> float:
    """Median over repeated studies of their fastest trial; a miss is inf and takes part (AlgoPerf)."""
    if not studies:
        raise ValueError("`studies` must hold at least one study, but it is empty.")
    return float(np.median([min(study, default=math.inf) for study in studies]))


def performance_profile(times: Mapping[str, Sequence[float]], *, largest: float = 4.0) -> dict[str, PerformanceProfile]:
    """Profiles of methods over the same tasks in the same order; inf: never. Ratios beyond `largest` score nothing."""
    rows = np.array(list(times.values()), dtype=float)
    if rows.ndim != 2 or rows.size == 0 or not (rows > 0.0).all():
        raise ValueError("`times` must give every method a positive time, or inf, for each of the same tasks.")
    if largest <= 1.0:
        raise ValueError(f"`largest` must be greater than 1, but got {largest}.")
    fastest = rows.min(axis=0)
    # Where nobody arrived, nobody is near the best.
    ratios = np.divide(rows, fastest, out=np.full(rows.shape, math.inf), where=np.isfinite(fastest))
    # The exact integral of a step function: each task counts from its ratio on.
    scores = np.maximum(0.0, 1.0 - (ratios - 1.0) / (largest - 1.0)).mean(axis=1)
    return {
        name: PerformanceProfile(ratios=tuple(row.tolist()), score=float(score))
        for name, row, score in zip(times, ratios, scores, strict=True)
    }


def expected_best(
    values: Sequence[float], *, direction: str, upto: int | None = None, with_replacement: bool = False
) -> list[float]:
    """Expected best of n trials drawn from these, for n = 1, 2, ..., `upto` (default: all).

    Unbiased (U-statistic, Tang et al. 2020), or with replacement (Dodge et al. 2019), which is a lower bound of what n
    trials bring. Valid for trials drawn at random or quasi-random, not for those an adaptive sampler proposed; trust
    it up to half of the trials. A value that is not finite is worst: the expectation is infinite as long as a draw of
    n may hold no other.

    Raises:
        ValueError: if `upto` exceeds the number of trials.
    """
    ranked = _best_first(np.asarray(values, dtype=float)[None, :], direction)
    weights = _weights(len(values), _draws(len(values), upto), with_replacement)
    return [float(best) for best in sign(direction) * _expectations(ranked, weights)[0]]


def expected_best_band(
    values: Sequence[float], *, direction: str, upto: int | None = None, confidence: float = 0.8, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Pointwise percentile-bootstrap band around the unbiased `expected_best`: its low and its high ends, by n."""
    draws = _draws(len(values), upto)
    if not draws:
        return [], []
    random = np.random.default_rng(seed)
    resampled = random.choice(np.asarray(values, dtype=float), size=(1000, len(values)))
    best = _expectations(_best_first(resampled, direction), _weights(len(values), draws, False))
    # An interpolated quantile between two infinities is NaN: a drawn value itself is none.
    tails = ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0)
    low, high = np.quantile(sign(direction) * best, tails, axis=0, method="inverted_cdf")
    return low.tolist(), high.tolist()


def _draws(trials: int, upto: int | None) -> int:
    draws = trials if upto is None else upto
    if not 0 <= draws <= trials:
        raise ValueError(
            f"`upto` must be at most {trials} (the number of trials), but got {draws}: nothing is extrapolated."
        )
    return draws


def _best_first(values: Floats, direction: str) -> Floats:
    """Rows of losses in rising order; what is not finite counts as inf."""
    ranked: Floats = np.sort(np.where(np.isfinite(values), sign(direction) * values, math.inf), axis=1)
    return ranked


def _expectations(ranked: Floats, weights: Floats) -> Floats:
    finite = np.isfinite(ranked)
    sums = np.where(finite, ranked, 0.0) @ weights.T
    # A weight of zero times inf would be NaN: infinite is what gives a positive weight to an infinite value.
    bests: Floats = np.where(~finite @ (weights.T > 0.0), math.inf, sums)
    return bests


def _weights(trials: int, draws: int, with_replacement: bool) -> Floats:
    """Shape (draws, trials): probability that the best of n is the one of rank r, best first."""
    if not trials:
        return np.zeros((draws, 0))
    n, r = np.arange(1, draws + 1)[:, None], np.arange(1, trials + 1)[None, :]
    if with_replacement:
        weights: Floats = ((trials - r + 1) / trials) ** n - ((trials - r) / trials) ** n
        return weights
    # C(N-r, n-1) / C(N, n) by its ratio from rank to rank: no factorial overflows.
    ratios = np.maximum(trials - n - r[:, :-1] + 1, 0) / (trials - r[:, :-1])
    products: Floats = np.cumprod(np.hstack([n / trials, ratios]), axis=1)
    return products
