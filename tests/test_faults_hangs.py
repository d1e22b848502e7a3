"""What hangs, is frozen, or keeps Python to itself costs a worker at most; what is only slow costs nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from faulty_searches import FAULTS, ONCE, ended, family, left_over, send, started, trials, wait_until
from search_parts import HERE
from test_search_executors import PATIENCE, everything, segments, wait_for

from models.segment import SegmentResult
from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor
from tracking.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.alone]
GRACE = 10.0
"""Seconds that Ctrl-C may take."""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers; a training of theirs that takes no step for a few seconds hangs."""
    with connected(ClusterConfig(workers=2, dashboard=False, stall_seconds=4.0), paths=[HERE]) as client:
        yield client


def heartbeats(client: Client, seconds: float) -> None:
    """From now on, a worker without heartbeats is given up after so many seconds, not minutes."""
    cluster: Any = client.cluster
    scheduler = cluster.scheduler
    scheduler.worker_ttl = seconds
    scheduler.periodic_callbacks["worker-ttl"].callback_time = 500


def test_who_keeps_pythons_lock_is_waited_for(client: Client, tmp_path: Path) -> None:
    heartbeats(client, 30.0)
    executor = DaskExecutor(client, "search_parts.keeps_the_lock")
    (segment,) = segments(tmp_path, 1)
    executor.submit([segment])
    (result,) = everything(executor)
    assert (result.status, result.wall_seconds > 10.0) == ("COMPLETE", True)
    heartbeats(client, 60.0)


def test_a_frozen_worker_is_replaced_and_its_segment_goes_elsewhere(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client, "search_parts.steps")
    (segment,) = segments(tmp_path, 1)
    executor.submit([segment])
    mark = tmp_path / "started-0"
    frozen = psutil.Process(int(wait_for(mark)))
    mark.unlink()
    frozen.send_signal(signal.SIGSTOP)
    heartbeats(client, 6.0)
    assert executor.completed(PATIENCE) == []
    assert wait_for(mark) != str(frozen.pid)
    executor.request_stop()
    (result,) = everything(executor)
    assert (result.status, result.worker != str(frozen.pid)) == ("PAUSED", True)
    # Nothing is late that has ended.
    assert not frozen.is_running()
    heartbeats(client, 60.0)


def test_a_training_that_hangs_twice_ends_its_trial_and_no_other(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client, "search_parts.hangs")
    for segment in segments(tmp_path / "checkpoints", 4):
        executor.submit([segment])
    first, *others = sorted(everything(executor), key=lambda result: result.trial)
    assert [other.status for other in others] == ["COMPLETE"] * 3
    assert (first.status, first.reason.partition(":")[0]) == ("TIMEOUT", "timeout")
    assert "in hangs, " in first.reason and "search_parts.py line " in first.reason
    stacks = sorted((tmp_path / "stacks").iterdir())
    assert len(stacks) == 2 and any(str(path) in first.reason for path in stacks)
    assert all("in hangs" in path.read_text() for path in stacks)


def test_a_segment_of_a_worker_that_is_retired_comes_back_once(client: Client, tmp_path: Path) -> None:
    client.wait_for_workers(2, timeout=PATIENCE)
    executor = DaskExecutor(client, "search_parts.steps")
    for segment in segments(tmp_path, 3):
        executor.submit([segment])
    mark = tmp_path / "started-0"
    retired = int(wait_for(mark))
    (address,) = (worker for worker, pid in client.run(os.getpid).items() if pid == retired)
    client.retire_workers([address], close_workers=True, remove=True)
    results: list[SegmentResult] = executor.completed(1.0)
    executor.request_stop()
    results += everything(executor)
    assert sorted(result.trial for result in results) == [0, 1, 2]
    assert {result.status for result in results} == {"PAUSED"}


def test_one_ctrl_c_ends_even_a_training_that_hangs(tmp_path: Path) -> None:
    mark = tmp_path / "hangs"
    process = started(tmp_path, FAULTS, "{any: hang}", ONCE, str(mark))
    wait_until(mark.exists, process)
    processes, asked = family(process), time.monotonic()
    send(process, signal.SIGINT)
    code, out, err = ended(process)
    assert (code, err) == (130, ""), out
    assert time.monotonic() - asked < GRACE
    assert left_over(processes) == []
    assert "interrupted: SIGINT; what was running is paused\nto go on: regatta search" in out
    with Ledger.open(tmp_path / "faulty", create=False) as ledger:
        assert ledger.meta("tags")["reason"] == "interrupted: SIGINT"
    assert [row["result"] for row in trials(tmp_path)] == [None]
