"""The study of `tune` with objectives of its own: several at once, or the way to a target.

A target that a trial has not reached is censored: it comes after all that have reached it, in the order of the metric.
A sampler is told so by a constraint that such a trial breaks, the more the further behind it is; never by a number in
place of the one that is lacking.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from optuna.trial import TrialState

from search.config import PromotionConfig
from search.criterion import Criterion
from search.samplers import SEQUENCES, Asker, Known, sampler_of, state_of
from search.scored_rungs import ScoredRungs
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig, TrialResult
from search.tuning import TuneStudy
from tracking.analysis.objectives import TO_TARGET, score_of
from tracking.analysis.pareto import Score, arranged, distances, front
from tracking.projection import TO_TARGET as HITS

Pair = tuple[TrialConfig, TrialResult]
FROM_IDEAL = "distance from the ideal"
"""From the best of every objective, in units of the front's own ranges."""


class ObjectiveStudy(TuneStudy):
    """Judges by `search.objectives`; where there are several, it looks for the front."""

    _rungs: ScoredRungs

    def __init__(self, space: SearchSpace) -> None:
        """Lay it out.

        Raises:
            ValueError: if there is no such sampler, or if it cannot do with several objectives.
        """
        super().__init__(space)
        self._check_sampler()

    @property
    def objectives(self) -> tuple[str, ...]:
        """What it looks for, the first one first."""
        return tuple(self.space.search.objectives or (self.space.metrics.objective,))

    def _rungs_of(self, promotion: PromotionConfig) -> ScoredRungs:
        return ScoredRungs(promotion, self.objectives)

    def _check_sampler(self) -> None:
        """Ask a sampler once, for only then it says whether it takes several objectives."""
        search = self.space.search
        if search.sampler in SEQUENCES or len(self.objectives) < 2:
            return
        sampler = sampler_of(search.sampler, search.sampler_args, seed=0)
        asker = Asker(self.joint, [], sampler, maximize=False, objectives=len(self.objectives))
        try:
            asker.ask({}, lambda _: False, drawn={})
        except ValueError as error:
            raise ValueError(
                f"`search.sampler` must take several objectives with `search.objectives` {', '.join(self.objectives)}, "
                f"but {search.sampler} does not. Take tpe, gp or nsga2."
            ) from error

    # -- what trials came to

    @property
    def several(self) -> bool:
        """Whether there is a front to look for."""
        return len(self.objectives) > 1

    def score(self, result: TrialResult) -> Score:
        """What a whole trial came to."""
        hit = {name: (result.hit or {}).get(axis) for axis, name in HITS.items()}
        row = {"value": result.value, "seconds": result.seconds, **hit}
        return score_of(row, self.objectives, self.space.metrics.direction)

    def figures(self, result: TrialResult) -> dict[str, float]:
        """The same as figures, each in its own direction; those that it has not come to left out."""
        directions = self.directions
        came = zip(directions.items(), self.score(result).losses, strict=True)
        return {name: loss if way == "min" else -loss for (name, way), loss in came if math.isfinite(loss)}

    @property
    def directions(self) -> dict[str, str]:
        """Objectives, each with what is better: all but the metric are better the less they are."""
        metrics = self.space.metrics
        return {name: metrics.direction if name == metrics.objective else "min" for name in self.objectives}

    # -- proposals

    def _asker(self, sampler: Any) -> Asker:
        alone = not self.several and self.objectives[0] == self.space.metrics.objective
        known = list(self._known())
        return Asker(self.joint, known, sampler, maximize=alone and self._maximize, objectives=len(self.objectives))

    def _known(self) -> Iterator[Known]:
        """Every trial as its sampler is to see it: with its values where it has them all, else by its place."""
        places = self._places()
        for number, trial in self._trials.items():
            result, rungs = self._result(trial), self._rungs.scores(number)
            values = self._values(result, rungs)
            place = places.get(number, len(self._trials))
            state = state_of(result, waits=bool(rungs)) if values is None else TrialState.COMPLETE
            if values is None and state is TrialState.COMPLETE:
                state = TrialState.PRUNED  # Censored: it has a value, but not of every objective.
            yield Known(
                point=trial.point,
                state=state,
                values=values,
                place=place,
                attributes=trial.noted,
            )

    def _values(self, result: TrialResult | None, rungs: Sequence[Score]) -> tuple[float, ...] | None:
        """The losses of a trial that has come to all that it is judged by; None while, or if, it has not."""
        if result is not None and result.status == "COMPLETE":
            found = self.score(result)
        elif rungs and set(self.objectives) <= set(TO_TARGET):
            # Where it went on, nothing of this would change: the way to the target lies behind it.
            found = rungs[-1]
        else:
            return None
        return found.losses if found.arrived else None

    def _places(self) -> dict[int, int]:
        """Trials by number, each with its place among all: what has arrived first, and what has got further."""
        classes: defaultdict[tuple[bool, float], dict[int, Score]] = defaultdict(dict)
        for number, trial in self._trials.items():
            result, rungs = self._result(trial), self._rungs.scores(number)
            if result is not None and result.status == "COMPLETE":
                score = self.score(result)
                classes[not score.arrived, -math.inf][number] = score
            elif rungs and (result is None or result.status == "PRUNED"):
                classes[not rungs[-1].arrived, -len(rungs)][number] = rungs[-1]
        order: list[int] = []
        for _, scores in sorted(classes.items()):
            numbers = list(scores)
            order += [numbers[index] for index in arranged(list(scores.values()))]
        return {number: place for place, number in enumerate(order)}

    # -- what it has found

    def front(self) -> list[Pair]:
        """Complete trials that none is better than in every objective, by the first one; empty with a single one."""
        if not self.several:
            return []
        pairs = self._complete()
        return [pairs[index] for index in front([self.score(result) for _, result in pairs])]

    @property
    def criterion(self) -> Criterion:
        """The rule of `search.choose`: the first objective, or how far from the best of each on the front."""
        name, among = self.objectives[0], [self.score(result).losses for _, result in self.front()]
        # All alike, or one alone, a front has no ranges to measure in.
        if self.space.search.choose == "knee" and len(set(among)) > 1:
            return Criterion(name=FROM_IDEAL, direction="min", of=partial(self._apart, among), objectives=self.figures)
        direction = self.directions[name]
        never = -math.inf if direction == "max" else math.inf
        return Criterion(
            name=name,
            direction=direction,
            of=lambda result: self.figures(result).get(name, never),
            objectives=self.figures,
        )

    def _apart(self, among: Sequence[Sequence[float]], result: TrialResult) -> float:
        """A fresh seed may come to more than the best of the front: that is no distance."""
        score = self.score(result)
        ideal = map(min, zip(*among, strict=True))
        reached = [max(loss, best) for loss, best in zip(score.losses, ideal, strict=True)]
        return distances([reached], among)[0] if score.arrived else math.inf

    def expect(self) -> None:
        """Nothing: how objectives other than the metric differ from seed to seed is another matter."""

    def leaders(self) -> list[Pair]:
        """The best trial of every cell that has one, best first: as `search.choose` says, which has the last word."""
        best: dict[str, Pair] = {}
        for trial, result in self._ordered():
            best.setdefault(trial.cell, (trial, result))
        return list(best.values())

    def top(self, count: int) -> list[TrialResult]:
        """The best trials of the whole study, best first."""
        return [result for _, result in self._ordered()[:count]]

    def _complete(self) -> list[Pair]:
        ended = ((trial, self._result(trial)) for _, trial in sorted(self._trials.items()))
        return [(t, r) for t, r in ended if r is not None and r.status == "COMPLETE" and r.value is not None]

    def _ordered(self) -> list[Pair]:
        """Complete trials: those that have arrived first, in the order of the objectives, or by their distance."""
        pairs = self._complete()
        scores = [self.score(result) for _, result in pairs]
        apart = [0.0] * len(pairs)
        if self.space.search.choose == "knee" and (best := front(scores)):
            apart = distances([score.stand_in for score in scores], [scores[index].losses for index in best])
        keys = [
            (not score.arrived, far if score.arrived else 0.0, score.stand_in, score.metric, trial.number)
            for score, far, (trial, _) in zip(scores, apart, pairs, strict=True)
        ]
        return [pairs[index] for index in sorted(range(len(pairs)), key=keys.__getitem__)]


def study_of(space: SearchSpace) -> Study:
    """The study of a recipe, by its strategy and objectives."""
    if space.search.strategy != "tune":
        return Study(space)
    own = list(space.search.objectives or ()) not in ([], [space.metrics.objective])
    return ObjectiveStudy(space) if own else TuneStudy(space)
