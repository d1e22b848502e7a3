"""Real stores to write to, and what they hold, read back past the writers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from tracking.direct_runs import DirectWriter
from tracking.memory_runs import MemoryWriter
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import MetricPoint, RunWriter

QUIET = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
"""MLflow 3.17 against SQLAlchemy 2.1, when it is imported."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as its store has it."""

    name: str
    started_ms: int
    ended_ms: int | None
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[MetricPoint]
    """By key, then step; without those of the machine's use."""
    artifacts: dict[str, bytes]
    watched: bool


def mlflow_home(factory: pytest.TempPathFactory) -> Path:
    """The state folder whose MLflow database all tests of a session share: making one takes 4 s."""
    return factory.getbasetemp() / "mlflow_home"


def open_mlflow(factory: pytest.TempPathFactory, kind: type[MlflowWriter] = DirectWriter) -> MlflowWriter:
    """A writer to that database: as a search has it, or one that knows MLflow's client alone."""
    return kind(None, mlflow_home(factory))


def open_store(kind: str, factory: pytest.TempPathFactory) -> RunWriter:
    """A writer of each kind that there is."""
    if kind == "memory":
        return MemoryWriter()
    return open_mlflow(factory, {"client": MlflowWriter, "direct": DirectWriter}[kind])


KINDS = ("memory", "client", "direct")
"""What `open_store` makes."""


def seen(writer: RunWriter, run_id: str) -> Seen:
    """One run, whatever the store."""
    if isinstance(writer, MemoryWriter):
        run = writer.runs[run_id]
        points = sorted(run.points.values(), key=lambda point: (point.key, point.step))
        return Seen(
            name=run.name,
            started_ms=run.started_ms,
            ended_ms=run.ended_ms,
            status=run.status,
            params=run.params,
            tags=run.tags,
            points=points,
            artifacts=run.artifacts,
            watched=run.watched,
        )
    assert isinstance(writer, MlflowWriter)
    return _seen_in_mlflow(writer, run_id)


def _seen_in_mlflow(writer: MlflowWriter, run_id: str) -> Seen:
    client = mlflow.MlflowClient(writer.uri)
    run = client.get_run(run_id)
    history = [metric for key in sorted(run.data.metrics) for metric in client.get_metric_history(run_id, key)]
    points = [MetricPoint(metric.key, metric.value, metric.timestamp, metric.step) for metric in history]
    own = [point for point in points if not point.key.startswith("system/")]
    folder = Path(run.info.artifact_uri)
    return Seen(
        name=run.info.run_name,
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
        status=run.info.status,
        params=run.data.params,
        tags=run.data.tags,
        points=sorted(own, key=lambda point: (point.key, point.step)),
        artifacts={str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()},
        watched=len(own) < len(points),
    )


def all_runs(writer: RunWriter) -> list[str]:
    """Ids of the runs of the writer's experiment."""
    if isinstance(writer, MemoryWriter):
        return list(writer.runs)
    assert isinstance(writer, MlflowWriter)
    client = mlflow.MlflowClient(writer.uri)
    return [run.info.run_id for run in client.search_runs([writer.experiment_id], max_results=1000)]
