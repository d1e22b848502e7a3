"""Rungs at which trials are judged by objectives of the search: several at once, or the way to a target.

Trials of a group are sorted into non-dominated layers, and within a layer the least crowded go first. What has not
reached the target yet comes after all that has, in the order of the metric.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.config import MetricsConfig
from models.segment import Point
from search.config import PromotionConfig
from search.promotion import Standing, promoted
from search.rungs import Rungs
from tracking.analysis.convergence import first_hit
from tracking.analysis.objectives import score_of
from tracking.analysis.pareto import Score, arranged

_OF_HIT = {"step": "steps_to_target", "examples": "examples_to_target", "seconds": "seconds_to_target"}
"""Fields of a hit to the objectives that they are."""


class ScoredRungs(Rungs):
    """At a rung, trials of a group go by their place among all of them in the objectives."""

    def __init__(self, promotion: PromotionConfig, objectives: Sequence[str]) -> None:
        super().__init__(promotion)
        self._objectives = objectives
        self._scores: dict[int, list[Score]] = {}

    def scores(self, number: int) -> Sequence[Score]:
        """What a trial came to at the rungs that it has reached."""
        return self._scores.get(number, ())

    def _take(self, number: int, curve: Sequence[Point], goals: Sequence[int], metrics: MetricsConfig) -> None:
        super()._take(number, curve, goals, metrics)
        # As `loss_at` looks: up to the first evaluation at the rung, or past it where none falls on it.
        ends = [next(index for index, point in enumerate(curve, 1) if point["step"] >= goal) for goal in goals]
        self._scores[number] = [
            self._score_at(curve[:end], loss, metrics) for end, loss in zip(ends, self._losses[number], strict=True)
        ]

    def _score_at(self, curve: Sequence[Point], loss: float, metrics: MetricsConfig) -> Score:
        """What a trial has come to at a rung: compared at equal progress, so that seconds so far stand for its cost."""
        row: dict[str, Any] = {"seconds": curve[-1].get("seconds")}
        if metrics.target is not None:
            direction = metrics.target_direction or metrics.direction
            hit = first_hit(curve, metric=metrics.target_name, target=metrics.target, direction=direction)
            row |= {name: None if hit is None else getattr(hit, axis) for axis, name in _OF_HIT.items()}
        sign = -1.0 if metrics.direction == "max" else 1.0
        return score_of({**row, "value": sign * loss}, self._objectives, metrics.direction)

    def _chosen(self) -> list[int]:
        # One result can move the places of all others: there is no order to be kept.
        promotion = self._promotion
        return promoted(self._standings(), rule=promotion.rule, eta=promotion.eta, pooled=promotion.pooled)

    def _standings(self) -> list[Standing]:
        return placed(super()._standings(), self._scores)


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
