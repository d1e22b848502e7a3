"""Every `RunWriter` keeps the promises of the protocol: MLflow's on a real database, and the one in memory."""

from __future__ import annotations

import dataclasses
import math
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from tracking_stores import KINDS, QUIET, mlflow_home, open_mlflow, open_store, seen

from tracking.client import tracking_uri
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import KEY, PARENT, MetricPoint, RunStatus, RunWriter, WholeRun, WriteRefused, legal_name

pytestmark = QUIET


@pytest.fixture(params=KINDS)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunWriter:
    """A writer with an experiment of its own."""
    made = open_store(request.param, tmp_path_factory)
    made.experiment(request.node.name)
    return made


def start(writer: RunWriter, key: str = "k", **tags: str) -> str:
    return writer.open_run(key, name=f"run {key}", tags=tags, started_ms=1000)


def log(writer: RunWriter, run_id: str, *points: MetricPoint, **params: str) -> None:
    writer.log(run_id, params=params, tags={}, points=points)


def test_a_run_has_what_it_was_opened_with(writer: RunWriter) -> None:
    parent = start(writer, "p")
    run = seen(writer, start(writer, "c", **{PARENT: parent, "cell": "b32"}))
    assert (run.name, run.started_ms, run.status, run.ended_ms) == ("run c", 1000, "RUNNING", None)
    assert (run.tags[PARENT], run.tags["cell"], run.tags[KEY]) == (parent, "b32", "c")


def test_a_run_is_found_by_its_key_within_its_experiment(writer: RunWriter) -> None:
    first, second = start(writer, "study:1"), start(writer, "study:12")
    assert (writer.find_run("study:1"), writer.find_run("study:12")) == (first, second)
    assert writer.find_run("study") is None


def test_an_equal_point_is_stored_once(writer: RunWriter) -> None:
    run_id = start(writer)
    points = [MetricPoint("a", 0.5, 2000, 1), MetricPoint("a", math.nan, 3000, 2), MetricPoint("b", 0.5, 2000, 1)]
    log(writer, run_id, *points[:2])
    log(writer, run_id, *points, *points)
    assert [str(point) for point in seen(writer, run_id).points] == [str(point) for point in points]


def test_a_param_keeps_its_value_and_a_tag_its_last(writer: RunWriter) -> None:
    run_id = start(writer)
    for tag in ("one", "two"):
        writer.log(run_id, params={"width": "64"}, tags={"tag": tag}, points=[])
    with pytest.raises(WriteRefused, match="width"):
        log(writer, run_id, width="65")
    run = seen(writer, run_id)
    assert (run.params["width"], run.tags["tag"]) == ("64", "two")


def test_more_than_one_request_can_hold_is_split(writer: RunWriter) -> None:
    run_id = start(writer)
    points = [MetricPoint("a", float(step), 2000 + step, step) for step in range(2500)]
    params, tags = {f"p{n}": str(n) for n in range(150)}, {f"t{n}": str(n) for n in range(250)}
    writer.log(run_id, params=params, tags=tags, points=points)
    run = seen(writer, run_id)
    assert run.points == points
    assert run.params == params
    assert tags.items() <= run.tags.items()


def test_a_long_text_is_cut_and_marked(writer: RunWriter) -> None:
    run_id = start(writer, opening="x" * 9000)
    writer.log(run_id, params={"p": "x" * 7000}, tags={"t": "y" * 9000}, points=[])
    run = seen(writer, run_id)
    assert [len(text) for text in (run.params["p"], run.tags["t"], run.tags["opening"])] == [6000, 8000, 8000]
    assert all(text.endswith(" ... (cut)") for text in (run.params["p"], run.tags["t"], run.tags["opening"]))


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_is_closed_and_opened_again_and_takes_more_after_its_end(writer: RunWriter, status: RunStatus) -> None:
    run_id = start(writer)
    for _ in range(2):
        writer.close_run(run_id, status, 9000)
    run = seen(writer, run_id)
    assert (run.status, run.ended_ms) == (status, 9000)
    log(writer, run_id, MetricPoint("late", 1.0, 9500, 3))
    assert len(seen(writer, run_id).points) == 1
    writer.close_run(run_id, "RUNNING", 9900)
    assert seen(writer, run_id).status == "RUNNING"


def test_many_runs_are_closed_as_one_is(writer: RunWriter) -> None:
    ids = [start(writer, key) for key in ("first", "second")]
    other = start(writer, "third")
    for _ in range(2):
        writer.close_runs(ids, "KILLED", 9000)
    assert [(seen(writer, run_id).status, seen(writer, run_id).ended_ms) for run_id in ids] == [("KILLED", 9000)] * 2
    assert seen(writer, other).status == "RUNNING"
    writer.close_runs(ids[1:], "RUNNING", 9900)
    assert [seen(writer, run_id).status for run_id in ids] == ["KILLED", "RUNNING"]
    writer.close_runs([], "KILLED", 9900)
    with pytest.raises(WriteRefused):
        writer.close_runs([*ids, "0" * 32], "FINISHED", 9900)


def test_whole_runs_are_as_if_each_were_opened_logged_and_closed(writer: RunWriter) -> None:
    params, tags = {"width": "64", "long": "x" * 7000}, {"cell": "b32", "long": "y" * 9000}
    points = [MetricPoint("a", float(step), 2000 + step, step) for step in range(1200)]
    points += [points[7], MetricPoint("a", math.nan, 9000, 1300), MetricPoint("b", 0.5, 2000, 1)]
    one = start(writer, "k", **tags)
    writer.log(one, params=params, tags={}, points=points)
    writer.close_run(one, "FINISHED", 9000)
    run = WholeRun(
        key="k",
        name="run k",
        started_ms=1000,
        ended_ms=9000,
        status="FINISHED",
        tags=tags,
        params=params,
        points=points,
    )
    again, other = writer.record([run, dataclasses.replace(run, key="o", status="FAILED", params={}, points=[])])
    assert str(seen(writer, again)) == str(seen(writer, one))
    assert (seen(writer, other).status, seen(writer, other).points) == ("FAILED", [])
    assert writer.find_run("o") == other
    assert writer.record([]) == []


