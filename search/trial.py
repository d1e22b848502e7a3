"""One trial: the configuration that was asked, and the result that its segments add up to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.config import MetricsConfig, TrainConfig
from models.segment import Point, SegmentResult

Phase = Literal["explore", "extend", "refine", "confirm"]
"""Quasi-random; quasi-random beyond an edge of the range; proposed from the results of the cell; one of those that won,
again on a fresh seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """A configuration as it was asked, before anything ran."""

    number: int
    """Number in the study, in the order of asking."""
    cell: str
    index: int
    """Number in the cell's own Optuna study; seeds come from (study seed, cell, index)."""
    phase: Phase
    params: Mapping[str, Any]
    """Grid axes and sampled parameters by name, as Optuna and MLflow see them."""
    train: TrainConfig

    @property
    def described(self) -> str:
        """The configuration in words."""
        rate = self.params.get("learning_rate")
        at = "" if rate is None else f" at learning rate {rate:.3g}"
        return f"batch size {self.params['batch_size']} with {self.params['optimizer']}, {self.params['schedule']}{at}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the ledger."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialConfig:
        """The configuration that `to_json` wrote."""
        return cls(**{**values, "train": TrainConfig.from_json(values["train"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What a whole trial came to; plain JSON values."""

    number: int
    status: Literal["COMPLETE", "PRUNED", "DIVERGED", "OOM", "TIMEOUT", "FAILED"]
    reason: str = ""
    value: float | None = None
    """The objective that the trial is judged by (best or final, as the recipe says); None if it was never measured."""
    steps: int = 0
    examples: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    """Seconds of training: validation, checkpoints, logging and set-up excluded."""
    wall_seconds: float = 0.0
    best: Mapping[str, float] = field(default_factory=dict)
    """The evaluation with the best objective: axes and metrics."""
    final: Mapping[str, float] = field(default_factory=dict)
    """The last evaluation: axes and metrics."""
    hit: Mapping[str, float] | None = None
    """The first evaluation at or past the target (methodology 1.2); None if there was none, or no target."""
    hit_after: float = 0.0
    """Step of the evaluation before the hit: the target was reached in (hit_after, hit.step]."""
    checkpoint: str | None = None
    sha256: str | None = None
    started: float = 0.0
    ended: float = 0.0
    worker: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the ledger."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialResult:
        """The result that `to_json` wrote."""
        return cls(**values)


def recorded(rows: Iterable[Mapping[str, Any]]) -> list[tuple[TrialConfig, TrialResult | None]]:
    """The ledger's trials as they were asked, each with its result if it has ended."""
    return [
        (TrialConfig.from_json(row["config"]), TrialResult.from_json(row["result"]) if row["result"] else None)
        for row in rows
    ]


def summarise(number: int, segments: Sequence[SegmentResult], metrics: MetricsConfig) -> TrialResult:
    """Add up a trial's segments, in order of their steps, into its result. The last one must have ended the trial."""
    last = segments[-1]
    assert last.status != "PAUSED", "a paused trial has no result yet"
    curve = [point for segment in segments for point in segment.curve]
    measured = [point for point in curve if math.isfinite(point.get(metrics.objective, math.nan))]
    sign = 1.0 if metrics.direction == "min" else -1.0
    best = min(measured, key=lambda point: sign * point[metrics.objective], default={})
    final = measured[-1] if measured else {}
    hit_at = first_hit(curve, metrics)
    chosen = best if metrics.select == "best" else final
    return TrialResult(
        number=number,
        status=last.status,
        reason=last.reason,
        value=chosen.get(metrics.objective),
        steps=last.to_step,
        examples=sum(segment.examples for segment in segments),
        epochs=float(curve[-1]["epoch"]) if curve else 0.0,
        seconds=sum(segment.seconds for segment in segments),
        wall_seconds=sum(segment.wall_seconds for segment in segments),
        best=best,
        final=final,
        hit=None if hit_at is None else curve[hit_at],
        hit_after=0.0 if not hit_at else curve[hit_at - 1]["step"],
        checkpoint=last.checkpoint,
        sha256=last.sha256,
        started=segments[0].started,
        ended=last.started + last.wall_seconds,
        worker=last.worker,
        tags={**segments[0].tags, **last.tags},
    )


def first_hit(curve: Sequence[Point], metrics: MetricsConfig) -> int | None:
    """Index of the first evaluation at or past the target (inclusive, as AlgoPerf scores it); None if there is none."""
    if metrics.target is None:
        return None
    sign = 1.0 if (metrics.target_direction or metrics.direction) == "min" else -1.0
    for index, point in enumerate(curve):
        value = point.get(metrics.target_name, math.nan)
        if sign * value <= sign * metrics.target:
            return index
    return None
