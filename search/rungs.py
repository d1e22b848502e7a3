"""The rungs of a search: what trials came to there, who waits, and who goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.config import MetricsConfig
from models.segment import Point, SegmentResult
from search.config import PromotionConfig
from search.ladder import Ladder
from search.promotion import Rung, Standing, bracket_of, last_chance, loss_at, rungs
from search.trial import TrialConfig, TrialResult


class Rungs:
    """Told of every stretch that a trial has trained; answers who waits where, and who goes on.

    What it answers depends on what came back and on the order in which it came, on nothing else.
    """

    def __init__(self, promotion: PromotionConfig) -> None:
        self._promotion = promotion
        self._progress = [] if promotion.rule == "none" else rungs(promotion.eta, promotion.rungs)
        self._ladder = Ladder(rule=promotion.rule, eta=promotion.eta, pooled=promotion.pooled)
        self._trials: dict[int, TrialConfig] = {}
        self._losses: dict[int, list[float]] = {}
        """What each trial came to at the rungs that it has reached, smaller is better."""
        self._resting: set[int] = set()
        self._passed: dict[int, int] = {}
        """At how many rungs a trial need not wait any more."""
        self._broken_off: set[int] = set()
        """Trials that ended before the end of their training."""

    def until(self, trial: TrialConfig, progress: float) -> float:
        """The next rung at which a trial is compared, or its end."""
        bracket = self._bracket(trial)
        return next((rung for rung in self._progress[bracket:] if rung > progress + 1e-9), 1.0)

    def losses(self, number: int) -> Sequence[float]:
        """What a trial came to at the rungs that it has reached, smaller is better; infinity where it broke."""
        return self._losses.get(number, ())

    def reaches(self, trial: TrialConfig, segments: Sequence[SegmentResult], metrics: MetricsConfig) -> bool:
        """Take in what a trial has come to; whether it waits at a rung now."""
        last = segments[-1]
        curve = [point for segment in segments for point in segment.curve]
        # As `Plan.end_of` has them.
        goals = [round(rung * last.total_steps) for rung in self._progress] if last.total_steps else []
        evaluated = [point["step"] for point in curve] or [0.0]
        self._take(trial.number, curve, [goal for goal in goals if evaluated[-1] >= goal], metrics)
        reached = len(self._losses[trial.number])
        # Where it was let past this rung before (having trained on from it shows that too), a pause has other reasons.
        before = sum(any(goal <= step <= last.from_step for step in evaluated) for goal in goals)
        passed = max(self._bracket(trial), self._passed.get(trial.number, 0), before)
        # One that has been given up is only noted when a search goes on: it waits for nothing.
        waits = last.status == "PAUSED" and reached > passed and trial.number not in self._broken_off
        if waits:
            self._resting.add(trial.number)
        self._place(trial)
        return waits

    def _take(self, number: int, curve: Sequence[Point], goals: Sequence[int], metrics: MetricsConfig) -> None:
        """Note what a trial came to at the rungs that it has reached, by their steps."""
        self._losses[number] = [loss_at(curve, goal, metrics) for goal in goals]

    def ended(self, trial: TrialConfig, result: TrialResult) -> None:
        """Take in that a trial has ended; one that broke before a rung counts there as the worst."""
        self._resting.discard(trial.number)
        if result.status != "COMPLETE":
            self._broken_off.add(trial.number)
        losses = self._losses.setdefault(trial.number, [])
        if result.status not in ("COMPLETE", "PRUNED") and len(losses) < len(self._progress):
            losses.append(math.inf)
        self._place(trial)

    def promoted(self, *, idle: bool) -> list[int]:
        """Trials that go on now; `idle`: nothing else is left to do."""
        if not self._resting:
            return []
        found = self._chosen()
        if not found and idle:
            found = last_chance(self._standings(), eta=self._promotion.eta)
        self._resting.difference_update(found)
        self._passed |= {number: len(self._losses[number]) for number in found}
        for number in found:
            self._place(self._trials[number])
        return found

    def _chosen(self) -> list[int]:
        """Trials that the rule lets go on now."""
        return self._ladder.promoted()

    def given_up(self) -> list[int]:
        """Trials that will never go on: they end where they are."""
        found = sorted(self._resting)
        self._resting.clear()
        for number in found:
            self._place(self._trials[number])
        return found

    def _place(self, trial: TrialConfig) -> None:
        """Note where a trial stands now."""
        self._trials[trial.number] = trial
        self._ladder.put(self._standing(trial))

    def _standings(self) -> list[Standing]:
        """Where all trials stand, in the order of asking."""
        return [self._standing(trial) for _, trial in sorted(self._trials.items())]

    def _standing(self, trial: TrialConfig) -> Standing:
        return Standing(
            number=trial.number,
            group="/".join(str(trial.params[axis]) for axis in self._promotion.within),
            bracket=self._bracket(trial),
            losses=tuple(self._losses[trial.number]),
            resting=trial.number in self._resting,
            pool=str(trial.params["batch_size"]) if "batch_size" in self._promotion.within else "",
        )

    def _bracket(self, trial: TrialConfig) -> int:
        promotion = self._promotion
        return bracket_of(promotion.rule, trial.number, eta=promotion.eta, count=len(self._progress))

    @property
    def resting(self) -> int:
        """How many trials wait at a rung."""
        return len(self._resting)

    @property
    def stages(self) -> int:
        """How many stretches a training has: one up to each rung, and one to its end."""
        return len(self._progress) + 1

    @property
    def counts(self) -> list[Rung]:
        """How many trials came to each rung and went on from it, the lowest first."""
        return [
            Rung(
                progress=progress,
                came=sum(len(losses) > rung for losses in self._losses.values()),
                gone_on=sum(self._went_on(number, rung) for number in self._losses),
            )
            for rung, progress in enumerate(self._progress)
        ]

    def _went_on(self, number: int, rung: int) -> bool:
        reached = len(self._losses[number])
        if reached != rung + 1:
            return reached > rung + 1
        return number not in self._resting and number not in self._broken_off
