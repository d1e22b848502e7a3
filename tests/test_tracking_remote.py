"""What MLflow has of a study reads like its folder: the same rows, the same analysis."""

from __future__ import annotations

import csv
import dataclasses
import math
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
from tracking_rows import STARTED, point, result, segment, trial
from tracking_stores import QUIET, mlflow_home, open_mlflow

from search.trial import TrialResult
from tracking import query
from tracking import rows as study_rows
from tracking.analysis.convergence import FIGURES
from tracking.analysis.data import from_remote, load
from tracking.analysis.study import analyse
from tracking.files import announce_notes
from tracking.ledger import Ledger
from tracking.mlflow_runs import MlflowWriter
from tracking.remote import Remote, fetch, pages, runs_of
from tracking.sending import push
from tracking.spans import TAG
from tracking.tables import write_tables

pytestmark = QUIET

SPACE: dict[str, Any] = {
    "model": {"class_path": "models.task.Classifier", "init_args": {"net": "mlp"}},
    "data": {"class_path": "models.data.Digits", "init_args": {}, "batch_size_arg": "batch_size"},
    "training": {"epochs": 3, "weight_decay": 0.0, "precision": "32-true"},
    "metrics": {"objective": "val_loss", "direction": "min", "select": "best", "target": 0.5},
    "search": {
        "batch_sizes": [32],
        "optimizers": {"sgd": {"momentum": {"low": 0.8, "high": 0.99}}},
        # The range of another schedule: the trials' own `final` was not asked.
        "schedules": {"cosine": {}, "wsd": {"final": {"values": [0.0, 0.1]}}},
        "parameters": {"model.init_args.width": {"low": 32, "high": 512, "log": True}},
    },
}
NOTES: dict[str, Any] = {
    "probes": {"steps": {"32-sgd": 0.25}, "largest": {"batch_size": 64, "reason": None}},
    "bounds": {"b32-sgd-cosine": [0.001, 0.1 + 0.2]},
    "calibration": None,
    "verification": {"chosen": "a", "finalists": [{"name": "a", "values": [0.5, math.inf]}]},
    "ended": "4 of 4 trials",
    "too_large": 512,
    "expected": {"0": [0.09, 0.1], "5": [0.3, 0.4]},
}
NEVER_SENT = {"index", "wall_seconds"}
TIMES_OF_DAY = {"started", "ended"}


def asked(number: int) -> dict[str, Any]:
    """A configuration with searched parameters of every kind."""
    return trial(number, **{"optimizer.momentum": 0.9, "model.init_args.width": 64})


