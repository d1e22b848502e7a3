"""What rungs would have made of trainings that ran to their end: a replay of the rules of promotion, in many orders."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from models.seeds import derive
from models.segment import SegmentResult
from search.promotion import Rule, Standing, bracket_of, last_chance, loss_at, promoted, rungs
from search.study import Study
from tracking.ledger import Ledger

AXES = ("batch_size", "optimizer", "schedule")
RULES: Sequence[tuple[Rule, Sequence[str]]] = (
    ("halving", AXES),
    ("halving", ()),
    ("hyperband", AXES),
    ("median", AXES),
)
"""What is replayed, and within what trainings are compared."""
ETA, COUNT = 3, 2
"""Rungs at 1/9 and 1/3, the default of `search.promotion`."""
TOGETHER = 16
"""So many trainings come to their first rung between two decisions, as they do side by side."""
ORDERS = 10
"""Orders of arrival that are replayed."""
MOST = 1000
"""Trainings that are replayed, the first ones: with more it takes seconds, and says nothing else."""
LEAST = 9
"""Trainings without which two rungs a factor of three apart decide nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training that ran to its end."""

    group: Mapping[str, str]
    """What it may be grouped by: batch_size, optimizer, schedule."""
    losses: Sequence[float]
    """What it came to at each rung, smaller is better; infinity from where it diverged."""
    final: float
    """What it came to in the end; infinity where it diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """How one rule fared, over the orders of arrival."""

    rule: Rule
    within: Sequence[str]
    """Only trainings that agree in these were compared."""
    trainings: int
    kept: float
    """Share of the orders in which the best of all was trained to its end."""
    loss: float
    """Median of how much worse the best of those trained to their end is than the best of all."""
    cost: float
    """Training spent, as a share of training all to their end; mean over the orders."""


def audit(study: Study, ledger: Ledger) -> list[dict[str, Any]]:
    """Every rule on the trainings of a study that ran to their end, as plain values; none where these are too few."""
    trainings = list(ended(study, ledger))[:MOST]
    if len(trainings) < LEAST or all(math.isinf(one.final) for one in trainings):
        return []
    return [asdict(replay(trainings, rule=rule, within=within)) for rule, within in RULES]


def ended(study: Study, ledger: Ledger) -> Iterator[Training]:
    """The trainings that completed, and those that diverged."""
    metrics = study.space.metrics
    sign = -1.0 if metrics.direction == "max" else 1.0
    for trial in study.trials():
        result = study.cells[trial.cell].results.get(trial.index)
        segments = [SegmentResult.from_json(one) for one in ledger.segments(trial.number)] if result else []
        if result is None or result.status not in ("COMPLETE", "DIVERGED") or not segments:
            continue
        curve = [point for segment in segments for point in segment.curve]
        seen = curve[-1]["step"] if curve else 0.0
        goals = [round(rung * segments[-1].total_steps) for rung in rungs(ETA, COUNT)]
        complete = result.status == "COMPLETE" and result.value is not None
        yield Training(
            group={axis: str(trial.params[axis]) for axis in AXES},
            losses=[loss_at(curve, goal, metrics) if seen >= goal else math.inf for goal in goals],
            final=sign * result.value if complete and result.value is not None else math.inf,
        )


def replay(
    trainings: Sequence[Training], *, rule: Rule, within: Sequence[str], eta: int = ETA, count: int = COUNT
) -> Audit:
    """Promote these trainings by a rule, in several orders of arrival.

    Args:
        trainings: at least one of them with a finite end; `losses` at the rungs of `eta` and `count`.
        within: names of `Training.group`.
    """
    best = min(one.final for one in trainings)
    places = list(range(len(trainings)))
    ends, costs = [], []
    for order in range(ORDERS):
        random.Random(derive(0, "audit", order)).shuffle(places)
        arrived = [trainings[place] for place in places]
        course = _Course(trainings=arrived, rule=rule, within=within, eta=eta, count=count)
        course.run()
        ends.append(min((one.final for one in course.finished), default=math.inf))
        costs.append(course.cost)
    return Audit(
        rule=rule,
        within=within,
        trainings=len(trainings),
        kept=sum(end == best for end in ends) / ORDERS,
        loss=statistics.median(end - best for end in ends),
        cost=statistics.fmean(costs),
    )


@dataclass(kw_only=True, slots=True)
class _Course:
    """One order of arrival: where each training stands."""

    trainings: Sequence[Training]
    rule: Rule
    within: Sequence[str]
    eta: int
    count: int
    standings: dict[int, Standing] = field(default_factory=dict)
    """By number, which is the place in the order."""
    ended: dict[int, float] = field(default_factory=dict)
    """Progress at which those that do not wait any more have ended."""

    def run(self) -> None:
        """From the first arrival until nobody goes on any more."""
        for start in range(0, len(self.trainings), TOGETHER):
            for number in range(start, min(start + TOGETHER, len(self.trainings))):
                self._move(number, bracket_of(self.rule, number, eta=self.eta, count=self.count) + 1)
            while found := promoted(self.standings.values(), rule=self.rule, eta=self.eta, pooled=True):
                self._promote(found)
        while found := self._going_on():
            self._promote(found)

    @property
    def finished(self) -> list[Training]:
        """Those trained to their end."""
        return [self.trainings[number] for number, progress in self.ended.items() if progress == 1.0]

    @property
    def cost(self) -> float:
        """Share of the whole training that was spent."""
        places = rungs(self.eta, self.count)
        waiting = [places[len(one.losses) - 1] for one in self.standings.values() if one.resting]
        return (sum(waiting) + sum(self.ended.values())) / len(self.trainings)

    def _going_on(self) -> list[int]:
        standings = self.standings.values()
        found = promoted(standings, rule=self.rule, eta=self.eta, pooled=True)
        return found or last_chance(standings, eta=self.eta)

    def _promote(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._move(number, len(self.standings[number].losses) + 1)

    def _move(self, number: int, rung: int) -> None:
        """Train on to a rung, counted from 1, or to the end; or to where it diverges before."""
        training = self.trainings[number]
        losses = training.losses[:rung]
        broken = next((place for place, loss in enumerate(losses) if math.isinf(loss)), None)
        if broken is not None:
            self.ended[number] = rungs(self.eta, self.count)[broken]
        elif rung > self.count:
            self.ended[number] = 1.0
        self.standings[number] = Standing(
            number=number,
            group="/".join(training.group[name] for name in self.within),
            bracket=bracket_of(self.rule, number, eta=self.eta, count=self.count),
            losses=losses if broken is None else losses[: broken + 1],
            resting=number not in self.ended,
            pool=training.group["batch_size"] if "batch_size" in self.within else "",
        )
