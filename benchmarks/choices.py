"""What a search would have chosen, had it ended at some time: by its own rule, from what it knew by then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fresh_seeds import Settings

from models.segment import SegmentResult
from pipelines.session import space_of
from pipelines.studies import ledger_of, recipe_of
from search.objectives import study_of
from search.study import Study
from search.trial import TrialConfig, TrialResult

TIMES = (10, 15, 20, 30, 60, 120, 180, 240)
"""Seconds from the command at which it is asked."""


class Chosen(NamedTuple):
    """What it would have chosen."""

    when: float
    """Asked so many seconds after the command."""
    took: float
    """Seconds to choose."""
    settings: Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A trial of Regatta's as its ledger has it."""

    trial: TrialConfig
    result: TrialResult | None
    segments: Sequence[SegmentResult]

    def by(self, when: float) -> tuple[TrialResult | None, list[SegmentResult]]:
        """What was known of it then (Unix seconds): what was given up at the end of the search still waited."""
        segments = [one for one in self.segments if one.started + one.wall_seconds <= when]
        over = self.result is not None and self.result.status != "PRUNED" and len(segments) == len(self.segments)
        return self.result if over else None, segments


def of_regatta(folder: Path, *, started: float, seconds: float) -> Iterator[Chosen]:
    """What it would have chosen, from the first complete training on."""
    with ledger_of(folder) as ledger:
        space = space_of(recipe_of(ledger))
        known = [
            Known(
                trial=TrialConfig.from_json(row["config"]),
                result=None if row["result"] is None else TrialResult.from_json(row["result"]),
                segments=[SegmentResult.from_json(segment) for segment in ledger.segments(row["number"])],
            )
            for row in ledger.trials()
        ]
    for after in times(seconds):
        study = as_of(study_of(space), known, when=started + after)
        begun = time.monotonic()
        study.expect()
        if ranking := study.ranking():
            train = ranking[0][0].train
            chosen = {name: getattr(train, name) for name in ("batch_size", "schedule", "learning_rate")}
            yield Chosen(after, time.monotonic() - begun, chosen)


def as_of(study: Study, known: Sequence[Known], *, when: float) -> Study:
    """The study as it was then."""
    came = [(one.trial, *one.by(when)) for one in known if one.trial.cell in study.cells]
    came = [(trial, result, segments) for trial, result, segments in came if segments]
    study.restore([(trial, result) for trial, result, _ in came])
    for trial, _, segments in came:
        study.reaches(trial, segments)
    return study


def of_peer(told: Sequence[Mapping[str, Any]], *, epochs: int, started: float, seconds: float) -> Iterator[Chosen]:
    """The same of who keeps the best value of all complete trainings."""
    ended = [one for one in told if one["epoch"] == epochs]
    for after in times(seconds):
        if known := [one for one in ended if one["at"] - started <= after]:
            yield Chosen(after, 0.0, min(known, key=lambda one: one["value"])["settings"])


def times(seconds: float) -> list[float]:
    """When it is asked in a search of so many seconds."""
    return [*(after for after in TIMES if after < seconds), seconds]
