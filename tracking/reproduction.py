"""Is one training the repetition of another? Pure functions on a curve that MLflow holds and one just measured.

Alone on the CPU, a training is a pure function of its configuration: on a machine of the same kind it comes again to
the bit. In an array, on another processor or on a GPU the same sums are rounded otherwise, and training amplifies what
that changes. Measured on 84 trials of the digits recipe, in arrays and again alone: the training loss up to the first
evaluation differs by 1e-8 of its value (median; above 1e-3 once), the best objective by 6e-7 (median), but by more than
1 % in a quarter of them: those at the edge of stability, which another seed would change as much. So the beginning
tells whether it is the same training, and the best objective whether it has come to the same; 66 of the 84 did.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tracking.projection import AXES, metric_key

EARLY = 1e-3
"""Largest relative difference of the training loss up to the first evaluation, where rounding has hardly grown."""
LATE = 0.02
"""Largest relative difference of the best objective."""
DEVIATIONS = 2
"""Or so many standard deviations of the objective from one late evaluation to the next: it moves as much by itself."""
LAST = 5
"""How many evaluations are the last ones."""
ROUNDING = 1e-6
"""Largest relative difference of what is planned beforehand."""
PLANNED = ("examples", "epoch", "learning_rate")
CLOCK = "seconds"
"""Never the same twice."""

Recorded = Mapping[int, Mapping[str, float]]
"""A curve as MLflow has it: by step, under MLflow's keys."""
Curve = Sequence[Mapping[str, float]]
"""A curve as training gives it: points with their step, under the module's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether it is the same, and what was found, in words."""

    holds: bool
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One number, as it was and as it is now."""

    name: str
    step: int
    before: float
    now: float

    @property
    def equal(self) -> bool:
        """To the bit. What is not finite is all the same: MLflow has every infinity as NaN."""
        return self.before == self.now or not (math.isfinite(self.before) or math.isfinite(self.now))

    @property
    def relative(self) -> float:
        """Difference as a share of the larger of the two; infinite where only one of them is finite."""
        if self.equal:
            return 0.0
        if not (math.isfinite(self.before) and math.isfinite(self.now)):
            return math.inf
        return abs(self.before - self.now) / max(abs(self.before), abs(self.now))

    def __str__(self) -> str:
        """In words, with the step."""
        share = f" ({self.relative:.2g} of its value apart)" if math.isfinite(self.relative) else ""
        return f"{self.name} at step {self.step} was {self.before:.6g} and is {self.now:.6g}{share}"


def pairs(recorded: Recorded, curve: Curve) -> list[Pair]:
    """Every number that both have, by step; without the clock."""
    return [
        Pair(name=name, step=int(point["step"]), before=before[key], now=float(value))
        for point in curve
        if (before := recorded.get(int(point["step"]))) is not None
        for name, value in point.items()
        if name != CLOCK and (key := AXES.get(name) or metric_key(name)) in before
    ]


def to_the_bit(recorded: Recorded, curve: Curve) -> Verdict:
    """Every number must be the same, at the same evaluations."""
    found = pairs(recorded, curve)
    first = next((pair for pair in found if not pair.equal), None)
    if first is not None:
        place = sorted(recorded).index(first.step) + 1
        return Verdict(holds=False, sentence=f"differs at evaluation {place} of {len(recorded)}: {first}")
    if (lacking := _lacking(recorded, curve)) is not None:
        return lacking
    count = "1 evaluation" if len(recorded) == 1 else f"{len(recorded)} evaluations"
    return Verdict(holds=True, sentence=f"equal to the bit: {count}, {len({pair.name for pair in found})} metrics")


def within_tolerance(recorded: Recorded, curve: Curve, config: Mapping[str, Any]) -> Verdict:
    """What is planned must be the same, the training loss at first up to `EARLY`, the best objective up to `LATE`.

    Args:
        config: the `TrainConfig` of both, as plain values.
    """
    found = pairs(recorded, curve)
    # A rate that follows the objective, or that a module sets itself, goes with the curve.
    planned = PLANNED if config["optimizer"] != "own" and config["schedule"] != "plateau" else PLANNED[:-1]
    wrong = next((pair for pair in found if pair.name in planned and pair.relative > ROUNDING), None)
    if wrong is not None:
        return Verdict(holds=False, sentence=f"differs: {wrong}, and no rounding changes that")
    if (lacking := _lacking(recorded, curve)) is not None:
        return lacking
    if not found:
        return Verdict(holds=True, sentence="no evaluation to compare")
    return _trained(found, config)


def _lacking(recorded: Recorded, curve: Curve) -> Verdict | None:
    now = {int(point["step"]) for point in curve}
    other = min(recorded.keys() ^ now, default=None)
    if other is None:
        return None
    was, is_now = ("an evaluation", "none") if other in recorded else ("no evaluation", "one")
    return Verdict(holds=False, sentence=f"differs: at step {other} there was {was}, and there is {is_now}")


def _trained(found: Sequence[Pair], config: Mapping[str, Any]) -> Verdict:
    """The beginning, then the best."""
    objective = config["objective"]
    begin = {pair.name: pair for pair in found if pair.step == found[0].step}
    first = begin.get("train_loss", begin.get(objective, found[0]))
    if first.relative > EARLY:
        sentence = f"differs at the first evaluation: {first}; rounding explains {EARLY:g} at most"
        return Verdict(holds=False, sentence=sentence)
    early = f"{first.name} at the first evaluation is {first.relative:.2g} of its value apart"
    values = [pair for pair in found if pair.name == objective and math.isfinite(pair.before + pair.now)]
    if not values:
        return Verdict(holds=True, sentence=f"within the tolerance: {early} (at most {EARLY:g})")
    best = _best(values, minimize=config["direction"] == "min")
    spread = _spread([pair.before for pair in values])
    told = f"the best {objective} was {best.before:.4g} and is {best.now:.4g}, {best.relative:.2g} of its value apart"
    rule = f"{LATE:g}, or {DEVIATIONS} standard deviations of its last {LAST} evaluations: {DEVIATIONS * spread:.2g}"
    if best.relative <= LATE or abs(best.before - best.now) <= DEVIATIONS * spread:
        return Verdict(
            holds=True, sentence=f"within the tolerance: {early} (at most {EARLY:g}), {told} (at most {rule})"
        )
    why = "This training amplifies rounding; another seed may change as much."
    return Verdict(
        holds=False, sentence=f"begins the same, but comes to another result: {early}, {told} (at most {rule}). {why}"
    )


def _best(values: Sequence[Pair], *, minimize: bool) -> Pair:
    """The best of either, wherever it was."""
    choose = min if minimize else max
    before, now = choose(pair.before for pair in values), choose(pair.now for pair in values)
    return Pair(name=values[0].name, step=values[-1].step, before=before, now=now)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation about a trend, from the differences of neighbours (von Neumann et al. 1941)."""
    moves = [after - before for before, after in pairwise(values[-LAST:])]
    return statistics.stdev(moves) / math.sqrt(2) if len(moves) > 1 else 0.0
