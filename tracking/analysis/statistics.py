"""Intervals, tests and numbers of runs for comparing samples of a metric, one value a seed (methodology 1.10).

Samples are unpaired unless a name says paired; a difference is always `mean(a) - mean(b)`. Welch's
interval at any number of seeds: with 20 of each, the BCa bootstrap calls the best of four equal configurations better
in 10 % of cases, Welch's interval in 7 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import special

from tracking.analysis.curves import loss

Meaning = Literal["not significant", "significant, not meaningful", "significant and meaningful"]
Interval = tuple[float, float]

ALPHA = 0.05
"""Chance, over all comparisons with the best together, of calling any equal configuration worse."""
POWER = 0.8
"""Chance of finding a difference as large as `detectable` says."""
MEANINGFUL = 0.75
"""Probability of being better from which a difference matters (Bouthillier et al. 2021)."""
DRAWS = 2000
EXACT_SIGNS = 20
"""Pairs up to which all 2^n signs are tried; a million sums take 8 MB."""


def welch_interval(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Welch's t interval of the difference of means; unequal variances and counts are allowed."""
    difference, error, freedom = _welch(a, b)
    reach = float(special.stdtrit(freedom, 0.5 + confidence / 2.0)) * error if error > 0.0 else 0.0
    return difference - reach, difference + reach


def welch_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t test; it is below 1 - c where the interval of confidence c excludes 0."""
    difference, error, freedom = _welch(a, b)
    if error == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    return float(2.0 * special.stdtr(freedom, -abs(difference) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order: reject what comes out at most at the level for all of them."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def probability_better(
    a: Sequence[float], b: Sequence[float], *, direction: str, seed: int = 0
) -> tuple[float, float, float]:
    """Chance that a run of `a` is better than one of `b`, and its 95 % percentile-bootstrap interval.

    Ties count half: the Mann-Whitney statistic over the product of both counts.
    """
    if not a or not b:
        raise ValueError(f"`a` and `b` must have at least 1 run each, but got {len(a)} and {len(b)}.")
    first, second = (np.array([loss(value, direction) for value in values]) for values in (a, b))
    wins = (first[:, None] < second) + 0.5 * (first[:, None] == second)
    random = np.random.default_rng(seed)
    # How often a resample holds each run, as shares: one product gives all the resampled means at once.
    rows, columns = (random.multinomial(n, [1.0 / n] * n, size=DRAWS) / n for n in wins.shape)
    low, high = np.quantile(((rows @ wins) * columns).sum(axis=1), (0.025, 0.975))
    return float(wins.mean()), float(low), float(high)


def paired_interval(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `a_i - b_i`: only where pairs share initialization, data order and batch."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"`a` and `b` must be equally many and at least 2, but got {len(a)} and {len(b)}.")
    deltas = [x - y for x, y in zip(a, b, strict=True)]
    middle, error = statistics.fmean(deltas), statistics.stdev(deltas) / math.sqrt(len(deltas))
    reach = float(special.stdtrit(len(deltas) - 1, 0.5 + confidence / 2.0)) * error
    return middle - reach, middle + reach


def sign_flip_p(deltas: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of paired differences under all changes of sign; at least 2 / 2^n, so 6 pairs make 5 % possible.

    Beyond 20 pairs, 100,000 random changes stand for all.
    """
    values = np.asarray(deltas, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("`deltas` must hold at least one number, and only finite ones.")
    observed = abs(float(values.sum()))
    # Two orders of one sum differ by rounding.
    least = observed - 1e-12 * float(np.abs(values).sum())
    if values.size > EXACT_SIGNS:
        signs = np.random.default_rng(seed).integers(0, 2, size=(100_000, values.size), dtype=np.int8) * 2 - 1
        # The observed signs are one of the draws: p is never 0.
        return float((1 + (np.abs(signs @ values) >= least).sum()) / (1 + len(signs)))
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= least).mean())


def noether_runs(gamma: float = MEANINGFUL, alpha: float = ALPHA, beta: float = ALPHA) -> int:
    """Runs that find a probability of being better of `gamma` with chance 1 - beta (Noether 1987)."""
    if not 0.5 < gamma < 1.0:
        raise ValueError(f"`gamma` must be a probability in (0.5, 1), but got {gamma}.")
    z = special.ndtri(1.0 - alpha) - special.ndtri(beta)
    return math.ceil((float(z) / (math.sqrt(6.0) * (0.5 - gamma))) ** 2)


def detectable(sd: float, runs: float) -> float:
    """Difference of means that so many runs of each find in 80 % of cases at 5 %: 2.80 SD sqrt(2 / runs)."""
    return float((special.ndtri(1.0 - ALPHA / 2.0) + special.ndtri(POWER)) * sd * math.sqrt(2.0 / runs))


def meaning(p_low: float, p_high: float) -> Meaning:
    """What the interval of the probability of being better says (Bouthillier et al. 2021)."""
    if p_low <= 0.5:
        return "not significant"
    return "significant and meaningful" if p_high > MEANINGFUL else "significant, not meaningful"


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Difference of means, its standard error, and Welch-Satterthwaite's degrees of freedom (NaN without any error)."""
    if len(a) < 2 or len(b) < 2 or not np.isfinite([*a, *b]).all():
        raise ValueError(f"`a` and `b` must have at least 2 finite values each, but got {list(a)} and {list(b)}.")
    # Equal values have a mean of their own and no variance, which rounding would deny.
    (first, one), (second, two) = (
        (statistics.fmean(values), float(np.var(values, ddof=1)) / len(values))
        if len(set(values)) > 1
        else (values[0], 0.0)
        for values in (a, b)
    )
    rest = one**2 / (len(a) - 1) + two**2 / (len(b) - 1)
    return first - second, math.sqrt(one + two), (one + two) ** 2 / rest if rest else math.nan
