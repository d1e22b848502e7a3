"""The study of `tune` with objectives of its own: several at once, or the way to a target; fronts at every rung.

At a rung, trials of a group are sorted into non-dominated layers, and within a layer the least crowded go first. A
target that a trial has not reached is censored there and at the end: it comes after all that have reached it, in the
order of the metric. A sampler is told so by a constraint that such a trial breaks, the more the further behind it is;
never by a number in place of the one that is lacking.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import TrialState

from models.segment import Point as Evaluation
from search.promotion import Standing, promoted
from search.samplers import SEQUENCES, Asker, Known, sampler_of, state_of
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig, TrialResult
from search.tuning import TuneStudy
from tracking.analysis.convergence import first_hit
from tracking.analysis.objectives import TO_TARGET, score_of
from tracking.analysis.pareto import Score, arranged, distances, front
from tracking.projection import TO_TARGET as HITS

Pair = tuple[TrialConfig, TrialResult]


class ObjectiveStudy(TuneStudy):
    """Judges by `search.objectives`; where there are several, it looks for the front."""

    def __init__(self, space: SearchSpace) -> None:
        """Lay it out.

        Raises:
            ValueError: if there is no such sampler, or if it cannot do with several objectives.
        """
        super().__init__(space)
        self.objectives = tuple(space.search.objectives or (space.metrics.objective,))
        self._scores: dict[int, list[Score]] = {}
        """What each trial came to at the rungs that it has reached."""
        self._check_sampler()

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

    def _take_rungs(self, number: int, curve: Sequence[Evaluation], goals: Sequence[int]) -> None:
        super()._take_rungs(number, curve, goals)
        # As `loss_at` looks: up to the first evaluation at the rung, or past it where none falls on it.
        ends = [next(index for index, point in enumerate(curve, 1) if point["step"] >= goal) for goal in goals]
        self._scores[number] = [
            self._score_at(curve[:end], loss) for end, loss in zip(ends, self._losses[number], strict=True)
        ]

    def _score_at(self, curve: Sequence[Evaluation], loss: float) -> Score:
        """What a trial has come to at a rung: compared at equal progress, so that seconds so far stand for its cost."""
        metrics = self.space.metrics
        row: dict[str, Any] = {"seconds": curve[-1].get("seconds")}
        if metrics.target is not None:
            direction = metrics.target_direction or metrics.direction
            hit = first_hit(curve, metric=metrics.target_name, target=metrics.target, direction=direction)
            row |= {name: None if hit is None else getattr(hit, axis) for axis, name in _OF_HIT.items()}
        sign = -1.0 if self._maximize else 1.0
        return score_of({**row, "value": sign * loss}, self.objectives, metrics.direction)

    # -- rungs and proposals

    def _chosen(self) -> list[int]:
        # One result can move the places of all others: there is no order to be kept.
        return promoted(self._standings(), rule=self.space.search.promotion.rule, eta=self.space.search.promotion.eta)

    def _standings(self) -> list[Standing]:
        return placed(super()._standings(), self._scores)

    def _asker(self, sampler: Any) -> Asker:
        alone = not self.several and self.objectives[0] == self.space.metrics.objective
        known = list(self._known())
        return Asker(self.joint, known, sampler, maximize=alone and self._maximize, objectives=len(self.objectives))

    def _known(self) -> Iterator[Known]:
        """Every trial as its sampler is to see it: with its values where it has them all, else by its place."""
        places = self._places()
        for number, trial in self._trials.items():
            result, rungs = self._result(trial), self._scores.get(number, [])
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
            result, rungs = self._result(trial), self._scores.get(number, [])
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

    def ranking(self) -> list[Pair]:
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


_OF_HIT = {"step": "steps_to_target", "examples": "examples_to_target", "seconds": "seconds_to_target"}
"""Fields of a hit to the objectives that they are."""


def placed(standings: Iterable[Standing], scores: Mapping[int, Sequence[Score]]) -> list[Standing]:
    """The standings with each loss replaced by the trial's place among those it is compared with at that rung.

    A trial that broke before a rung keeps its infinity.
    """
    given = list(standings)
    here: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for index, one in enumerate(given):
        for rung, loss in enumerate(one.losses):
            if math.isfinite(loss):
                here[one.group, one.bracket, rung].append(index)
    places = [list(one.losses) for one in given]
    for (_, _, rung), members in here.items():
        for place, index in enumerate(arranged([scores[given[member].number][rung] for member in members])):
            places[members[index]][rung] = float(place)
    return [replace(one, losses=losses) for one, losses in zip(given, places, strict=True)]


def study_of(space: SearchSpace) -> Study:
    """The study of a recipe, by its strategy and objectives."""
    if space.search.strategy != "tune":
        return Study(space)
    own = list(space.search.objectives or ()) not in ([], [space.metrics.objective])
    return ObjectiveStudy(space) if own else TuneStudy(space)
