"""Whole runs written into the tables of MLflow's own database, many in one transaction, row for row as by its client.

The client takes three calls and some 20 ms of processor time for a run, most of it in objects that are made, looked up
and compared one by one. Whatever is not as expected here is left to it.
"""

from __future__ import annotations

import importlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracking.client import SQLITE, one_line
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import KEY, MetricPoint, RunStatus, WholeRun, WriteRefused, cut, legal_name

AT_ONCE = 5000
"""Values in one transaction: they lock the database for some 50 ms, or as much longer as this thread has to wait."""
LARGEST = math.nextafter(math.inf, 0)
RUN_NAME, USER = "mlflow.runName", "mlflow.user"
AWAY = "TEMPORARILY_UNAVAILABLE"
"""MLflow's error code for all that may be better at the next try."""
METRIC_COLUMNS = {"key", "value", "timestamp", "step", "is_nan", "run_uuid"}
COLUMNS = {
    "SqlRun": {
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time"),
        *("end_time", "deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
    },
    "SqlTag": {"key", "value", "run_uuid"},
    "SqlParam": {"key", "value", "run_uuid"},
    "SqlMetric": METRIC_COLUMNS,
    "SqlLatestMetric": METRIC_COLUMNS,
}
"""MLflow's models that a run fills, in an order that keeps their references, and all of their columns."""

Row = dict[str, Any]


class DirectWriter(MlflowWriter):
    """An `MlflowWriter` that writes whole runs past the client where the store is an SQLite database that it knows."""

    def __init__(self, uri: str | None, home: Path) -> None:
        """As an `MlflowWriter`; then look at MLflow's tables."""
        super().__init__(uri, home)
        self._tables = RunTables.behind(self._client) if self.uri.startswith(SQLITE) else None
        self.at_once = AT_ONCE if self._tables else 0

    def record(self, runs: Sequence[WholeRun]) -> list[str]:
        """All of them or none, in one transaction, which counts as one call."""
        if self._tables is None:
            return super().record(runs)
        with self._calling():
            return self._tables.insert(self.experiment_id, runs)

    def close_runs(self, run_ids: Sequence[str], status: RunStatus, ended_ms: int) -> None:
        """All of them or none, in one transaction, which counts as one call."""
        if self._tables is None:
            super().close_runs(run_ids, status, ended_ms)
            return
        with self._calling():
            self._tables.close(run_ids, status, ended_ms)


class RunTables:
    """MLflow's tables of runs, as its own models describe them."""

    def __init__(self, store: Any, tables: Mapping[str, Any]) -> None:
        """Takes hold of all that is used of MLflow, so that what another version lacks is missed here."""
        self._tables = tables
        self._session, self._folder = store.ManagedSessionMaker, store.ARTIFACTS_FOLDER_NAME
        self._experiment, self._check_active = store.get_experiment, store._check_experiment_is_active
        self._active_model = importlib.import_module("mlflow.tracking.fluent").get_active_model_id
        self._append = importlib.import_module("mlflow.utils.uri").append_to_uri_path

    @classmethod
    def behind(cls, client: Any) -> RunTables | None:
        """Those of a client's store; None if there are none, or others than this file was written for."""
        try:
            store = client._tracking_client.store
            kind = importlib.import_module("mlflow.store.tracking.sqlalchemy_store").SqlAlchemyStore
            models = importlib.import_module("mlflow.store.tracking.dbmodels.models")
            tables = {name: getattr(models, name).__table__ for name in COLUMNS}
            known = all({column.name for column in tables[name].columns} == COLUMNS[name] for name in COLUMNS)
            return cls(store, tables) if type(store) is kind and known else None
        except (AttributeError, ImportError):
            return None

    def insert(self, experiment_id: str, runs: Sequence[WholeRun]) -> list[str]:
        """Make these runs in an active experiment; their ids.

        Raises:
            MlflowException: the database is locked, full or away.
            WriteRefused: whatever else there is; nothing has been written.
        """
        ids = [uuid.uuid4().hex for _ in runs]
        with _told():
            experiment = self._experiment(experiment_id)
            self._check_active(experiment)
            rows = self._rows(experiment, dict(zip(ids, runs, strict=True)))
            with self._session(read_only=False) as session:
                for name in filter(rows.get, COLUMNS):
                    session.execute(self._tables[name].insert(), rows[name])
        return ids

    def close(self, run_ids: Sequence[str], status: RunStatus, ended_ms: int) -> None:
        """Set the status of active runs, and when they ended unless they run again.

        Raises:
            MlflowException: the database is locked, full or away.
            WriteRefused: whatever else there is, a run that is not there too; nothing has been written.
        """
        table = self._tables["SqlRun"]
        values = {"status": status, **({} if status == "RUNNING" else {"end_time": ended_ms})}
        with _told(), self._session(read_only=False) as session:
            active = table.c.run_uuid.in_(run_ids) & (table.c.lifecycle_stage == "active")
            changed = session.execute(table.update().where(active).values(values)).rowcount
            if changed != len(run_ids):
                raise WriteRefused(f"{len(run_ids) - changed} runs are deleted")

    def _rows(self, experiment: Any, runs: Mapping[str, WholeRun]) -> dict[str, list[Row]]:
        if self._active_model() is not None:
            raise WriteRefused("MLflow's client adds points to the model that is active, and this way does not")
        rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
        for run_id, run in runs.items():
            tags = {**cut("tag", run.tags), KEY: run.key}
            artifacts = self._append(experiment.artifact_location, run_id, self._folder)
            head = {"run_uuid": run_id, "experiment_id": int(experiment.experiment_id), "artifact_uri": artifacts}
            points = list(_points(run_id, run.points))
            rows["SqlRun"].append(head | _head(run, tags))
            rows["SqlTag"] += _texts(run_id, tags)
            rows["SqlTag"].append({"run_uuid": run_id, "key": RUN_NAME, "value": run.name})
            rows["SqlParam"] += _texts(run_id, cut("param", run.params))
            rows["SqlMetric"] += points
            rows["SqlLatestMetric"] += _latest(points)
        return rows


@contextmanager
def _told() -> Iterator[None]:
    """Whatever it is that fails, MLflow's client tells better which run is to blame."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", None) == AWAY:
            raise
        raise WriteRefused(one_line(error)) from error


def _head(run: WholeRun, tags: Mapping[str, str]) -> Row:
    ended = run.ended_ms is None if run.status == "RUNNING" else run.ended_ms
    if RUN_NAME in tags or not (run.name and run.started_ms and ended):
        raise WriteRefused(f"MLflow's client would complete or correct the run {run.name!r}")
    return {
        "name": run.name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": tags.get(USER, "unknown"),
        "status": run.status,
        "start_time": run.started_ms,
        "end_time": run.ended_ms,
        "deleted_time": None,
        "source_version": "",
        "lifecycle_stage": "active",
    }


def _texts(run_id: str, texts: Mapping[str, str]) -> Iterator[Row]:
    for key, value in texts.items():
        yield {"run_uuid": run_id, "key": _legal(key), "value": value}


def _points(run_id: str, points: Sequence[MetricPoint]) -> Iterator[Row]:
    """Equal ones once. NaN is a zero with a mark, an infinity the largest number: SQL has neither."""
    seen = set()
    for key, number, timestamp_ms, step in points:
        if timestamp_ms < 0:
            raise WriteRefused(f"the time of a point of {key!r} must not be negative, but is {timestamp_ms}")
        is_nan = math.isnan(number)
        value = 0.0 if is_nan else min(max(number, -LARGEST), LARGEST)
        identity = (key, value, timestamp_ms, step, is_nan)
        if identity not in seen:
            seen.add(identity)
            yield {
                "run_uuid": run_id,
                "key": _legal(key),
                "value": value,
                "timestamp": timestamp_ms,
                "step": step,
                "is_nan": is_nan,
            }


def _latest(points: Sequence[Row]) -> list[Row]:
    """The last of each key by step, then time, then value; the first of those that are equal in all three."""
    latest: dict[str, Row] = {}
    for row in points:
        last = latest.setdefault(row["key"], row)
        if _order(row) > _order(last):
            latest[row["key"]] = row
    return list(latest.values())


def _order(row: Row) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]


def _legal(name: str) -> str:
    if legal_name(name) != name:
        raise WriteRefused(f"the name {name!r} must be one that MLflow takes, such as {legal_name(name)!r}")
    return name
