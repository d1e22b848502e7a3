"""MLflow is written by a process beside the search: it gets everything, and neither can hold the other up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tracking_rows import complete, study
from tracking_stores import QUIET, all_runs, mlflow_home

from tracking.ledger import Ledger
from tracking.mlflow_runs import MlflowWriter
from tracking.sync_process import SyncProcess

pytestmark = QUIET
NOWHERE = "http://user:secret@127.0.0.1:9"


@pytest.fixture
def made() -> Iterator[Callable[..., SyncProcess]]:
    """Makes one for a study, and ends it."""
    running: list[SyncProcess] = []

    def make(folder: Path, *, home: Path, uri: str | None = None) -> SyncProcess:
        running.append(SyncProcess(folder, uri=uri, home=home))
        return running[-1]

    yield make
    for sync in running:
        sync.close()


def pid_of(sync: SyncProcess) -> int:
    """The process behind it."""
    assert sync._process is not None
    return sync._process.pid


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for a parent that never asks after it."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], object]) -> None:
    """Wait up to 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_mlflow_gets_what_was_there_and_what_comes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, made: Callable[..., SyncProcess]
) -> None:
    home = mlflow_home(tmp_path_factory)
    with study(tmp_path, 2) as ledger:
        ledger.set_meta("experiment", tmp_path.name)
        sync = made(tmp_path, home=home)
        sync.prepare()
        assert ledger.unsent_count() == 2
        sync.start()
        assert sync.drain(60), sync.problem()
        assert ledger.unsent_count() == 0
        for number in range(2, 6):
            complete(ledger, number)
        assert sync.drain(60), sync.problem()
        assert (sync.pending(), sync.evaluations(), sync.is_late(), sync.problem()) == (0, 0, False, None)
    reader = MlflowWriter(None, home)
    reader.experiment(tmp_path.name)
    assert len(all_runs(reader)) == 7


def test_closing_ends_the_process_and_leaves_the_rest_for_the_next_time(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, made: Callable[..., SyncProcess]
) -> None:
    home = mlflow_home(tmp_path_factory)
    with study(tmp_path, 2) as ledger:
        ledger.set_meta("experiment", tmp_path.name)
        first = made(tmp_path, home=home)
        first.prepare()
        first.close()
        assert has_ended(pid_of(first))
        assert not first.drain(1)
        assert first.problem() is None
        assert ledger.unsent_count() == 2
        second = made(tmp_path, home=home)
        second.start()
        assert second.drain(60), second.problem()
        assert ledger.unsent_count() == 0


@pytest.mark.parametrize("prepared", [False, True])
def test_what_never_began_is_neither_waited_for_nor_hard_to_close(
    prepared: bool, tmp_path: Path, made: Callable[..., SyncProcess]
) -> None:
    sync = made(tmp_path, home=tmp_path)
    if prepared:
        sync.prepare()
    before = time.monotonic()
    assert not sync.drain(60)
    assert time.monotonic() - before < 5
    sync.close()


def test_a_store_that_is_away_is_a_problem_said_once_and_not_waited_for_long(
    tmp_path: Path, made: Callable[..., SyncProcess], caplog: pytest.LogCaptureFixture
) -> None:
    study(tmp_path, 2).close()
    sync = made(tmp_path, home=tmp_path, uri=NOWHERE)
    sync.start()
    before = time.monotonic()
    assert not sync.drain(60, away=1.0)
    assert time.monotonic() - before < 30
    wait_for(lambda: sync.pending() == 2)
    assert "secret" not in f"{sync.problem()}{caplog.text}" and sync.problem() is not None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "MLflow is behind, the search goes on"
    ]


def test_a_process_that_dies_is_a_problem_and_not_an_exception(
    tmp_path: Path, made: Callable[..., SyncProcess]
) -> None:
    study(tmp_path, 2).close()
    sync = made(tmp_path, home=tmp_path)
    sync.start()
    os.kill(pid_of(sync), signal.SIGKILL)
    before = time.monotonic()
    assert not sync.drain(60)
    assert time.monotonic() - before < 10
    wait_for(lambda: sync.problem() == "the process that writes to MLflow has ended (exit code -9)")
    sync.start()
    assert not sync.drain(60)


def test_the_terminals_signals_and_other_users_do_not_reach_it(
    tmp_path: Path, made: Callable[..., SyncProcess]
) -> None:
    study(tmp_path, 1).close()
    sync = made(tmp_path, home=tmp_path, uri=NOWHERE)
    sync.prepare()
    assert os.getsid(pid_of(sync)) != os.getsid(0)
    assert "secret" not in " ".join(psutil.Process(pid_of(sync)).cmdline())


def test_it_ends_with_a_search_that_is_killed(tmp_path: Path) -> None:
    study(tmp_path, 1).close()
    code = (
        "import pathlib, sys, time; from tracking.sync_process import SyncProcess; folder = pathlib.Path(sys.argv[1]); "
        "sync = SyncProcess(folder, uri=sys.argv[2], home=folder); sync.start(); "
        "print(sync._process.pid, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, tmp_path, NOWHERE], text=True, stdout=subprocess.PIPE)
    assert driver.stdout is not None
    writer = int(driver.stdout.readline())
    os.kill(writer, 0)
    driver.kill()
    driver.communicate()
    wait_for(lambda: has_ended(writer))
    with Ledger.open(tmp_path, create=False) as ledger:
        assert ledger.unsent_count() == 1
