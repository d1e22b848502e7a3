"""Where runs are written: the `RunWriter` protocol, and what MLflow takes for names and texts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

KEY = "regatta.key"
"""The tag by which a run is found again when its id was never learnt."""
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"

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


@functools.lru_cache(maxsize=10_000)  # the same few names come with every evaluation
def legal_name(name: str) -> str:
    """A name that MLflow takes for a metric or param: word characters, `_-. :` and single slashes, 250 at most."""
    parts = [part for part in re.sub(r"[^\w.\- :/]", "_", name).split("/") if part.strip(".")]
    return "/".join(parts)[:250].rstrip("/") or "_"


def cut(kind: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Texts no longer than MLflow takes them."""
    longest, mark = LONGEST[kind], " ... (cut)"
    return {key: text if len(text) <= longest else text[: longest - len(mark)] + mark for key, text in texts.items()}