def begin(folder: Path, name: str, *, created: float = STARTED) -> Ledger:
    """A new ledger with the notes that a search makes."""
    ledger = Ledger.open(folder, create=True)
    notes = {"study": name, "experiment": f"{name} of {folder}", "created": created, "params": SPACE, "space": SPACE}
    for key, value in (notes | {"metrics": SPACE["metrics"]}).items():
        ledger.set_meta(key, value)
    return ledger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study under way, as MLflow has it too: trials that ended in every way, one that runs, one just asked."""
    folder = tmp_path_factory.mktemp("remote") / "study"
    with begin(folder, "remote") as ledger:
        ledger.ask([asked(number) for number in range(8)])
        first, last = segment(0, 0, 40, status="PAUSED"), segment(0, 40, 60)
        last = dataclasses.replace(last, fit={"val_loss": 0.05, "val_accuracy": 0.5})
        ledger.record(first.to_json())
        ledger.record(last.to_json(), result([first, last]))
        ledger.finish(TrialResult(number=1, status="TIMEOUT", reason="deadline").to_json())
        ledger.record(segment(2, 0, 20, status="PAUSED").to_json())
        curves = {
            3: [point(20), point(40, val_loss=math.inf, extra=1 / 3)],
            4: [point(20, val_loss=0.9), point(60, val_loss=0.7)],
            5: [point(20, val_loss=0.9), point(40, val_loss=0.4, batch_size=64), point(60, val_loss=0.45)],
            6: [],
        }
        for number, curve in curves.items():
            done = segment(number, curve=curve, status="DIVERGED" if number in (3, 6) else "COMPLETE")
            ledger.record(done.to_json(), result([done]))
        for key, value in NOTES.items():
            ledger.set_meta(key, value)
        announce_notes(ledger)
        assert push(ledger, open_mlflow(tmp_path_factory)) == {}
    return folder


@pytest.fixture(scope="module")
def remote(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """The same study from MLflow."""
    return fetch("remote", uri=None, home=mlflow_home(tmp_path_factory))


def comparable(row: study_rows.Row, *, without: set[str]) -> dict[str, Any]:
    """A row in which all that is not finite is equal, and an empty text is none."""
    known = {name: value if value != "" else None for name, value in row.items() if name not in without}
    return {k: "nan" if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}


def test_ended_trials_read_like_those_of_the_folder(folder: Path, remote: Remote) -> None:
    here = [row for row in study_rows.trials(folder) if row["status"] != "RUNNING"]
    there = [row for row in remote.trials if row["status"] != "RUNNING"]
    assert {row["status"] for row in there} == {"COMPLETE", "TIMEOUT", "DIVERGED"}
    for ours, theirs in zip(here, there, strict=True):
        without = NEVER_SENT | TIMES_OF_DAY
        assert comparable(theirs, without=without) == comparable(ours, without=without)
        assert {name: theirs[name] for name in NEVER_SENT} == dict.fromkeys(NEVER_SENT)


def test_figures_and_gaps_are_the_same_in_rows_table_frame_and_mlflow(folder: Path, remote: Remote) -> None:
    names = (*FIGURES, "hit_after", "fit_val_loss", "gap_val_loss", "gap_val_accuracy")
    ours, theirs = study_rows.trials(folder)[0], remote.trials[0]
    table = next(csv.DictReader(write_tables(folder)[0].read_text(encoding="utf-8").splitlines()))
    frame = query.trials(folder).iloc[0]
    for name in names:
        assert ours[name] is not None and ours[name] == theirs[name] == float(table[name]) == frame[name], name
    missed = study_rows.trials(folder)[4]["censoring"], remote.trials[4]["censoring"]
    assert missed == ("budget", "budget") and query.trials(folder)["censoring"][4] == "budget"


def test_a_trial_began_and_ended_when_it_did(folder: Path, remote: Remote) -> None:
    ours, theirs = study_rows.trials(folder)[0], remote.trials[0]
    assert all(theirs[name] == pytest.approx(ours[name], abs=0.001, rel=0) for name in TIMES_OF_DAY)


def test_when_and_where_trials_trained_is_known_to_the_last_bit(folder: Path, remote: Remote) -> None:
    here = study_rows.spans(folder)
    assert remote.spans == here and load(folder).spans == here == from_remote(remote).spans
    # Two segments with a wait between them, none at all, and one that goes on.
    assert [len(here.get(number, ())) for number in (0, 1, 2)] == [2, 0, 1]


def test_a_run_of_an_earlier_version_trained_from_its_start_to_its_end(tmp_path: Path, writer: MlflowWriter) -> None:
    with begin(tmp_path, "before spans") as ledger:
        ledger.ask([asked(0)])
        segments = [segment(0, 0, 40, status="PAUSED"), segment(0, 40, 60)]
        ledger.record(segments[0].to_json())
        ledger.record(segments[1].to_json(), result(segments))
        push(ledger, writer)
    client = mlflow.MlflowClient(writer.uri)
    (run,) = runs_of(client, [writer.experiment_id], "tags.trial = '0'")
    client.delete_tag(run.info.run_id, TAG)
    begun = segments[0].started
    (whole,) = fetch("before spans", uri=writer.uri, home=tmp_path).spans[0]
    assert tuple(whole) == (begun, pytest.approx(begun + 122.5), "worker-1")


def test_a_trial_that_runs_is_known_as_far_as_it_is(folder: Path, remote: Remote) -> None:
    (ours,) = [row for row in study_rows.trials(folder) if row["number"] == 2]
    (theirs,) = [row for row in remote.trials if row["status"] == "RUNNING"]
    assert theirs.keys() == ours.keys()
    assert {name for name, value in ours.items() if value != theirs[name]} == {"index", "started", "worker", "tier"}
    assert (theirs["number"], theirs["value"], theirs["ended"]) == (2, None, None)


def test_curves_read_like_those_of_the_folder(folder: Path, remote: Remote) -> None:
    here, there = study_rows.curves(folder), remote.curves
    assert [comparable(row, without=set()) for row in there] == [comparable(row, without=set()) for row in here]
    assert [(row["trial"], row["step"]) for row in there if math.isnan(row["val_loss"])] == [(3, 40)]


def test_the_recipe_is_read_from_params(remote: Remote) -> None:
    assert (remote.name, remote.metrics) == ("remote", SPACE["metrics"])
    taken_apart = {"model": {"init_args": {"width": SPACE["search"]["parameters"]["model.init_args.width"]}}}
    assert remote.space == SPACE | {"search": SPACE["search"] | {"parameters": taken_apart}}


def test_what_was_measured_besides_the_trials_comes_back_equal(
    folder: Path, remote: Remote, capfd: pytest.CaptureFixture[str]
) -> None:
    assert remote.notes == NOTES
    here, there = load(folder), from_remote(remote)
    for name in NOTES.keys() - {"expected"}:
        assert getattr(here, name) == getattr(there, name), name
    assert here.verification == NOTES["verification"]
    assert capfd.readouterr() == ("", "")


def test_the_analysis_is_that_of_the_folder(folder: Path, remote: Remote) -> None:
    data = load(folder)
    # The last trial was just asked: MLflow does not know of it before its first evaluation.
    assert [row["number"] for row in remote.trials] == list(range(7))
    (here,), (there,) = (
        analyse(one).cells for one in (dataclasses.replace(data, trials=data.trials[:7]), from_remote(remote))
    )
    assert here.speed.n_hit == 3 and there.optimum is not None
    # As text, in which NaN equals NaN.
    for name in ("name", "speed", "optimum", "bounds", "step_seconds", "records"):
        assert repr(getattr(here, name)) == repr(getattr(there, name)), name


@pytest.fixture
def writer(tmp_path_factory: pytest.TempPathFactory) -> MlflowWriter:
    return open_mlflow(tmp_path_factory)


def test_of_several_studies_with_one_name_the_newest_is_read(tmp_path: Path, writer: MlflowWriter) -> None:
    for index, (created, trials) in enumerate(((STARTED, 1), (STARTED + 200, 3), (STARTED + 100, 2))):
        with begin(tmp_path / str(index), "twice", created=created) as ledger:
            ledger.ask([asked(number) for number in range(trials)])
            for number in range(trials):
                done = segment(number)
                ledger.record(done.to_json(), result([done]))
            push(ledger, writer)
    assert [row["number"] for row in fetch("twice", uri=writer.uri, home=tmp_path).trials] == [0, 1, 2]
    assert fetch(None, uri=writer.uri, home=tmp_path).name == "twice"


def test_a_study_that_mlflow_has_not_got_names_those_that_it_has(folder: Path, writer: MlflowWriter) -> None:
    with pytest.raises(ValueError, match=r"`study` must be one of .*\bremote\b.*, which MLflow has, but got 'remot'"):
        fetch("remot", uri=writer.uri, home=folder)


def test_a_study_is_not_looked_for_in_a_database_that_is_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there must be results in .*mlflow\.db, but there are none yet"):
        fetch("any", uri=None, home=tmp_path)
    assert list(tmp_path.glob("*.db*")) == []


def test_a_server_that_is_away_is_a_connection_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError):
            fetch("any", uri=f"http://127.0.0.1:{taken.getsockname()[1]}", home=tmp_path)


def test_answers_in_pages_are_read_to_the_end(writer: MlflowWriter) -> None:
    writer.experiment("pages")
    made = {writer.open_run(f"page:{index}", name="a", tags={}, started_ms=index) for index in range(5)}
    client = mlflow.MlflowClient(writer.uri)
    found: Iterator[Any] = pages(partial(client.search_runs, [writer.experiment_id], max_results=2))
    assert sorted(run.info.run_id for run in found) == sorted(made)
