"""Runs kept in memory, under the guarantees of MLflow's: for whoever wants to look at what would be sent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracking.runs import KEY, MetricPoint, RunStatus, WholeRun, WriteRefused, cut, record_each


@dataclass(slots=True)
class MemoryRun:
    """A run as `MemoryWriter` keeps it."""

    name: str
    started_ms: int
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    points: dict[tuple[Any, ...], MetricPoint] = field(default_factory=dict)
    """By what makes two points equal; NaN counts as equal to itself."""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: RunStatus = "RUNNING"
    ended_ms: int | None = None
    watched: bool = False


class MemoryWriter:
    """Keeps runs in memory, under the same guarantees."""

    at_once = 0

    def __init__(self) -> None:
        self.calls = 0
        self.runs: dict[str, MemoryRun] = {}
        self.experiment_name = ""
        self.experiment_tags: dict[str, str] = {}

    def experiment(self, name: str) -> None:
        """Remember the name."""
        self.calls += 1
        self.experiment_name = name

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Remember the tags."""
        self.calls += 1
        self.experiment_tags |= tags

    def find_run(self, key: str) -> str | None:
        """Look through all runs."""
        self.calls += 1
        return next((run_id for run_id, run in self.runs.items() if run.tags[KEY] == key), None)

    def open_run(self, key: str, *, name: str, tags: Mapping[str, str], started_ms: int) -> str:
        """A new run in the dictionary."""
        self.calls += 1
        run_id = uuid.uuid4().hex
        self.runs[run_id] = MemoryRun(name, started_ms, {**cut("tag", tags), KEY: key})
        return run_id

    def log(
        self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], points: Sequence[MetricPoint]
    ) -> None:
        """Add what is new."""
        run = self._run(run_id)
        for key, value in cut("param", params).items():
            if run.params.setdefault(key, value) != value:
                raise WriteRefused(f"the param {key!r} is {run.params[key]!r} and cannot become {value!r}")
        run.tags |= cut("tag", tags)
        run.points |= {(point.key, point.step, point.timestamp_ms, repr(point.value)): point for point in points}

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        """Set status and end."""
        run = self._run(run_id)
        run.status, run.ended_ms = status, ended_ms if status != "RUNNING" else run.ended_ms

    def close_runs(self, run_ids: Sequence[str], status: RunStatus, ended_ms: int) -> None:
        """One after the other."""
        for run_id in run_ids:
            self.close_run(run_id, status, ended_ms)

    def record(self, runs: Sequence[WholeRun]) -> list[str]:
        """One run after the other."""
        return record_each(self, runs)

    def artifact(self, run_id: str, name: str, content: bytes) -> None:
        """Keep the bytes."""
        self._run(run_id).artifacts[name] = content

    def watch(self, run_id: str) -> None:
        """Note that it was asked for."""
        self._run(run_id).watched = True

    def close(self) -> None:
        """Nothing goes on in the background."""

    def _run(self, run_id: str) -> MemoryRun:
        self.calls += 1
        if run_id not in self.runs:
            raise WriteRefused(f"there is no run {run_id!r}")
        return self.runs[run_id]
