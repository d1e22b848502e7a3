"""A study read from its folder, as plain rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from tracking import rows as study_rows
from tracking.analysis.convergence import INFEASIBLE
from tracking.analysis.judging import rank
from tracking.ledger import Ledger
from tracking.remote import Remote
from tracking.rows import Row
from tracking.spans import Span

NOTES = ("study", "metrics", "space", "probes", "bounds", "calibration", "verification", "ended", "too_large")
"""What is read of the ledger's notes."""


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What a study holds, as plain rows."""

    name: str
    metrics: Mapping[str, Any]
    """objective, direction, select, target, target_metric, target_direction, as the recipe says them."""
    trials: Sequence[Row]
    curves: Mapping[int, Sequence[Row]]
    """Evaluations by trial number."""
    spans: Mapping[int, Sequence[Span]] = field(default_factory=dict)
    """When and where trials trained, by number."""
    examples: int | None
    """Size of the training set."""
    space: Mapping[str, Any]
    """model, data, training, metrics and search, as the recipe says them."""
    probes: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Learning rates that a cell was asked to search, where the ledger knows them."""
    calibration: Mapping[str, Any] | None = None
    """How the targets were found before the search; None: the recipe sets them."""
    verification: Mapping[str, Any] | None = None
    """What the best configurations came to on fresh seeds, as the ledger notes it; None: not run again, or not all."""
    too_large: int | None = None
    """The smallest batch size that was left out, since it was found not to fit into memory before any trial."""
    ended: str = ""
    """Why the search has ended, in words; empty while it runs, and where nobody noted it."""

    @property
    def objective(self) -> str:
        """The metric that decides."""
        return str(self.metrics["objective"])

    @property
    def direction(self) -> str:
        """`min` or `max`."""
        return str(self.metrics.get("direction") or "min")

    @property
    def target(self) -> float | None:
        """The value to reach."""
        value = self.metrics.get("target")
        return None if value is None else float(value)

    @property
    def easier_target(self) -> float | None:
        """A value that is reached before the target."""
        value = self.metrics.get("easier_target")
        return None if value is None else float(value)

    @property
    def target_metric(self) -> str:
        """The metric that the target is about."""
        return str(self.metrics.get("target_metric") or self.objective)

    @property
    def target_direction(self) -> str:
        """Whether the target is reached from above (min) or below (max)."""
        return str(self.metrics.get("target_direction") or self.direction)

    @property
    def memory_limit(self) -> int | None:
        """The largest batch size that fitted into memory, if a larger one was tried and did not."""
        found = self.probes.get("largest") or {}
        ended = any(not one["fits"] for one in found.get("tried") or ())
        return int(found["largest"]) if ended and is_number(found.get("largest")) else None

    @property
    def largest(self) -> int | None:
        """The largest batch size that the training set and memory allow."""
        return min((limit for limit in (self.examples, self.memory_limit) if limit is not None), default=None)

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is a better objective than `b`."""
        return a < b if self.direction == "min" else a > b

    def best(self, rows: Sequence[Row]) -> Row | None:
        """The row to recommend: by what is expected of it on a fresh seed, where that is known, else by its value.

        Only finite values count; ties go to the lower number.
        """
        judged = [row for row in rows if counts(row)]
        return min(judged, key=lambda row: (rank(row, self.sign), row["number"]), default=None)

    @property
    def sign(self) -> float:
        """-1 where a large objective is good, otherwise 1."""
        return 1.0 if self.direction == "min" else -1.0


def load(folder: Path) -> StudyData:
    """Read a study's folder.

    Raises:
        ValueError: if it holds no ledger, or a damaged one.
    """
    with Ledger.open(folder, create=False) as ledger:
        notes = {key: ledger.meta(key) for key in NOTES}
    rows = study_rows.trials(folder)
    return StudyData(
        name=notes["study"] or Path(folder).name,
        metrics=notes["metrics"] or {"objective": "val_loss", "direction": "min"},
        trials=rows,
        curves=_by_trial(study_rows.curves(folder)),
        spans=study_rows.spans(folder),
        examples=training_examples(rows),
        space=notes["space"] or {},
        **_noted(notes),
    )


def from_remote(remote: Remote) -> StudyData:
    """A study as MLflow has it."""
    return StudyData(
        name=remote.name,
        metrics=remote.metrics,
        trials=remote.trials,
        curves=_by_trial(remote.curves),
        spans=remote.spans,
        examples=training_examples(remote.trials),
        space=remote.space,
        **_noted(remote.notes),
    )


def _noted(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured besides the trials, as `StudyData` has it."""
    bounds = notes.get("bounds") or {}
    return {
        "probes": notes.get("probes") or {},
        "bounds": {cell: (low, high) for cell, (low, high) in bounds.items()},
        "calibration": notes.get("calibration"),
        "verification": notes.get("verification"),
        "ended": notes.get("ended") or "",
        "too_large": notes.get("too_large"),
    }


def training_examples(rows: Sequence[Row]) -> int | None:
    """Size of the training set: examples seen over epochs passed, of the trial that saw most."""
    longest = max((row for row in rows if row.get("epochs")), key=lambda row: row["examples"] or 0, default=None)
    return None if longest is None else round(longest["examples"] / longest["epochs"])


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def counts(row: Row) -> bool:
    """Whether a trial has a result that can be used: what diverged may have a value of its way there."""
    return row["status"] not in INFEASIBLE and is_number(row.get("value"))


def _by_trial(points: Sequence[Row]) -> dict[int, list[Row]]:
    curves = defaultdict(list)
    for point in points:
        curves[point["trial"]].append(point)
    return curves
