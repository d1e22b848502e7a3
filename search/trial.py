"""One trial: the configuration that was asked, and the result that its segments add up to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.config import MetricsConfig, TrainConfig
from models.segment import SegmentResult
from tracking.analysis.convergence import Censoring, convergence, figures, gaps
from tracking.analysis.curves import loss, measured

Phase = Literal["explore", "extend", "refine", "propose", "enqueue", "confirm"]
"""Quasi-random; quasi-random beyond an edge of the range; proposed from the results of the cell; proposed from the
results of all; known before the search; one of those that won, again on a fresh seed."""


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
    point: Mapping[str, Any] = field(default_factory=dict)
    """Where it lies in the joint space of the strategy `tune`; empty in a cell of its own."""
    noted: Mapping[str, Any] = field(default_factory=dict)
    """What its sampler noted with it: CMA-ES and NSGA-II keep their generations so."""

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
    censoring: Censoring = ""
    """Why the target was not reached (methodology 1.2); empty if it was, or if there is none."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the whole curve says: `tracking.analysis.convergence.FIGURES`, those that are known."""
    fit: Mapping[str, float] = field(default_factory=dict)
    """What validation says, at the end of a complete training, of a fixed subset of the training set, by metric."""
    gap: Mapping[str, float] = field(default_factory=dict)
    """Generalization gaps: `final` less `fit`."""
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
    """Add up a trial's segments, in order of their steps; a trial that ends in a pause was pruned there."""
    last = segments[-1]
    status = "PRUNED" if last.status == "PAUSED" else last.status
    curve = [point for segment in segments for point in segment.curve]
    points = measured(curve, metrics.objective)
    best = min(points, key=lambda point: loss(point[metrics.objective], metrics.direction), default={})
    final = points[-1] if points else {}
    chosen = best if metrics.select == "best" else final
    row = {"number": number, "status": status, "steps": last.to_step}
    record = convergence(row, curve, metrics=dataclasses.asdict(metrics), target=metrics.target)
    hit = record.hit
    return TrialResult(
        number=number,
        status=status,
        reason=last.reason,
        value=chosen.get(metrics.objective),
        steps=last.to_step,
        examples=sum(segment.examples for segment in segments),
        epochs=float(curve[-1]["epoch"]) if curve else 0.0,
        seconds=sum(segment.seconds for segment in segments),
        wall_seconds=sum(segment.wall_seconds for segment in segments),
        best=best,
        final=final,
        hit=None if hit is None else next(point for point in curve if point["step"] == hit.step),
        hit_after=0.0 if hit is None else hit.after,
        censoring=record.censoring,
        figures=figures(record),
        fit=last.fit,
        gap=gaps(final, last.fit),
        checkpoint=last.checkpoint,
        sha256=last.sha256,
        started=segments[0].started,
        ended=last.started + last.wall_seconds,
        worker=last.worker,
        tags={**segments[0].tags, **last.tags, **_time_mode(segments)},
    )


def _time_mode(segments: Sequence[SegmentResult]) -> dict[str, str]:
    """That of a trial which was in an array at any time: its seconds are not its own, even if it trained alone last."""
    return {"time_mode": "array"} if any(s.tags.get("time_mode") == "array" for s in segments) else {}
