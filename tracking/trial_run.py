"""One trial read back from its MLflow run alone: its whole configuration, where it was trained, its curve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.client import connected, tracking_uri
from tracking.long_tags import joined
from tracking.projection import CONFIG
from tracking.remote import RESULT, SEARCH_FIRST, history_of, pages, runs_of, search_run
from tracking.runs import KEY, PARENT

SHORTEST = 6
"""Characters of a run's id that must be given: fewer may be those of another run, or a trial's number."""
NAMED = 3
"""Runs named at most where several begin alike."""
FIND = "Its page in the MLflow UI (`regatta ui`) says it; `--study NAME NUMBER` finds a trial by its number."


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRun:
    """What MLflow holds of one trial."""

    run_id: str
    name: str
    """The run's name: number and cell."""
    study: str
    number: int
    status: str
    """As the ledger has it; RUNNING for a trial that was interrupted, too."""
    steps: int | None
    """Optimizer steps at its end; None before that."""
    config: Mapping[str, Any]
    """The `TrainConfig` as plain JSON values."""
    curve: Mapping[int, Mapping[str, float]]
    """By step, what was measured there: MLflow's keys and values."""
    tags: Mapping[str, str]


def fetch_trial(run: str, *, study: str | None, uri: str | None, home: Path) -> TrialRun:
    """Read one trial, of a search that may still be running.

    Args:
        run: its run's id, or how that begins; with a study, the trial's number.
        study: the study of that number.
        uri: MLflow's tracking URI; None: as `tracking.client.tracking_uri` finds it.
        home: the state folder.

    Raises:
        ValueError: if there is no such trial, or if its run does not hold its configuration.
        ConnectionError: if MLflow cannot be reached, or does not answer.
    """
    with connected(tracking_uri(uri, home), what="results", remedy=SEARCH_FIRST) as client:
        found = _of_id(client, run) if study is None else _of_number(client, run, study)
        _check_kind(found)
        config = _config(found)
        curve = _curve(history_of(client, found))
    tags, steps = found.data.tags, found.data.metrics.get(f"{RESULT}steps")
    return TrialRun(
        run_id=found.info.run_id,
        name=found.info.run_name,
        study=tags.get("study", ""),
        number=int(tags["trial"]),
        status=tags["status"],
        steps=None if steps is None else int(steps),
        config=config,
        curve=curve,
        tags=tags,
    )


def _of_id(client: Any, run: str) -> Any:
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},32}}", run):
        raise ValueError(
            f"`run` must be a run's id in MLflow, or its first {SHORTEST} characters or more, but got {run!r}. {FIND}"
        )
    experiments = [found.experiment_id for found in pages(client.search_experiments)]
    found = runs_of(client, experiments, f"attributes.run_id LIKE '{run}%'")
    if not found:
        raise ValueError(f"`run` must be the id of a run that MLflow has, but none is, or begins with, {run!r}. {FIND}")
    if len(found) > 1:
        named = ", ".join(f"{one.info.run_id} ({one.info.run_name})" for one in found[:NAMED])
        raise ValueError(
            f"`run` must be the id of one run, but {len(found)} begin with {run!r}: {named}. Give more of it."
        )
    return found[0]


def _of_number(client: Any, number: str, study: str) -> Any:
    if not number.isdecimal():
        raise ValueError(f"with `--study`, `run` must be a trial's number, but got {number!r}. Leave out `--study`.")
    parent = search_run(client, study)
    query = f"tags.`{PARENT}` = '{parent.info.run_id}' AND tags.trial = '{int(number)}'"
    found = runs_of(client, [parent.info.experiment_id], query)
    if not found:
        raise ValueError(f"`run` must be the number of a trial of {study} that MLflow has, but got {number}.")
    return found[0]


def _check_kind(run: Any) -> None:
    kind = run.data.tags.get(KEY, "").rpartition(":")[2]
    if kind.isdecimal():
        return
    kinds = {
        "search": "that of a whole search; its trials are the runs below it",
        "production": "a production training, which `regatta train` trains",
    }
    what = kinds.get(kind, "none of Regatta's")
    raise ValueError(f"`run` must be that of a trial, but {run.info.run_id} ({run.info.run_name}) is {what}.")


def _config(run: Any) -> dict[str, Any]:
    text = joined(CONFIG, run.data.tags)
    if not text:
        raise ValueError(
            f"the run {run.info.run_id} must have its configuration in the tag `{CONFIG}`, but it was written by an "
            "earlier version of Regatta. Search again with this one."
        )
    try:
        config: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"the tag `{CONFIG}` of the run {run.info.run_id} must be JSON, but it has been changed: {error}."
        ) from error
    return config


def _curve(history: Mapping[str, list[Any]]) -> dict[int, dict[str, float]]:
    """Measurements by step; of a trial that had to start again, those of the second try."""
    points: dict[int, dict[str, float]] = {}
    for key, values in history.items():
        for metric in sorted(values, key=lambda metric: metric.timestamp):
            points.setdefault(metric.step, {})[key] = metric.value
    return {step: points[step] for step in sorted(points)}
