"""How far trials of a search with promotion came: what they were at each rung, who went on, and who was right."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from tracking.analysis.curves import loss
from tracking.analysis.data import StudyData
from tracking.rows import Row

AXES = ("batch_size", "optimizer", "schedule")
LEAST = 5
"""Trainings without which a correlation of ranks says nothing."""


@dataclass(frozen=True, kw_only=True)
class RungResult:
    """What became of the trials at one rung."""

    progress: float
    """Share of the training."""
    came: int
    """Trials that trained as far."""
    on: int
    """Of these, trained past it."""
    passed_over: int
    """Of these, ended there."""

    @property
    def waiting(self) -> int:
        """Of these, neither yet: the search has not ended."""
        return self.came - self.on - self.passed_over


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether a rung ranks trainings as their end does."""

    progress: float
    ranks: Sequence[tuple[Row, float, float]]
    """Every complete training, its rank at the rung and at the end; 1 is best, equal ones share a mean rank."""
    rho: float
    """Spearman's, over all of them; NaN where there are too few."""
    within: float
    """The same among those that were compared with each other; NaN where there are too few."""
    pairs: int
    """Trainings that had another one to be compared with."""


def is_tune(data: StudyData) -> bool:
    """Whether one sampler searched the whole space."""
    return bool((data.space.get("search") or {}).get("strategy") == "tune")


def promotion_of(data: StudyData) -> Mapping[str, Any]:
    """`search.promotion` of the recipe, with its defaults."""
    given = (data.space.get("search") or {}).get("promotion") or {}
    return {"rule": "halving", "eta": 3, "rungs": 2, "within": list(AXES), **given}


def progress_of_rungs(data: StudyData) -> list[float]:
    """Shares of the training at which trials are compared."""
    promotion = promotion_of(data)
    return [float(promotion["eta"]) ** -k for k in range(int(promotion["rungs"]), 0, -1)]


def rung_results(data: StudyData) -> list[RungResult]:
    """How many trials came to each rung, and how many of them went on."""
    lengths = lengths_of(data)
    return [_rung_result(data, lengths, progress) for progress in progress_of_rungs(data)]


def _rung_result(data: StudyData, lengths: Mapping[int, int], progress: float) -> RungResult:
    came = on = over = 0
    for row in data.trials:
        goal = _goal(progress, lengths.get(row["number"]))
        last = _last_step(data, row)
        if last < goal:
            continue
        further = last > _first_at(data, row, goal)
        came += 1
        on += further
        over += not further and row["status"] != "RUNNING"
    return RungResult(progress=progress, came=came, on=on, passed_over=over)


def shares_trained(data: StudyData) -> dict[int, float]:
    """Progress that each trial came to, in [0, 1], by number; not of those whose length is not known."""
    rows, lengths = {row["number"]: row for row in data.trials}, lengths_of(data)
    return {number: min(1.0, _last_step(data, rows[number]) / length) for number, length in lengths.items()}


def lengths_of(data: StudyData) -> dict[int, int]:
    """Steps of the whole training by trial: measured where one like it has ended, otherwise from epochs seen."""
    complete = [row for row in data.trials if row["status"] == "COMPLETE"]
    alike = {(row["batch_size"], row["schedule"]): int(row["steps"]) for row in complete}
    found = {
        row["number"]: alike.get((row["batch_size"], row["schedule"])) or _planned(data, row) for row in data.trials
    }
    known = {number: length for number, length in found.items() if length}
    return known | {row["number"]: int(row["steps"]) for row in complete}


def _planned(data: StudyData, row: Row) -> int | None:
    training = data.space.get("training") or {}
    points = [point for point in data.curves.get(row["number"], ()) if point.get("epoch")]
    if not points or not training.get("epochs"):
        return None
    per_epoch = float(points[-1]["step"] / points[-1]["epoch"])
    return max(round(int(training["epochs"]) * per_epoch), int(training.get("min_steps") or 0))


def agreements(data: StudyData) -> list[Agreement]:
    """For each rung, the ranks there of all complete trainings beside their ranks at the end."""
    complete = [row for row in data.trials if row["status"] == "COMPLETE"]
    return [_agreement(data, complete, progress) for progress in progress_of_rungs(data)]


def _agreement(data: StudyData, complete: Sequence[Row], progress: float) -> Agreement:
    came = [(row, loss_at(data, row, progress)) for row in complete]
    judged = [(row, at, loss(row["value"], data.direction)) for row, at in came if math.isfinite(at)]
    at_rung = stats.rankdata([at for _, at, _ in judged]) if judged else []
    at_end = stats.rankdata([end for *_, end in judged]) if judged else []
    groups: defaultdict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for row, at, end in judged:
        groups[tuple(row.get(axis) for axis in promotion_of(data)["within"])].append((at, end))
    # Ranks as shares of the group, so that groups of any size add up and differences between groups do not count.
    inside = [pair for pairs in groups.values() if len(pairs) > 1 for pair in _centred(pairs)]
    return Agreement(
        progress=progress,
        ranks=[(row, float(a), float(b)) for (row, *_), a, b in zip(judged, at_rung, at_end, strict=True)],
        rho=_correlation(list(zip(at_rung, at_end, strict=True))),
        within=_correlation(inside),
        pairs=len(inside),
    )


def _centred(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = len(pairs)
    ranks = [(stats.rankdata(values) - (size + 1) / 2) / size for values in zip(*pairs, strict=True)]
    return list(zip(*ranks, strict=True))


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < LEAST:
        return math.nan
    a, b = np.asarray(pairs).T
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else math.nan


def loss_at(data: StudyData, row: Row, progress: float) -> float:
    """What a complete trial had come to at a rung, as promotion judges it: less is better; infinity if not measured."""
    curve = data.curves.get(row["number"], ())
    end = _first_at(data, row, _goal(progress, row["steps"]))
    seen = [loss(_number(point.get(data.objective)), data.direction) for point in curve if point["step"] <= end]
    if not seen or not math.isfinite(seen[-1]):
        return math.inf
    return seen[-1] if data.metrics.get("select") == "last" else min(seen)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _goal(progress: float, length: int | None) -> float:
    return math.inf if length is None else round(progress * length)


def _first_at(data: StudyData, row: Row, goal: float) -> float:
    """The first evaluation at or past a rung: that is where a trial pauses."""
    return min((point["step"] for point in data.curves.get(row["number"], ()) if point["step"] >= goal), default=goal)


def _last_step(data: StudyData, row: Row) -> float:
    return max((point["step"] for point in data.curves.get(row["number"], ())), default=row.get("steps") or 0)
