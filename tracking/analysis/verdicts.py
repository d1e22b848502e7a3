"""The best configuration against each other one on fresh seeds: verdicts that may say "no difference"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from tracking.analysis.curves import sign
from tracking.analysis.statistics import (
    ALPHA,
    Interval,
    Meaning,
    detectable,
    holm,
    meaning,
    probability_better,
    welch_interval,
    welch_p,
)

Outcome = Literal["better", "equivalent", "no detectable difference"]


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

    The intervals are Welch's. Holm's procedure goes from the clearest difference to the least clear and stops at the
    first interval that contains 0. A run that diverged is passed as inf or NaN and counts as worst.
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
