"""A share of the trials that trained side by side, trained once more alone: what did that change?"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from models.segment import Segment, SegmentResult
from search.checkpoints import sweep
from search.executors import Executor
from search.study import Study
from search.trial import TrialConfig, TrialResult, summarise

WAIT = 1.0
"""Seconds to wait for results at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One trial, side by side and alone."""

    number: int
    array: float
    """The objective at the end, in the array."""
    alone: float
    status: str
    """How it ended alone."""

    @property
    def relative(self) -> float:
        """Difference as a share of the larger of the two; 1 if one of them has no value."""
        largest = max(abs(self.array), abs(self.alone))
        if not math.isfinite(self.array + self.alone):
            return 1.0
        return abs(self.array - self.alone) / largest if largest else 0.0


def audit(study: Study, executor: Executor, *, folder: str) -> list[Difference]:
    """Train the share `search.audit` of the fused trials alone, and compare; nothing of it enters the ledger.

    In float32 the two differ by rounding, which an unstable training amplifies; in float64 they agree to 1e-10.
    """
    chosen = sample(study)
    for trial, _ in chosen:
        executor.submit([Segment(trial=trial.number, config=trial.train, folder=folder)])
    ended: dict[int, SegmentResult] = {}
    while executor.in_flight and executor.lost() is None:
        ended |= {result.trial: result for result in executor.completed(WAIT)}
    sweep(folder, keep=())
    return [compare(study, result, ended[trial.number]) for trial, result in chosen if trial.number in ended]


def sample(study: Study) -> list[tuple[TrialConfig, TrialResult]]:
    """The trials to train again: drawn by the study's seed from those that completed in an array."""
    fused = [
        (trial, result)
        for trial in study.trials()
        if (result := study.cells[trial.cell].results.get(trial.index)) is not None
        and result.tags.get("tier") == "array"
        and result.status == "COMPLETE"
    ]
    count = math.ceil(study.space.search.audit * len(fused))
    return random.Random(study.space.search.seed).sample(fused, count)


def compare(study: Study, array: TrialResult, alone: SegmentResult) -> Difference:
    """The final objective of one trial, both ways."""
    metrics = study.space.metrics
    again = summarise(array.number, [alone], metrics)
    return Difference(
        number=array.number,
        array=array.final.get(metrics.objective, math.nan),
        alone=again.final.get(metrics.objective, math.nan),
        status=again.status,
    )


def summary(differences: Sequence[Difference], objective: str) -> str:
    """What the audit found, in words."""
    if not differences:
        return "audit: no trial trained side by side"
    ranked = sorted(difference.relative for difference in differences)
    return (
        f"audit: {len(ranked)} trials trained again alone; {objective} at the end differs by "
        f"{ranked[len(ranked) // 2]:.1g} of its value (median), {ranked[-1]:.1g} at most"
    )
