"""Workers are forked from a process that has imported torch already, and have what they would have without that."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from faulty_searches import workers
from search_parts import HERE

from search import forking
from search.cluster import connected
from search.cluster_config import ClusterConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")


@linux
@pytest.mark.parametrize(("visible", "expected"), [("", "forkserver"), ("0", "spawn")])
def test_workers_are_forked_where_there_is_no_gpu(visible: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert forking.method() == expected


@linux
def test_a_worker_has_the_environment_of_its_driver_as_it_is_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A folder of this name where the command stands must not be taken for the library.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    forking.start()
    monkeypatch.setenv("SET_AFTER_THE_START", "yes")
    with connected(ClusterConfig(workers=1, dashboard=False), paths=[HERE]) as client:
        (found,) = client.run(lambda: dict(os.environ)).values()
        (pid,) = client.run(os.getpid).values()
        (method,) = client.run(multiprocessing.get_start_method).values()
        (heard,) = client.run(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN).values()
        (collector,) = client.run(lambda: (gc.isenabled(), gc.get_freeze_count())).values()
        assert [worker.pid for worker in workers(os.getpid())] == [pid]
    assert found["SET_AFTER_THE_START"] == "yes"
    assert found["OMP_NUM_THREADS"] == "1"
    assert found.get("PYTHONSAFEPATH") == os.environ.get("PYTHONSAFEPATH")
    assert heard
    assert collector[0] and collector[1] > 100_000, "all that it was forked with is left out, and what it makes is not"
    assert method == ("fork" if sys.version_info < (3, 14) else "spawn")
    assert not psutil.pid_exists(pid)


@linux
def test_without_the_process_that_they_are_forked_from_workers_still_start() -> None:
    with connected(ClusterConfig(workers=1, dashboard=False), paths=[HERE]) as client:
        (before,) = client.run(os.getpid).values()
        parent = psutil.Process(before).parent()
        assert parent is not None and parent.ppid() == os.getpid()
        parent.kill()
        end = time.monotonic() + 60
        while psutil.pid_exists(before) and time.monotonic() < end:
            time.sleep(0.05)
        client.wait_for_workers(1, timeout=60)
        (after,) = client.run(os.getpid).values()
    assert after != before
    assert not psutil.pid_exists(before)
