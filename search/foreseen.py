"""What trials that wait at a rung are expected to come to, by what became of those that went on from there.

A sampler such as TPE takes a complete trial for better than any that was stopped, whatever their losses (Optuna sorts
them so), and the first one to come to its end would draw all proposals to itself. On one scale it does not. BOHB has
one model for each rung instead (Falkner et al. 2018), which needs more trials.

Those that went on were the best of their rung, and in part lucky: what is behind catches up. So from a rung to the next
lies a line (of the logarithm, where all losses are positive) and not one change for all. That only the best went on
does not bend it: they were chosen by the loss that it starts from.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WEIGHT = 3
"""Trainings that what is taken of a line beforehand counts for: that its slope is 1, and a pool like the others."""


class Course(NamedTuple):
    """What a trial has come to: at each rung that it has reached and, if it is complete, in the end."""

    pool: str
    """Whose losses fall alike."""
    losses: Sequence[float]


@dataclass(frozen=True, slots=True)
class Line:
    """From the loss at a rung to that at the next: one slope for all, an intercept for each pool."""

    slope: float = 1.0
    intercept: float = 0.0
    intercepts: Mapping[str, float] = field(default_factory=dict)

    def after(self, pool: str, before: float) -> float:
        """The loss at the next rung."""
        return self.slope * before + self.intercepts.get(pool, self.intercept)


def foreseen(courses: Mapping[int, Course], *, stages: int) -> dict[int, float]:
    """The loss of each trial in the end: its own, or what lines from its last rung on come to.

    Trials without a finite last loss are left out; `stages` is how many losses a complete trial has.
    """
    scale, back = _scale(courses)
    known = {
        number: Course(pool, [scale(loss) if math.isfinite(loss) else loss for loss in losses])
        for number, (pool, losses) in courses.items()
        if losses and math.isfinite(losses[-1])
    }
    lines = [_line(known, stage) for stage in range(stages - 1)]
    found: dict[int, float] = {}
    for number, (pool, losses) in known.items():
        loss = losses[-1]
        for line in lines[len(losses) - 1 :]:
            loss = line.after(pool, loss)
        found[number] = back(loss) if len(losses) < stages else courses[number].losses[-1]
    return found


def _scale(courses: Mapping[int, Course]) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """On which scale lines are straight, and the way back."""
    every = (loss for course in courses.values() for loss in course.losses)
    return (math.log, math.exp) if all(loss > 0 for loss in every) else (float, float)


def _line(courses: Mapping[int, Course], stage: int) -> Line:
    """Least squares within the pools for the slope, medians for the intercepts, both drawn to what is taken before."""
    pools: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for pool, losses in courses.values():
        if len(losses) > stage + 1 and math.isfinite(losses[stage + 1] - losses[stage]):
            pools[pool].append((losses[stage], losses[stage + 1]))
    if not pools:
        return Line()
    slope = _slope(list(pools.values()))
    rests = {pool: [after - slope * before for before, after in pairs] for pool, pairs in pools.items()}
    usual = statistics.median(rest for found in rests.values() for rest in found)
    own = {
        pool: (len(found) * statistics.median(found) + WEIGHT * usual) / (len(found) + WEIGHT)
        for pool, found in rests.items()
    }
    return Line(slope, usual, own)


def _slope(pools: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Never a falling one: a better loss at a rung is no worse sign."""
    square = product = 0.0
    for pairs in pools:
        middle = statistics.fmean(before for before, _ in pairs)
        square += sum((before - middle) ** 2 for before, _ in pairs)
        product += sum((before - middle) * after for before, after in pairs)
    if square == 0:
        return 1.0
    prior = WEIGHT / sum(map(len, pools))
    return max(0.0, (product / square + prior) / (1.0 + prior))
