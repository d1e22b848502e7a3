"""What trials that wait at a rung are expected to come to, by what became of those that went on from there.

A sampler such as TPE takes a complete trial for better than any that was stopped, whatever their losses (Optuna sorts
them so), and the first one to come to its end would draw all proposals to itself. On one scale it does not. BOHB has
one model for each rung instead (Falkner et al. 2018), which needs more trials.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ENOUGH = 3
"""So many of a pool must have gone on from a rung before it is their change that counts; before that, that of all."""


class Course(NamedTuple):
    """What a trial has come to: at each rung that it has reached and, if it is complete, in the end."""

    pool: str
    """Whose losses fall alike."""
    losses: Sequence[float]


def foreseen(courses: Mapping[int, Course], *, stages: int) -> dict[int, float]:
    """The loss of each trial in the end: its own, or its last one and the median change of others from there on.

    Trials without a finite last loss are left out; `stages` is how many losses a complete trial has.
    """
    changes: defaultdict[tuple[str | None, int], list[float]] = defaultdict(list)
    for pool, losses in courses.values():
        for stage, (before, after) in enumerate(zip(losses, losses[1:], strict=False)):
            if math.isfinite(after - before):
                changes[pool, stage].append(after - before)
                changes[None, stage].append(after - before)
    usual = {place: statistics.median(found) for place, found in changes.items()}

    def rest(pool: str, stage: int) -> float:
        own = (pool, stage) if len(changes.get((pool, stage), ())) >= ENOUGH else (None, stage)
        return usual.get(own, 0.0)

    return {
        number: losses[-1] + sum(rest(pool, stage) for stage in range(len(losses) - 1, stages - 1))
        for number, (pool, losses) in courses.items()
        if losses and math.isfinite(losses[-1])
    }
