"""What is written past MLflow's client is what the client would have written, and as safe."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tracking_rows import complete, point, result, segment, study, trial
from tracking_stores import QUIET, all_runs, mlflow_home, open_mlflow

from search.trial import TrialResult
from tracking import direct_runs
from tracking.direct_runs import DirectWriter
from tracking.ledger import Ledger, RunState
from tracking.ledger_file import LedgerUnwritable
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import KEY, MetricPoint, WholeRun, WriteRefused
from tracking.sending import push

pytestmark = QUIET


@pytest.fixture
def homes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two state folders with equal MLflow databases, which have an experiment `x` and no runs."""
    open_mlflow(tmp_path_factory).experiment("x")
    made = tmp_path / "one", tmp_path / "other"
    for home in made:
        home.mkdir()
        with (
            closing(sqlite3.connect(mlflow_home(tmp_path_factory) / "mlflow.db")) as shared,
            closing(sqlite3.connect(home / "mlflow.db")) as own,
        ):
            shared.backup(own)
            for table in ("latest_metrics", "metrics", "params", "tags", "runs"):
                own.execute(f"DELETE FROM {table}")
            own.commit()
    return made


def tables(home: Path) -> dict[str, list[str]]:
    """Every row of every table, with the key of a run in place of its id."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        names = dict(database.execute("SELECT run_uuid, value FROM tags WHERE key = ?", (KEY,)).fetchall())
        found = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in found}
    return {table: sorted(_without_ids(repr(row), names) for row in rows[table]) for table in found}


def _without_ids(text: str, names: Mapping[str, str]) -> str:
    for run_id, key in names.items():
        text = text.replace(run_id, key)
    return text


RUN = WholeRun(key="k", name="run k", started_ms=1000, ended_ms=9000, status="FINISHED", tags={}, params={}, points=[])
MANY = [MetricPoint("loss", 1 / (step + 1), 2000 + step, step) for step in range(1500)]
AWKWARD = [
    *(MetricPoint("nan", math.nan, 2000, 1) for _ in range(2)),
    *(MetricPoint("infinite", value, 2000, step) for step, value in enumerate((math.inf, -math.inf, math.inf))),
    *(MetricPoint("tie", value, 2000, 1) for value in (math.nan, 0.0, -0.0, -1.0)),
    *(MetricPoint("other tie", value, 2000, 1) for value in (0.0, math.nan)),
    *(MetricPoint("time", 5.0, time, 1) for time in (3000, 4000, 2000)),
    *(MetricPoint("back", float(step), 9000 - step, step) for step in (3, 2, 1)),
    *(MetricPoint("value", value, 2000, 1) for value in (1.0, 3.0, 2.0)),
    MetricPoint("big", 2.0**60, 2000, 2**40),
    MetricPoint("smallest", 5e-324, 0, -1),
]
RUNS = [
    dataclasses.replace(RUN, key="bare"),
    dataclasses.replace(RUN, key="running", status="RUNNING", ended_ms=None, points=MANY[:3]),
    dataclasses.replace(RUN, key="many", points=MANY + MANY[:5] + MANY[-5:]),
    dataclasses.replace(RUN, key="awkward", status="FAILED", points=AWKWARD),
    dataclasses.replace(RUN, key="user", tags={"mlflow.user": "ada", "mlflow.parentRunId": "0" * 32}),
    dataclasses.replace(
        RUN,
        key="texts",
        name="é" * 300,
        tags={f"tag {n}": "" for n in range(250)} | {"long": "y" * 9000},
        params={f"a/{n}": str(n) for n in range(150)} | {"long": "x" * 7000, "é": "'\"\n"},
    ),
]


def test_whole_runs_are_written_row_for_row_as_by_mlflows_client(homes: tuple[Path, Path]) -> None:
    for kind, home in zip((MlflowWriter, DirectWriter), homes, strict=True):
        writer = kind(None, home)
        writer.experiment("x")
        before = writer.calls
        assert len(writer.record(RUNS)) == len(RUNS)
        assert (writer.calls - before == 1) == (kind is DirectWriter)
    one, other = map(tables, homes)
    assert len(one["runs"]) == len(RUNS) and len(one["metrics"]) > 1500
    assert one == other


def awkward_study(folder: Path) -> Ledger:
    """Trials of one segment and of two, diverged, cut off, with long params, and of more evaluations than a batch."""
    ledger = study(folder, 3)
    ledger.ask([trial(3), trial(4, **{"model.init_args.note": "x" * 7000}), trial(5), trial(6), trial(7)])
    parts = [segment(3, 0, 40, status="PAUSED"), segment(3, 40, 60)]
    ledger.record(parts[0].to_json())
    ledger.record(parts[1].to_json(), result(parts))
    broken = [point(20), point(40, val_loss=math.inf, gradient_norm=math.nan), point(40), point(60, val_loss=math.nan)]
    wide = [point(step % 60, **{f"metric {n}": step / (n + 1) for n in range(60)}) for step in range(1, 120)]
    for number, curve in ((4, None), (5, broken), (6, wide)):
        done = segment(number, status="DIVERGED" if number == 5 else "COMPLETE", curve=curve)
        assert ledger.record(done.to_json(), result([done]))
    ledger.finish(TrialResult(number=7, status="TIMEOUT", reason="deadline").to_json())
    for key, value in {"study": "digits", "experiment": "x", "tags": {"git": "abc"}, "status": "FINISHED"}.items():
        ledger.set_meta(key, value)
    return ledger


def sent_both_ways(folder: Path, homes: tuple[Path, Path]) -> Iterator[tuple[Ledger, MlflowWriter]]:
    """A copy of a ledger in each home, after it has been sent to the MLflow there: by its client, and past it."""
    for kind, home in zip((MlflowWriter, DirectWriter), homes, strict=True):
        shutil.copytree(folder, home / "study")
        with Ledger.open(home / "study", create=False) as ledger:
            writer = kind(None, home)
            assert push(ledger, writer) == {}
            assert ledger.unsent() == []
            yield ledger, writer


def test_a_study_is_written_row_for_row_as_by_mlflows_client(homes: tuple[Path, Path], tmp_path: Path) -> None:
    awkward_study(tmp_path / "study").close()
    for _, writer in sent_both_ways(tmp_path / "study", homes):
        assert (writer.calls < 20) == isinstance(writer, DirectWriter)
    one, other = map(tables, homes)
    assert len(one["runs"]) == 9 and len(one["metrics"]) > 5000
    assert one == other


def test_trials_that_wait_are_written_many_at_once_too_and_go_on(homes: tuple[Path, Path], tmp_path: Path) -> None:
    with study(tmp_path / "study", 3) as ledger:
        ledger.set_meta("experiment", "x")
        ledger.ask([trial(3), trial(4), trial(5)])
        for number in (3, 4):
            ledger.record(segment(number, 0, 40, status="PAUSED").to_json())
    for ledger, writer in sent_both_ways(tmp_path / "study", homes):
        states = [ledger.run(number) for number in (3, 4)]
        assert all(state.points == 40 and not state.closed for state in states)
        parts = [segment(4, 0, 40, status="PAUSED"), segment(4, 40, 60)]
        ledger.record(parts[1].to_json(), result(parts))
        assert push(ledger, writer) == {}
        assert [ledger.run(number).closed for number in (3, 4)] == [False, True]
    one, other = map(tables, homes)
    assert one == other


class Forgetful(Ledger):
    """A ledger that once cannot note what has been sent in one go."""

    forgets = True

    def save_runs(self, states: Mapping[int, RunState]) -> None:
        """Fail at the first note of many trials that are there as a whole."""
        if self.forgets and len(states) > 1 and all(state.closed for state in states.values()):
            self.forgets = False
            raise LedgerUnwritable("no room")
        super().save_runs(states)


def test_what_was_written_before_the_ledger_could_note_it_is_found_and_not_made_twice(
    homes: tuple[Path, Path], tmp_path: Path
) -> None:
    awkward_study(tmp_path / "study").close()
    for kind, home in zip((Ledger, Forgetful), homes, strict=True):
        shutil.copytree(tmp_path / "study", home / "study")
        with kind.open(home / "study", create=False) as ledger:
            if kind is Forgetful:
                with pytest.raises(LedgerUnwritable):
                    push(ledger, DirectWriter(None, home))
                assert ledger.run(0) == RunState(creating=True)
            assert push(ledger, DirectWriter(None, home)) == {}
            assert ledger.unsent() == []
    one, other = map(tables, homes)
    assert one == other


def test_only_the_trial_that_is_to_blame_is_refused(homes: tuple[Path, Path], tmp_path: Path) -> None:
    with study(tmp_path / "study", 2) as ledger:
        ledger.ask([trial(2)])
        early = dataclasses.replace(segment(2), started=-100.0)
        ledger.record(early.to_json(), result([early]))
        complete(ledger, 3)
        writer = DirectWriter(None, homes[0])
        assert list(push(ledger, writer)) == [2]
        assert ledger.unsent() == [2]
        assert len(all_runs(writer)) == 5
        complete(ledger, 4)
        assert list(push(ledger, writer)) == [2]
        assert ledger.unsent() == [2]
        assert len(all_runs(writer)) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"points": [MetricPoint("a", 1.0, -1, 1)]},
        {"points": [MetricPoint("../a", 1.0, 1, 1)]},
        {"points": [MetricPoint("a", 1.0, 1, 2**70)]},
        {"params": {"p" * 251: "1"}},
        {"tags": {"mlflow.runName": "another"}},
        {"status": "ENDED"},
        {"name": ""},
    ],
    ids=["time", "name", "step", "long-name", "run-name", "status", "no-name"],
)
def test_one_run_that_mlflow_would_not_take_as_it_is_and_none_is_written(
    homes: tuple[Path, Path], changed: dict[str, Any]
) -> None:
    before = tables(homes[0])
    writer = DirectWriter(None, homes[0])
    writer.experiment("x")
    with pytest.raises(WriteRefused):
        writer.record([RUN, dataclasses.replace(RUN, key="bad", **changed)])
    assert tables(homes[0]) == before


def test_a_database_that_fails_halfway_is_away_and_has_got_nothing(homes: tuple[Path, Path]) -> None:
    writer = DirectWriter(None, homes[0])
    writer.experiment("x")
    with closing(sqlite3.connect(homes[0] / "mlflow.db")) as database:
        database.execute("ALTER TABLE latest_metrics RENAME TO gone")
        with pytest.raises(ConnectionError, match="no such table"):
            writer.record(RUNS)
        database.execute("ALTER TABLE gone RENAME TO latest_metrics")
    assert tables(homes[0])["runs"] == []
    assert len(writer.record(RUNS)) == len(RUNS)


@pytest.mark.slow
def test_a_database_that_someone_locks_is_away(homes: tuple[Path, Path]) -> None:
    writer = DirectWriter(None, homes[0])
    writer.experiment("x")
    with closing(sqlite3.connect(homes[0] / "mlflow.db", isolation_level=None)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConnectionError, match="database is locked"):
            writer.record(RUNS)
    assert len(writer.record(RUNS)) == len(RUNS)
    assert len(tables(homes[0])["runs"]) == len(RUNS)


def test_a_deleted_experiment_is_refused(homes: tuple[Path, Path]) -> None:
    writer = DirectWriter(None, homes[0])
    writer.experiment("x")
    with closing(sqlite3.connect(homes[0] / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'x'")
    with pytest.raises(WriteRefused, match="active"):
        writer.record(RUNS)


def test_tables_of_another_mlflow_are_left_to_its_client(
    homes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(direct_runs.COLUMNS, "SqlParam", {"key", "value", "run_uuid", "kind"})
    writer = DirectWriter(None, homes[0])
    assert writer.at_once == 0
    with study(tmp_path / "study", 2) as ledger:
        assert push(ledger, writer) == {}
        assert ledger.unsent() == []
    assert len(all_runs(writer)) == 3
    assert len(writer.record([RUN])) == 1


def test_a_server_gets_whole_runs_as_requests(tmp_path: Path) -> None:
    assert DirectWriter("http://127.0.0.1:1", tmp_path).at_once == 0
