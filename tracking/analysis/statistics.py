"""Statistical comparison of configurations re-run on fresh seeds: intervals, tests, and verdicts that may say "no".

Methodology 1.10. Samples are unpaired unless a name says paired; a difference is always `mean(a) - mean(b)`. Welch's
interval at any number of seeds: with 20 of each, the BCa bootstrap calls the best of four equal configurations better
in 10 % of cases, Welch's interval in 7 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import special, stats

from tracking.analysis.curves import loss, sign

Outcome = Literal["better", "equivalent", "no detectable difference"]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The best configuration against another one."""

    against: str
    difference: float
    """Mean of the best less mean of the other, in the metric's own unit: negative is better where less is."""
    low: float
    high: float
    """Interval of the difference at `confidence`; infinite where none can be given."""
    confidence: float
    """Holm's level for this comparison: 95 % divided among those that are still open."""
    p_value: float
    """Adjusted by Holm; Welch's t, or ranks where `reason` says so."""
    p_better: float
    """Chance that a run of the best is better than one of the other; ties count half."""
    p_low: float
    p_high: float
    """95 % bootstrap interval of that chance."""
    delta: float
    """Difference that counts as none: the pooled standard deviation unless given; NaN where it is not known."""
    within_delta: bool
    """Whether the 90 % interval of the difference lies within +-delta; a detectable difference may, too."""
    detectable: float
    """Difference that so many seeds would find in 80 % of cases; inf where it is not known."""
    outcome: Outcome
    meaning: Meaning
    """Bouthillier's three outcomes; never significant where the difference is not."""
    reason: str | None = None
    """What stands in the way of an interval; None: nothing."""


def compare(
    runs: Mapping[str, Sequence[float]], *, direction: str, delta: float | None = None
) -> tuple[str, list[Verdict]]:
    """The configuration with the best mean, and the verdict of its comparison with each other one, in their order.

    Below 20 seeds the intervals are Welch's, from there on the bootstrap's (BCa). Holm's procedure goes from the
    clearest difference to the least clear and stops at the first interval that contains 0. A run that diverged is
    passed as inf or NaN and counts as worst.
    """
    if not runs or not all(runs.values()):
        raise ValueError("`runs` must hold at least one configuration, and each at least one run.")
    if delta is not None and not 0.0 < delta < math.inf:
        raise ValueError(f"`delta` must be a finite number greater than 0, but got {delta}.")
    worst = sign(direction) * math.inf
    samples = {name: [value if math.isfinite(value) else worst for value in values] for name, values in runs.items()}
    best = min(samples, key=lambda name: _standing(samples[name], direction))
    pairs = [_Pair(best, other, samples[best], samples[other], direction) for other in samples if other != best]
    p_values = [pair.p_value() for pair in pairs]
    levels = _step_down(pairs, p_values)
    adjusted = holm(p_values)
    return best, [
        _verdict(pair, level, p_value=p_value, delta=delta)
        for pair, level, p_value in zip(pairs, levels, adjusted, strict=True)
    ]


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


def _standing(values: Sequence[float], direction: str) -> tuple[float, float]:
    """Share of the runs that diverged, and the mean loss of the others: less is better."""
    known = [value for value in values if math.isfinite(value)]
    return 1.0 - len(known) / len(values), sign(direction) * statistics.fmean(known) if known else math.inf


@dataclass(frozen=True, slots=True)
class _Pair:
    """The best configuration's runs (`a`) and another one's (`b`), with how they can be compared."""

    best: str
    other: str
    a: list[float]
    b: list[float]
    direction: str

    def obstacle(self) -> str | None:
        """What stands in the way of an interval of the difference of means."""
        for name, values in ((self.best, self.a), (self.other, self.b)):
            if len(values) < 2:
                return f"needs at least 2 runs of each configuration, but `{name}` has {len(values)}"
            if wrong := sum(not math.isfinite(value) for value in values):
                return f"compared by ranks, without an interval: {wrong} of {len(values)} runs of `{name}` diverged"
        if len(set(self.a)) == len(set(self.b)) == 1:
            return f"compared by ranks, without an interval: runs of `{self.best}` and of `{self.other}` never differ"
        return None

    def p_value(self) -> float:
        """Welch's p, or that of the exact rank test (10,000 draws of it where it has more cases); 1 with one run."""
        if min(len(self.a), len(self.b)) < 2:
            return 1.0
        if self.obstacle() is None:
            return welch_p(self.a, self.b)
        method = stats.PermutationMethod(n_resamples=10_000, rng=np.random.default_rng(0))
        return float(stats.mannwhitneyu(self.a, self.b, method=method).pvalue)

    def interval(self, confidence: float) -> Interval:
        """Interval of the difference of means: the whole line where there is an obstacle."""
        if self.obstacle() is not None:
            return -math.inf, math.inf
        return welch_interval(self.a, self.b, confidence=confidence)

    def spread(self) -> float:
        """Pooled standard deviation of the runs that have a value; NaN where nothing repeats."""
        known = [[value for value in values if math.isfinite(value)] for values in (self.a, self.b)]
        repeated = [values for values in known if len(values) > 1]
        freedom = sum(len(values) - 1 for values in repeated)
        squares = sum((len(values) - 1) * float(np.var(values, ddof=1)) for values in repeated)
        return math.sqrt(squares / freedom) if freedom else math.nan


class _Level(NamedTuple):
    """The interval of one comparison at the confidence that Holm's procedure gives it."""

    confidence: float
    low: float
    high: float
    differs: bool


def _step_down(pairs: Sequence[_Pair], p_values: Sequence[float]) -> list[_Level]:
    """Holm's procedure with intervals: for each pair the one at its own level.

    From the first pair that does not differ on, the level stays and no pair does.
    """
    levels: dict[int, _Level] = {}
    confidence, going = 1.0 - ALPHA, True
    for place, index in enumerate(sorted(range(len(pairs)), key=lambda index: p_values[index])):
        confidence = 1.0 - ALPHA / (len(pairs) - place) if going else confidence
        low, high = pairs[index].interval(confidence)
        by_ranks = pairs[index].obstacle() is not None
        differs = p_values[index] <= 1.0 - confidence if by_ranks else not low <= 0.0 <= high
        going = going and differs
        levels[index] = _Level(confidence, low, high, going)
    return [levels[index] for index in range(len(pairs))]


def _verdict(pair: _Pair, level: _Level, *, p_value: float, delta: float | None) -> Verdict:
    spread = pair.spread()
    limit = spread if delta is None else delta
    near = pair.interval(0.90)
    within = -limit <= near[0] and near[1] <= limit
    p_better, p_low, p_high = probability_better(pair.a, pair.b, direction=pair.direction)
    runs = 2.0 / (1.0 / len(pair.a) + 1.0 / len(pair.b))
    return Verdict(
        against=pair.other,
        difference=statistics.fmean(pair.a) - statistics.fmean(pair.b),
        low=level.low,
        high=level.high,
        confidence=level.confidence,
        p_value=p_value,
        p_better=p_better,
        p_low=p_low,
        p_high=p_high,
        delta=limit,
        within_delta=within,
        detectable=math.inf if math.isnan(spread) else detectable(spread, runs),
        outcome="better" if level.differs else "equivalent" if within else "no detectable difference",
        meaning=meaning(p_low, p_high) if level.differs else "not significant",
        reason=pair.obstacle(),
    )


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
