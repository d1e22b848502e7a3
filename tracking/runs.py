"""Where runs are written: the `RunWriter` protocol, and MLflow behind it."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol

from tracking.client import FINAL_REFUSALS, SQLITE, one_line, own_database, set_defaults, tracking_uri

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

KEY = "regatta.key"
"""The tag by which a run is found again when its id was never learnt."""
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"

METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
LONGEST = {"param": 6000, "tag": 8000}
"""MLflow's limits; a longer text is cut and marked."""


class MetricPoint(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeRun:
    """A run, and all that there is to say of it by now."""

    key: str
    name: str
    started_ms: int
    ended_ms: int | None
    """None while it is RUNNING."""
    status: RunStatus
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[MetricPoint]

    def size(self) -> int:
        """How many values it consists of."""
        return len(self.tags) + len(self.params) + len(self.points)


class WriteRefused(ValueError):
    """The store answered, and will answer the same again: a deleted run, a changed param, an illegal name."""


class RunWriter(Protocol):
    """Writes runs of one experiment, synchronously: what a method has returned from is stored.

    Every method but `open_run` and `record` may be repeated with the same arguments and then changes nothing. All raise
    `ConnectionError` when the store cannot be reached (try again later) and `WriteRefused` when it answers no (trying
    again is no use).
    """

    calls: int
    """Requests made to the store so far, and transactions where it is written without requests."""
    at_once: int
    """How many values `record` writes best in one go; 0 where a whole run is some requests like any other."""

    def experiment(self, name: str) -> None:
        """Make all further runs part of this experiment, which is created if there is none."""

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, in place of earlier ones."""

    def find_run(self, key: str) -> str | None:
        """Id of the run that was opened with this key; None if there is none."""

    def open_run(self, key: str, *, name: str, tags: Mapping[str, str], started_ms: int) -> str:
        """A new run's id. Interrupted, it may have made one all the same: `find_run` before the next try."""

    def log(
        self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], points: Sequence[MetricPoint]
    ) -> None:
        """Add to a run, ended or not. A param never changes; a tag is overwritten; an equal point is stored once."""

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        """Set how a run ended and when; RUNNING opens it again."""

    def close_runs(self, run_ids: Sequence[str], status: RunStatus, ended_ms: int) -> None:
        """The same of many. Interrupted or refused, it may have closed some of them all the same."""

    def record(self, runs: Sequence[WholeRun]) -> list[str]:
        """New runs as `open_run`, `log` and, of those that have ended, `close_run` would make them; their ids in order.

        Interrupted or refused, it may have made some of them all the same, whole or in part.
        """

    def artifact(self, run_id: str, name: str, content: bytes) -> None:
        """Store a file with a run, in place of an earlier one of that name, which may have folders in it."""

    def watch(self, run_id: str) -> None:
        """Record this machine's processor, memory and GPU use on a run until `close`, or until the run ends."""

    def close(self) -> None:
        """End what goes on in the background."""


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


def record_each(writer: RunWriter, runs: Sequence[WholeRun]) -> list[str]:
    """`record` for a writer that has nothing better than its other methods."""
    made = []
    for run in runs:
        run_id = writer.open_run(run.key, name=run.name, tags=run.tags, started_ms=run.started_ms)
        writer.log(run_id, params=run.params, tags={}, points=run.points)
        if run.ended_ms is not None:
            writer.close_run(run_id, run.status, run.ended_ms)
        made.append(run_id)
    return made


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


@functools.lru_cache(maxsize=10_000)  # the same few names come with every evaluation
def legal_name(name: str) -> str:
    """A name that MLflow takes for a metric or param: word characters, `_-. :` and single slashes, 250 at most."""
    parts = [part for part in re.sub(r"[^\w.\- :/]", "_", name).split("/") if part.strip(".")]
    return "/".join(parts)[:250].rstrip("/") or "_"


def cut(kind: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Texts no longer than MLflow takes them."""
    longest, mark = LONGEST[kind], " ... (cut)"
    return {key: text if len(text) <= longest else text[: longest - len(mark)] + mark for key, text in texts.items()}


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