def test_a_whole_run_takes_more_after_its_end(writer: RunWriter) -> None:
    run = WholeRun(key="k", name="k", started_ms=1, ended_ms=2, status="FINISHED", tags={}, params={}, points=[])
    (run_id,) = writer.record([run])
    writer.log(run_id, params={"p": "1"}, tags={"front": "true"}, points=[MetricPoint("late", 1.0, 9, 3)])
    found = seen(writer, run_id)
    assert (found.params, found.tags["front"], len(found.points)) == ({"p": "1"}, "true", 1)


def test_an_artifact_replaces_an_earlier_one_of_its_name(writer: RunWriter) -> None:
    run_id = start(writer)
    for content in (b"old", b"\x89new"):
        writer.artifact(run_id, "report/steps.png", content)
    writer.artifact(run_id, "recipe.yaml", b"name: digits\n")
    assert seen(writer, run_id).artifacts == {"recipe.yaml": b"name: digits\n", "report/steps.png": b"\x89new"}


def test_every_request_is_counted(writer: RunWriter) -> None:
    before = writer.calls
    run_id = start(writer)
    writer.log(run_id, params={"p": "1"}, tags={"t": "1"}, points=[MetricPoint("a", 1.0, 1, 1)])
    writer.close_run(run_id, "FINISHED", 5)
    assert writer.calls - before == 3


def test_a_run_that_does_not_exist_is_refused_for_good(writer: RunWriter) -> None:
    with pytest.raises(WriteRefused):
        log(writer, "0" * 32, MetricPoint("a", 1.0, 1, 1))
    with pytest.raises(WriteRefused):
        writer.close_run("0" * 32, "FINISHED", 5)


def test_the_use_of_the_machine_is_recorded_on_a_run(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run_id = start(writer)
    writer.watch(run_id)
    deadline = time.monotonic() + 10
    while not seen(writer, run_id).watched and time.monotonic() < deadline:
        time.sleep(0.05)
    writer.close()
    assert seen(writer, run_id).watched


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("validation/loss", "validation/loss"),
        ("acc@5 %", "acc_5 _"),
        ("/abs//b/../c/", "abs/b/c"),
        ("..", "_"),
        ("", "_"),
        ("é:-.1", "é:-.1"),
        ("x" * 300, "x" * 250),
    ],
)
def test_any_name_is_made_one_that_a_store_takes(writer: RunWriter, name: str, legal: str) -> None:
    assert legal_name(name) == legal
    run_id = start(writer)
    writer.log(run_id, params={legal: "1"}, tags={legal: "1"}, points=[MetricPoint(legal, 1.0, 1, 1)])
    assert seen(writer, run_id).points[0].key == legal


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    writer = open_mlflow(tmp_path_factory)
    writer.experiment("deleted")
    mlflow.MlflowClient(writer.uri).delete_experiment(writer.experiment_id)
    with pytest.raises(WriteRefused, match=f"was deleted. Restore it .*-x {writer.experiment_id}"):
        writer.experiment("deleted")


def test_a_server_that_is_away_is_no_connection_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    started = time.monotonic()
    writer = MlflowWriter(address, tmp_path)
    with pytest.raises(ConnectionError, match="127.0.0.1"):
        writer.experiment("x")
    assert time.monotonic() - started < 10
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_schema_is_named_with_the_command_that_upgrades_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_mlflow(tmp_path_factory)
    shutil.copy(mlflow_home(tmp_path_factory) / "mlflow.db", tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    connection.close()
    with pytest.raises(ConnectionError, match="mlflow db upgrade"):
        MlflowWriter(None, tmp_path)


def test_a_new_database_appears_whole_and_leaves_nothing_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    open_mlflow(tmp_path_factory)
    home = mlflow_home(tmp_path_factory)
    assert not list(home.glob(".mlflow.*"))
    with sqlite3.connect(home / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


OPENER = """
import sys
from pathlib import Path
from tracking.mlflow_runs import MlflowWriter
writer = MlflowWriter(None, Path(sys.argv[1]))
writer.experiment("mine")
print(writer.open_run(sys.argv[2], name="mine", tags={}, started_ms=1))
"""


@pytest.mark.slow
def test_processes_that_make_a_new_database_at_once_share_a_whole_one(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", OPENER, str(tmp_path), str(number)] for number in range(4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    opened = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(path.name for path in tmp_path.glob("*mlflow.db*") if path.suffix == ".db") == ["mlflow.db"]
    assert not list(tmp_path.glob(".mlflow.*"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert {row[0] for row in connection.execute("SELECT run_uuid FROM runs")} == opened and len(opened) == 4
        assert connection.execute("SELECT count(*) FROM experiments WHERE name = 'mine'").fetchone() == (1,)


@pytest.mark.parametrize(
    ("configured", "environment", "uri"),
    [
        ("http://a:1", "http://b:2", "http://a:1"),
        (None, "http://b:2", "http://b:2"),
        (None, "", "sqlite:////home/runs/mlflow.db"),
    ],
)
def test_the_store_is_the_configured_one_then_the_environments_then_our_own(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, environment: str, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    assert tracking_uri(configured, Path("/home/runs")) == uri


def test_mlflow_is_not_imported_before_a_writer_is_made() -> None:
    given = "import sys, tracking.sync_process, tracking.tables; "
    code = given + "print({'mlflow', 'sqlalchemy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
