"""A production training in MLflow: one run in the study's experiment, its evaluations as they come, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracking import projection
from tracking.runs import MetricPoint, RunStatus, RunWriter, WriteRefused, legal_name

REST = 15.0
"""Seconds until the next try while the store is away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a run says of its training from the start."""

    key: str
    """By which it is found again."""
    experiment: str
    name: str
    started: float
    """Unix time; an evaluation's time of day is this plus the seconds of training up to it."""
    batch_size: int
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    """A tree; its leaves become params with dotted names."""
    files: Mapping[str, bytes]


class ProductionRun:
    """Keeps one run up with a training. A store that is away is tried again, and never stands in the way.

    Everything may be sent twice: MLflow keeps an equal point once.
    """

    def __init__(self, head: Head, writer: Callable[[], RunWriter]) -> None:
        self._head, self._open_writer = head, writer
        self._writer: RunWriter | None = None
        self._run: str | None = None
        self._sent = -1
        self._known = 0
        self._next_try = 0.0
        self.problem: str | None = None
        """Why MLflow is behind, in one line; None while all is well."""

    def update(self, points: Sequence[Mapping[str, float]]) -> None:
        """Send the evaluations that the run lacks, from the first on; not before the next try is due."""
        if len(points) > self._known and time.monotonic() >= self._next_try:
            self._attempt(lambda: self._send(points))
            self._known = len(points) if self.problem is None else self._known

    def finish(
        self,
        points: Sequence[Mapping[str, float]],
        *,
        status: RunStatus,
        numbers: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> bool:
        """Send the rest and close the run, which RUNNING leaves open; returns whether MLflow has it."""

        def send() -> None:
            writer, run = self._send(points)
            # The same whenever it is sent, as the points are: sent twice, it is there once.
            seconds = points[-1].get("seconds", 0.0) if points else 0.0
            ended = round(1000 * (self._head.started + seconds))
            final = [MetricPoint(legal_name(name), float(value), ended, 0) for name, value in numbers.items()]
            writer.log(run, params={}, tags=_legal(tags), points=final)
            for name, content in files.items():
                writer.artifact(run, name, content)
            writer.close_run(run, status, round(1000 * time.time()))

        self._attempt(send)
        return self.problem is None

    def close(self) -> None:
        """Let go of the store."""
        if self._writer is not None:
            self._writer.close()

    def _attempt(self, send: Callable[[], Any]) -> None:
        try:
            send()
            self.problem = None
        except (ConnectionError, WriteRefused) as error:
            self.problem = " ".join(str(error).split())
            self._next_try = time.monotonic() + REST

    def _send(self, points: Sequence[Mapping[str, float]]) -> tuple[RunWriter, str]:
        writer, run = self._opened()
        config = {"train": {"batch_size": self._head.batch_size}}
        segment = {"curve": points, "started": self._head.started, "seconds": 0.0}
        metrics = projection.points(config, [segment], after=self._sent)
        if metrics:
            writer.log(run, params={}, tags={}, points=metrics)
            self._sent = max(point.step for point in metrics)
        return writer, run

    def _opened(self) -> tuple[RunWriter, str]:
        head = self._head
        if self._writer is None:
            self._writer = self._open_writer()
        if self._run is None:
            self._writer.experiment(head.experiment)
            started_ms = round(1000 * head.started)
            found = self._writer.find_run(head.key)
            run = found or self._writer.open_run(
                head.key, name=head.name, tags=_legal(head.tags), started_ms=started_ms
            )
            self._writer.close_run(run, "RUNNING", started_ms)
            self._writer.log(run, params=projection.study_params(head.params), tags={}, points=[])
            for name, content in head.files.items():
                self._writer.artifact(run, name, content)
            self._run = run
        return self._writer, self._run


def _legal(tags: Mapping[str, str]) -> dict[str, str]:
    return {legal_name(name): value for name, value in tags.items() if value}
