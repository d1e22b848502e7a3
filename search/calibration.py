"""A target set before the search, from what the smallest batch size reaches: methodology, trap 6."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import TrainConfig
from models.seeds import derive
from models.segment import Segment, SegmentResult
from search.checkpoints import sweep
from search.executors import Executor
from search.failure import SearchFailed
from search.gains import Gains, measure
from search.race import Race
from search.resuming import restore
from search.space import SearchSpace
from search.study import Study
from tracking.ledger import Ledger

SEEDS = 5
"""Trainings of the reference configuration; the target is the median of their best values."""
EASIER = 0.9
"""The easier target: this share of the way from the first evaluation to the target."""
WAIT = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Both targets, and how they were found."""

    target: float
    easier_target: float
    cell: str
    """The reference cell: the smallest batch size with the first optimizer and schedule of the recipe."""
    learning_rate: float | None
    best: Sequence[float]
    """The best value of each seed."""
    seconds: float
    """What finding them took, by the clock."""


def calibrate(space: SearchSpace, executor: Executor, folder: Path, stopping: Callable[[], bool]) -> Targets | None:
    """Tune the reference cell, then train its best configuration on fresh seeds; None if told to stop meanwhile.

    Nothing of it enters the study. Its own ledger lies in `folder`, so that an interrupted calibration goes on.

    Raises:
        SearchFailed: if the reference cell comes to no value.
    """
    started = time.monotonic()
    reference = reference_of(space)
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger.open(folder, create=True) as ledger:
        race = Race(Study(reference), ledger, str(folder / "checkpoints"))
        restore(race)
        race.gains = measure(executor, race.study)
        race.run(executor, stopping=stopping, hurried=stopping, watch=lambda _: None)
    if stopping():
        return None
    ranking = race.study.ranking()
    if not ranking:
        raise SearchFailed("no training of the smallest batch size came to a value to set the target by")
    trial, _ = ranking[0]
    curves = train(
        [seeded(trial.train, seed) for seed in range(SEEDS)], executor, race.gains, folder=str(folder / "seeds")
    )
    sweep(str(folder / "seeds"), keep=())
    found = [values for curve in curves if (values := finite(curve, reference.metrics.target_name))]
    if not found:
        raise SearchFailed("the reference configuration came to no value to set the target by")
    pick = min if (reference.metrics.target_direction or reference.metrics.direction) == "min" else max
    best = [pick(values) for values in found]
    target, start = statistics.median(best), statistics.median(values[0] for values in found)
    return Targets(
        target=rounded(target),
        easier_target=rounded(start + EASIER * (target - start)),
        cell=trial.cell,
        learning_rate=trial.train.learning_rate,
        best=best,
        seconds=time.monotonic() - started,
    )


def reference_of(space: SearchSpace) -> SearchSpace:
    """The space of the reference cell alone, without a target."""
    search = space.search
    alone = dataclasses.replace(
        search,
        batch_sizes=(min(search.batch_sizes),),
        optimizers=dict([next(iter(search.optimizers.items()))]),
        schedules=dict([next(iter(search.schedules.items()))]),
        refine=0,
        extend=False,
    )
    return dataclasses.replace(
        space, search=alone, metrics=dataclasses.replace(space.metrics, target=None, easier_target=None)
    )


def seeded(config: TrainConfig, seed: int) -> TrainConfig:
    """A configuration with seeds that no trial of the study has."""
    fresh = derive(config.seed_init, "calibrate", seed)
    return dataclasses.replace(
        config, seed_init=fresh, seed_order=derive(fresh, "order"), seed_dropout=derive(fresh, "dropout")
    )


def train(
    configs: Sequence[TrainConfig], executor: Executor, gains: Gains, *, folder: str
) -> list[list[dict[str, float]]]:
    """The curves of whole trainings, side by side where that was found to pay."""
    segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs)]
    wide = gains.width((configs[0].batch_size, configs[0].optimizer)) > 1
    for pack in [segments] if wide else [[segment] for segment in segments]:
        executor.submit(pack)
    ended: list[SegmentResult] = []
    while executor.in_flight and executor.lost() is None:
        ended += executor.completed(WAIT)
    return [list(result.curve) for result in ended if result.status == "COMPLETE"]


def rounded(value: float) -> float:
    """Four digits: a target is quoted, and its fourth digit is noise already."""
    return float(f"{value:.4g}")


def finite(curve: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """The metric's finite values, in their order."""
    return [point[metric] for point in curve if math.isfinite(point.get(metric, math.nan))]
