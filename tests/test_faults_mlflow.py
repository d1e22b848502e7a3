"""Whatever becomes of MLflow and the way to it, it ends up with every run and every point once, and nobody waits."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from faulty_searches import SECONDS, ended, started, trials, wait_until
from faulty_server import SLOW, Door, Fate, faulty_server
from tracking_rows import complete, study
from tracking_stores import QUIET, all_runs, mlflow_home, open_mlflow

from tracking.ledger import Ledger
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import KEY
from tracking.sending import push
from tracking.sync import Sync

pytestmark = QUIET
TRIALS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The door to a real MLflow server."""
    with faulty_server(tmp_path_factory.mktemp("server")) as door:
        yield door


@pytest.fixture
def door(server: Door) -> Iterator[Door]:
    """The same, wide open at the start and at the end of each test."""
    server.let(lambda number: "pass")
    yield server
    server.let(lambda number: "pass")


def held(uri: str, experiment: str) -> dict[str, tuple[str, int]]:
    """Status and number of points of every run of an experiment, by its key; a key that is there twice is an error."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1000)
    keys = [run.data.tags[KEY].partition(":")[2] for run in runs]
    assert len(keys) == len(set(keys)), sorted(keys)
    counts = [sum(len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics) for run in runs]
    return {key: (run.info.status, count) for key, run, count in zip(keys, runs, counts, strict=True)}


def named(ledger: Ledger, experiment: str) -> Ledger:
    """The same ledger, which is sent to an experiment of its own."""
    ledger.set_meta("experiment", experiment)
    ledger.set_meta("status", "FINISHED")
    return ledger


@pytest.fixture(scope="module")
def expected(server: Door, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What the server holds of the study of these tests when nothing goes wrong."""
    with named(study(tmp_path_factory.mktemp("whole"), TRIALS), "whole") as ledger:
        push(ledger, MlflowWriter(server.uri, ledger.path.parent))
    found = held(server.uri, "whole")
    assert found.keys() == {"search", *map(str, range(TRIALS))}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["drop", "lose", "500", "429"])
def test_whatever_becomes_of_requests_every_run_and_point_is_there_once(
    fate: Fate, door: Door, expected: dict[str, tuple[str, int]], tmp_path: Path
) -> None:
    luck = random.Random(1)
    with named(study(tmp_path, TRIALS), fate) as ledger:
        door.let(lambda number: fate if luck.random() < 0.3 else "pass")
        for _ in range(100):
            try:
                push(ledger, MlflowWriter(door.uri, tmp_path))
                break
            except ConnectionError:
                continue
        assert ledger.unsent() == []
    door.let(lambda number: "pass")
    assert held(door.uri, fate) == expected


@pytest.fixture
def syncs() -> Iterator[Callable[[Path, str | None], Sync]]:
    """Starts the background writer of a ledger, and ends it."""
    running: list[Sync] = []

    def start(folder: Path, uri: str | None) -> Sync:
        running.append(Sync(folder, uri=uri, home=folder))
        running[-1].start()
        return running[-1]

    yield start
    for sync in running:
        sync.close()


@pytest.mark.slow
@pytest.mark.alone
def test_a_slow_server_makes_nobody_wait_who_commits_a_trial(
    door: Door, expected: dict[str, tuple[str, int]], syncs: Callable[[Path, str | None], Sync], tmp_path: Path
) -> None:
    door.let(lambda number: "slow")
    with named(study(tmp_path, 0), "slow") as ledger:
        sync = syncs(tmp_path, door.uri)
        _wait(lambda: door.requests > 0)
        began, taken = door.requests, time.monotonic()
        for number in range(TRIALS):
            complete(ledger, number)
        assert time.monotonic() - taken < SLOW / 2
        assert door.requests == began
        door.let(lambda number: "pass")
        assert sync.drain(60)
    assert held(door.uri, "slow") == expected


@pytest.mark.slow
def test_a_database_that_someone_locks_is_waited_for(
    syncs: Callable[[Path, str | None], Sync], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    writer = open_mlflow(tmp_path_factory)
    with named(study(tmp_path, TRIALS), tmp_path.name) as ledger:
        locked = sqlite3.connect(mlflow_home(tmp_path_factory) / "mlflow.db", isolation_level=None)
        try:
            locked.execute("BEGIN EXCLUSIVE")
            sync = syncs(tmp_path, writer.uri)
            _wait(lambda: sync.problem() is not None)
            assert "database is locked" in (sync.problem() or "")
            complete(ledger, TRIALS)
        finally:
            locked.close()
        assert sync.drain(60)
        assert sync.problem() is None
    writer.experiment(tmp_path.name)
    assert len(all_runs(writer)) == TRIALS + 2


@pytest.mark.slow
def test_a_search_outlives_a_server_that_comes_late_and_goes_again(door: Door, tmp_path: Path) -> None:
    door.let(lambda number: "drop")
    words = ["--tracking.mlflow", "true", "--tracking.uri", door.uri, "--search.trials", "4", SECONDS, "0.02"]
    process = started(tmp_path, *words)
    wait_until(lambda: any(row["result"] for row in trials(tmp_path)) and door.requests > 0, process)
    # From here on it takes what comes, and then again nothing.
    door.let(lambda number: "pass" if number < 9 else "drop")
    wait_until(lambda: door.requests > 9, process)
    door.let(lambda number: "pass")
    code, out, err = ended(process)
    assert code == 0, out + err
    assert err.count("MLflow is behind, the search goes on") <= 2
    runs = held(door.uri, "faulty")
    assert runs.keys() == {"search", "0", "1", "2", "3"}
    assert {status for status, _ in runs.values()} == {"FINISHED"}
    assert len({count for key, (_, count) in runs.items() if key != "search"}) == 1


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "what was waited for has not come"
        time.sleep(0.02)
