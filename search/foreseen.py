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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WEIGHT = 3
"""Trainings that what is taken of a line beforehand counts for: that its slope is 1, and a pool like the others."""
FEW, PART = 1000, 0.05
"""Up to so many trials lines are always found anew; of more, once this part of them has moved on."""


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


@dataclass(frozen=True, slots=True)
class Lines:
    """All lines of a search, one after each rung."""

    each: Sequence[Line]
    logarithmic: bool
    """Whether they are of logarithms."""

    def end(self, course: Course) -> float | None:
        """The loss of a trial in the end: its own, or what lines from its last rung on come to; None without any."""
        pool, losses = course
        if not losses or not math.isfinite(losses[-1]):
            return None
        if len(losses) > len(self.each):
            return losses[-1]
        loss = math.log(losses[-1]) if self.logarithmic else losses[-1]
        for line in self.each[len(losses) - 1 :]:
            loss = line.after(pool, loss)
        return math.exp(loss) if self.logarithmic else loss


def lines_of(courses: Iterable[Course], *, stages: int) -> Lines:
    """The lines that became of these; `stages` is how many losses a complete trial has."""
    known = [(pool, losses) for pool, losses in courses if losses and math.isfinite(losses[-1])]
    logarithmic = all(map(_is_positive, known))
    scale = math.log if logarithmic else float
    scaled = [Course(pool, [scale(loss) if math.isfinite(loss) else loss for loss in losses]) for pool, losses in known]
    return Lines([_line(scaled, stage) for stage in range(stages - 1)], logarithmic)


class Outlook:
    """What the trials of a search under way will come to.

    Of many, the lines are found anew only once a part of the trials has moved on, and others are foreseen by the lines
    as they are: a search of ten thousand trials does not look through all of them before every proposal.
    """

    def __init__(self, *, stages: int) -> None:
        self._stages = stages
        self._courses: dict[int, Course] = {}
        self._lines = Lines([], logarithmic=True)
        self._moved = 0
        """Trials that have moved on since the lines were found."""
        self._doubts: dict[int, float] = {}
        self.ends: dict[int, float] = {}
        """The loss of each trial in the end, as far as it can be foreseen."""

    def take(self, courses: Mapping[int, Course | None]) -> set[int]:
        """Take in what these trials have come to (None: nothing that counts). Returns those foreseen anew."""
        for number, course in courses.items():
            if course is None:
                self._courses.pop(number, None)
            else:
                self._courses[number] = course
        self._moved += len(courses)
        self._doubts.clear()
        if self._are_outdated(courses.values()):
            return set(courses) | self.renew()
        for number in courses:
            self._foresee(number)
        return set(courses)

    def renew(self) -> set[int]:
        """Find the lines anew, and foresee all trials by them; returns their numbers."""
        self._lines = lines_of((course for _, course in sorted(self._courses.items())), stages=self._stages)
        self._moved = 0
        self._doubts.clear()
        self.ends.clear()
        for number in self._courses:
            self._foresee(number)
        return set(self._courses)

    @property
    def logarithmic(self) -> bool:
        """Whether lines and doubts are of logarithms."""
        return self._lines.logarithmic

    def doubt(self, number: int) -> float:
        """The mean squared error, on the lines' scale, of what is foreseen from as far as a trial has come.

        As it was with those that are complete; 0 for one that is, and where none is.
        """
        stage = len(self._courses[number].losses)
        if stage not in self._doubts:
            self._doubts[stage] = self._doubt(stage)
        return self._doubts[stage]

    def _doubt(self, stage: int) -> float:
        scale = math.log if self._lines.logarithmic else float
        missed = [
            scale(course.losses[-1]) - scale(end)
            for course in self._courses.values()
            if len(course.losses) == self._stages > stage and math.isfinite(course.losses[-1])
            if (end := self._lines.end(Course(course.pool, course.losses[:stage]))) is not None
        ]
        return statistics.fmean(error**2 for error in missed) if missed else 0.0

    def _are_outdated(self, courses: Iterable[Course | None]) -> bool:
        few = len(self._courses) <= FEW or self._moved > PART * len(self._courses)
        return few or (self._lines.logarithmic and not all(_is_positive(course) for course in courses if course))

    def _foresee(self, number: int) -> None:
        course = self._courses.get(number)
        end = None if course is None else self._lines.end(course)
        if end is None:
            self.ends.pop(number, None)
        else:
            self.ends[number] = end


def _is_positive(course: tuple[str, Sequence[float]]) -> bool:
    """Whether logarithms of all its losses can be taken."""
    return all(loss > 0 for loss in course[1])


def _line(courses: Sequence[Course], stage: int) -> Line:
    """Least squares within the pools for the slope, medians for the intercepts, both drawn to what is taken before."""
    pools: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for pool, losses in courses:
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
