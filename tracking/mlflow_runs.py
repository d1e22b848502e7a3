"""Runs written to MLflow through its client."""

from __future__ import annotations

import importlib
import itertools
import os
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tracking.client import FINAL_REFUSALS, SQLITE, one_line, own_database, set_defaults, tracking_uri
from tracking.runs import KEY, MetricPoint, RunStatus, WholeRun, WriteRefused, cut, record_each

METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
"""MLflow's limits."""


class MlflowWriter:
    """Writes to an MLflow store through `MlflowClient` alone: no active run, no global tracking URI."""

    at_once = 0

    def __init__(self, uri: str | None, home: Path) -> None:
        """Import MLflow (2 s) and open the store (a new database in `home`: 4 s); meant for a background thread."""
        set_defaults()
        self.calls = 0
        self.uri = tracking_uri(uri, home)
        self._own = self.uri == f"{SQLITE}{own_database(home)}"
        self._artifacts = home.absolute() / "mlartifacts"
        self.experiment_id = ""
        self._monitor: Any = None
        # Not at the top of the file: whoever starts a search would wait for it.
        self._mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        if self._own:
            _create_database(own_database(home), self._artifacts)
        with self._calling(0):
            self._client = self._mlflow.MlflowClient(self.uri)

    def experiment(self, name: str) -> None:
        """Look the experiment up, or create it; MLflow's own artifact folder only with a server of the user's."""
        with self._calling():
            found = self._client.get_experiment_by_name(name)
        if found is None:
            found = self._create_experiment(name)
        if found.lifecycle_stage != "active":
            raise WriteRefused(
                f"the MLflow experiment {name!r} was deleted. Restore it (`mlflow experiments restore "
                f"-x {found.experiment_id}`), or set another name in `tracking.experiment`."
            )
        self.experiment_id = found.experiment_id

    def _create_experiment(self, name: str) -> Any:
        place = str(self._artifacts) if self._own else None
        # The UI's page for training; MLflow otherwise asks the user whether it is one for language-model traces.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            with self._calling():
                self._client.create_experiment(name, artifact_location=place, tags=kind)
        except WriteRefused:
            pass  # someone else was faster
        with self._calling():
            return self._client.get_experiment_by_name(name)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """One request for each."""
        for key, value in tags.items():
            with self._calling():
                self._client.set_experiment_tag(self.experiment_id, key, value)

    def find_run(self, key: str) -> str | None:
        """Search the experiment for the key's tag; deleted runs do not count."""
        with self._calling():
            found = self._client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def open_run(self, key: str, *, name: str, tags: Mapping[str, str], started_ms: int) -> str:
        """`create_run` with explicit experiment, start and tags."""
        texts = {**cut("tag", tags), KEY: key}
        with self._calling():
            run = self._client.create_run(self.experiment_id, start_time=started_ms, tags=texts, run_name=name)
        return str(run.info.run_id)

    def log(
        self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], points: Sequence[MetricPoint]
    ) -> None:
        """As few `log_batch` requests as MLflow's limits allow."""
        metric, param, tag = self._entities.Metric, self._entities.Param, self._entities.RunTag
        batches = itertools.zip_longest(
            _chunks([param(key, value) for key, value in cut("param", params).items()], PARAMS_PER_CALL),
            _chunks([tag(key, value) for key, value in cut("tag", tags).items()], TAGS_PER_CALL),
            # MLflow counts all three kinds together against its limit.
            _chunks([metric(*point) for point in points], METRICS_PER_CALL - PARAMS_PER_CALL - TAGS_PER_CALL),
            fillvalue=(),
        )
        for some_params, some_tags, some_metrics in batches:
            with self._calling():
                self._client.log_batch(
                    run_id, metrics=some_metrics, params=some_params, tags=some_tags, synchronous=True
                )

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        """`set_terminated`; `update_run` to open it again."""
        with self._calling():
            if status == "RUNNING":  # `set_terminated` would give it an end
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, ended_ms)

    def close_runs(self, run_ids: Sequence[str], status: RunStatus, ended_ms: int) -> None:
        """One after the other."""
        for run_id in run_ids:
            self.close_run(run_id, status, ended_ms)

    def record(self, runs: Sequence[WholeRun]) -> list[str]:
        """One run after the other."""
        return record_each(self, runs)

    def artifact(self, run_id: str, name: str, content: bytes) -> None:
        """`log_artifact`, which takes the name from a file."""
        place = PurePosixPath(name)
        with tempfile.TemporaryDirectory() as folder, self._calling():
            file = Path(folder) / place.name
            file.write_bytes(content)
            self._client.log_artifact(run_id, str(file), str(place.parent) if len(place.parts) > 1 else None)

    def watch(self, run_id: str) -> None:
        """MLflow's own monitor, which has a thread and a client of its own."""
        if self._monitor is None:
            monitor = importlib.import_module("mlflow.system_metrics.system_metrics_monitor").SystemMetricsMonitor
            with self._calling():
                self._monitor = monitor(run_id, resume_logging=True, tracking_uri=self.uri)
            self._monitor.start()

    def close(self) -> None:
        """Stop the monitor."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    @contextmanager
    def _calling(self, requests: int = 1) -> Iterator[None]:
        """Count a request, and turn MLflow's many exceptions into the two that a `RunWriter` has."""
        self.calls += requests
        try:
            yield
        except OSError as error:  # files of artifacts; requests' own errors are of this kind too
            raise ConnectionError(one_line(error)) from error
        except self._mlflow.MlflowException as error:
            sentence = one_line(error)
            if error.error_code in FINAL_REFUSALS:
                raise WriteRefused(sentence) from error
            raise ConnectionError(sentence) from error


def _create_database(path: Path, artifacts: Path) -> None:
    """Make MLflow's database elsewhere and link it into place: whoever looks finds a whole one or none.

    MLflow migrates a new file in steps for seconds; stopped or met by another process in between, it is left unusable.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".mlflow.{uuid.uuid4().hex[:8]}")
    store = importlib.import_module("mlflow.store.tracking.sqlalchemy_store").SqlAlchemyStore
    try:
        store(f"{SQLITE}{temporary}", str(artifacts)).engine.dispose()
        connection = sqlite3.connect(temporary)
        try:
            # Kept in the file: the UI can then read while a search writes, and a commit needs fewer flushes.
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process has made one meanwhile
    finally:
        temporary.unlink(missing_ok=True)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
