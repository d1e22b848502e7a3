"""`regatta export`, `regatta sync` and `regatta ui` on a study that has been searched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pytest

from pipelines import run_export
from pipelines.cli import main
from pipelines.recipe import load_recipe, to_yaml
from pipelines.session import space_of
from search.executors import SerialExecutor
from search.race import Race
from search.study import Study
from tracking.ledger import Ledger
from tracking.ledger_file import driver_lock

REGATTA = str(Path(sys.executable).with_name("regatta"))
CONFIG = ["--config", "smoke", "--search.batch_sizes", "[64]", "--search.trials", "2"]


@pytest.fixture
def study(regatta_home: Path) -> Path:
    """The folder of a small study that has ended, its trainings stand-ins."""
    folder, recipe = regatta_home / "smoke", load_recipe(CONFIG)
    folder.mkdir(parents=True)
    with Ledger.open(folder, create=True) as ledger:
        ledger.set_meta("recipe", to_yaml(recipe))
        ledger.set_meta("study", "smoke")
        ledger.set_meta("status", "FINISHED")
        executor = SerialExecutor("search_parts.at_once")
        Race(Study(space_of(recipe)), ledger, str(folder / "checkpoints")).run(
            executor, stopping=lambda: False, watch=lambda _: None
        )
    return folder


def regatta(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REGATTA, *words], capture_output=True, text=True, timeout=120)


def test_export_writes_tables_and_optunas_studies(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_export.main("smoke") == 0
    assert capsys.readouterr().out.startswith(f"4 trials added to {study / 'optuna.db'}")
    assert len((study / "trials.csv").read_text().splitlines()) == 5
    assert len((study / "curves.csv").read_text().splitlines()) == 5
    storage = optuna.storages.RDBStorage(f"sqlite:///{study / 'optuna.db'}")
    try:
        assert len(optuna.get_all_study_names(storage)) == 2
    finally:
        storage.engine.dispose()
    assert run_export.main(None) == 0
    assert capsys.readouterr().out.startswith("0 trials added")


def runs(store: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(store)) as database:
        return [row[0] for row in database.execute("SELECT status FROM runs")]


@pytest.mark.slow
def test_sync_brings_the_local_store_up_to_the_ledger_once(study: Path) -> None:
    for _ in range(2):
        done = regatta("sync", "--study", "smoke")
        assert (done.returncode, done.stdout, done.stderr) == (0, "MLflow has everything of smoke\n", "")
        assert runs(study.parent / "mlflow.db") == ["FINISHED"] * 5


@pytest.mark.slow
def test_sync_with_a_server_that_is_away_says_so_and_ends(study: Path) -> None:
    with closed_port() as port:
        started = time.monotonic()
        done = regatta("sync", "--uri", f"http://127.0.0.1:{port}")
    assert time.monotonic() - started < 60
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("not everything arrived: ")
    assert "Traceback" not in line
    # Nothing is lost: the next one finds everything there.
    assert regatta("sync").returncode == 0


@pytest.mark.slow
def test_sync_leaves_a_study_alone_that_is_being_searched(study: Path) -> None:
    with driver_lock(study):
        done = regatta("sync")
    assert done.returncode == 2
    assert f"process {os.getpid()} on " in done.stderr


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that is taken and at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_is_served_on_this_machine_alone_and_ends_with_its_command(study: Path, end: signal.Signals) -> None:
    assert regatta("sync").returncode == 0
    with closed_port() as port:
        command = [REGATTA, "ui", "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith(f"port {port} is taken, so the UI is on ")
            address = process.stdout.readline().split()[2]
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"<html" in page.read()
            assert {ip for member in family for ip in listening(member)} == {"127.0.0.1"}
            process.send_signal(end)
            assert process.wait(30) in (0, 130)
            assert not psutil.wait_procs(family[1:], timeout=10)[1]
        finally:
            process.kill()
            process.stdout.close()


def listening(process: psutil.Process) -> set[str]:
    return {c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_without_results_there_is_no_ui(regatta_home: Path) -> None:
    done = regatta("ui")
    assert done.returncode == 2
    assert done.stderr == (
        f"regatta: there must be results in {regatta_home / 'mlflow.db'}, but there are none yet. "
        "Run `regatta search` first.\n"
    )


def _folder(store: Path) -> None:
    store.mkdir()


def _empty(store: Path) -> None:
    store.touch()


def _garbage(store: Path) -> None:
    store.write_bytes(b"no database at all" * 100)


def _newer(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.executescript(
            "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('fffffffffffe');"
            "CREATE TABLE runs (a)"
        )


@pytest.mark.parametrize("make", [_folder, _empty, _garbage, _newer])
def test_a_store_that_cannot_be_served_is_a_sentence_and_no_server(
    make: Callable[[Path], None], regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regatta_home.mkdir()
    make(regatta_home / "mlflow.db")
    assert main(["ui"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    remedy = "Install the MLflow that wrote it" if make is _newer else "must be readable, but is not: "
    assert remedy in said and str(regatta_home / "mlflow.db") in said
    assert [path.name for path in regatta_home.iterdir()] == ["mlflow.db"]
