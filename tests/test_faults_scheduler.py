"""A scheduler of the user's may be lost: it is waited for, and what was under way goes on from its checkpoints."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from distributed import Client
from faulty_searches import FAULTS, ONCE, SECONDS, curve, ended, started, trials, undisturbed, wait_until
from search_parts import HERE
from test_search_executors import PATIENCE, dask, everything, segments, wait_for

from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor
from search.failure import SearchFailed
from search.reconnecting import lasting

pytestmark = pytest.mark.slow
LOST = "The connection to the Dask scheduler was lost. For {:g} s, a scheduler with a worker at the same address"


@contextmanager
def address() -> Iterator[str]:
    """One that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield f"tcp://127.0.0.1:{port}"


def cluster(stack: ExitStack, where: str, folder: Path) -> subprocess.Popen[bytes]:
    """A scheduler with a worker; returns the scheduler's process."""
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = stack.enter_context(dask("scheduler", *here, "--port", where.rpartition(":")[2], cwd=folder))
    stack.enter_context(dask("worker", *here, where, "--nthreads", "1", cwd=folder))
    with Client(where, timeout=PATIENCE, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
    return scheduler


def test_a_search_goes_on_when_its_scheduler_is_back(tmp_path: Path) -> None:
    mark, home = tmp_path / "begun", tmp_path / "home"
    # Half-way: at least one segment has ended in a checkpoint, and another one is under way.
    words = [SECONDS, "0.05", "--search.segment_seconds", "0.5", FAULTS, "{any: mark}", ONCE, str(mark)]
    with address() as where, ExitStack() as stack:
        scheduler = cluster(stack, where, tmp_path)
        words += ["--cluster.address", where, "--cluster.workers", "null", "--model.init_args.at_step", "35"]
        process = started(home, *words)
        wait_until(mark.exists, process)
        scheduler.kill()
        scheduler.wait()
        cluster(stack, where, tmp_path)
        code, out, err = ended(process)
    assert (code, err) == (0, ""), out
    assert out.count(LOST.format(300)) == 1
    assert out.count("The Dask scheduler is back with 1 worker; segments handed out again: 1.") == 1
    (row,) = trials(home)
    assert row["status"] == "COMPLETE"
    workers = [part["worker"] for part in row["segments"]]
    assert len(set(workers)) == 2 and workers == sorted(workers, key=workers.index)
    assert curve(row["segments"]) == undisturbed(row, tmp_path)


def test_a_wait_for_a_scheduler_ends_with_its_time_and_with_ctrl_c(tmp_path: Path) -> None:
    told: list[str] = []
    with address() as where, ExitStack() as stack:
        scheduler = cluster(stack, where, tmp_path)
        executors = []
        for seconds in (1.0, 300.0):
            config = ClusterConfig(address=where, reconnect_seconds=seconds)
            first = DaskExecutor(stack.enter_context(connected(config, paths=[HERE])), "search_parts.steps")
            made = lasting(first, config, paths=[HERE], tell=told.append, stopping=lambda: True)
            executors.append(stack.enter_context(made))
        short, long = executors
        short.submit(segments(tmp_path, 1))
        wait_for(tmp_path / "started-0")
        long.submit(segments(tmp_path, 3))
        scheduler.kill()
        end = time.monotonic() + PATIENCE
        while short.lost() is None and time.monotonic() < end:
            assert short.completed(0.25) == []
        assert short.lost() == "The Dask scheduler was lost, and has not come back with a worker within 1 s"
        assert long.completed(0.25) == []
        assert (long.lost(), long.in_flight) == (None, 3)
        with pytest.raises(SearchFailed, match="Interrupted while the Dask scheduler was away"):
            long.call("search_parts.double", 21)
        long.request_stop()
        results = everything(long)
    assert [(result.trial, result.status, result.to_step) for result in results] == [(i, "PAUSED", 0) for i in range(3)]
    assert told[0].startswith(LOST.format(1)) and told[1].startswith(LOST.format(300)) and len(told) == 2
