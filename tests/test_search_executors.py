"""Every executor gives back each segment once, whatever happens; the cluster is ours alone and outlives its workers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from search_parts import HERE, space

from models.segment import Segment, SegmentResult
from search import cluster, resources
from search.cluster import Watched, connected
from search.cluster_config import ClusterConfig
from search.dask_executor import KILLS, LOSSES, DaskExecutor
from search.executors import Executor, SerialExecutor
from search.installation import FACTS, PACKAGES, differences

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers that find this folder's modules."""
    with connected(ClusterConfig(workers=2), paths=[HERE]) as client:
        yield client


@pytest.fixture(params=["serial", "dask"])
def make(request: pytest.FixtureRequest) -> Any:
    """How to make an executor of either kind that runs one of this folder's stand-ins."""
    if request.param == "serial":
        return lambda function: SerialExecutor(f"search_parts.{function}")
    dask = request.getfixturevalue("client")
    return lambda function: DaskExecutor(dask, f"search_parts.{function}")


def segments(folder: Path, count: int) -> list[Segment]:
    made = space()
    cell = made.cells()[0]
    return [
        Segment(trial=i, config=made.train_config(cell, {"learning_rate": 0.1 + i}, index=i), folder=str(folder))
        for i in range(count)
    ]


def everything(executor: Executor) -> list[SegmentResult]:
    """All that is still to come back."""
    results: list[SegmentResult] = []
    end = time.monotonic() + PATIENCE
    while executor.in_flight and time.monotonic() < end:
        results += executor.completed(0.1)
    assert executor.in_flight == 0
    assert executor.completed(0.0) == []
    return results


class TestEveryExecutor:
    """What a race relies on, of whatever executor."""

    def test_each_segment_comes_back_once(self, make: Any, tmp_path: Path) -> None:
        executor = make("at_once")
        for segment in segments(tmp_path, 20):
            executor.submit([segment])
        assert executor.in_flight == 20
        results = everything(executor)
        assert sorted(result.trial for result in results) == list(range(20))
        assert {result.status for result in results} == {"COMPLETE"}

    def test_segments_of_one_task_come_back_each(self, make: Any, tmp_path: Path) -> None:
        executor = make("at_once")
        together = segments(tmp_path, 5)
        executor.submit(together[:3])
        executor.submit(together[3:])
        assert executor.in_flight == 5
        assert sorted(result.trial for result in everything(executor)) == [0, 1, 2, 3, 4]

    def test_the_same_segment_can_be_submitted_again(self, make: Any, tmp_path: Path) -> None:
        executor = make("at_once")
        for _ in range(2):
            executor.submit(segments(tmp_path, 1))
            assert [result.trial for result in everything(executor)] == [0]

    def test_an_exception_is_a_failed_result(self, make: Any, tmp_path: Path) -> None:
        executor = make("raises")
        executor.submit(segments(tmp_path, 2))
        results = everything(executor)
        assert [(result.trial, result.status, result.to_step) for result in results] == [
            (0, "FAILED", 0),
            (1, "FAILED", 0),
        ]
        assert results[0].reason == "lost_worker: ZeroDivisionError: nothing to divide by"

    def test_a_function_is_called_where_segments_run(self, make: Any) -> None:
        assert make("at_once").call("search_parts.double", 21) == 42

    def test_a_stop_brings_back_what_runs_as_paused(self, make: Any, tmp_path: Path) -> None:
        executor = make("until_stopped")
        executor.submit(segments(tmp_path, 1))
        executor.request_stop()
        assert [result.status for result in everything(executor)] == ["PAUSED"]
        # The flag belongs to one search: the next executor in the same processes starts with it down.
        again = make("at_once")
        again.submit(segments(tmp_path, 1))
        assert [result.status for result in everything(again)] == ["COMPLETE"]

    def test_nothing_is_lost_while_all_is_well(self, make: Any) -> None:
        assert make("at_once").lost() is None

    def test_there_is_room_for_something(self, make: Any) -> None:
        assert make("at_once").capacity >= 1


def wait_for(path: Path) -> str:
    """What a stand-in has written, as soon as it has."""
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    return path.read_text()


def test_a_stop_reaches_segments_that_run_and_segments_that_wait(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client, "search_parts.until_stopped")
    assert executor.capacity == 4
    for segment in segments(tmp_path, 4):
        executor.submit([segment])
    while len(list(tmp_path.glob("started-*"))) < 2:
        time.sleep(0.02)
    started = time.monotonic()
    executor.request_stop()
    assert sorted(result.trial for result in everything(executor)) == [0, 1, 2, 3]
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_workers_killed_in_mid_segment_cost_nothing_but_time(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client, "search_parts.until_stopped")
    (segment,) = segments(tmp_path, 1)
    executor.submit([segment])
    mark = tmp_path / "started-0"
    for _ in range(2):  # by chance the same segment again
        killed = wait_for(mark)
        mark.unlink()
        os.kill(int(killed), signal.SIGKILL)
        assert executor.completed(PATIENCE) == [], "it is no result that it was lost"
        assert wait_for(mark) != killed
    executor.request_stop()
    assert [(result.trial, result.status) for result in everything(executor)] == [(0, "PAUSED")]
    client.wait_for_workers(2, timeout=PATIENCE)
    # The worker that took the place of the lost one is set up as the first ones were.
    assert set(client.run(_sigint_is_ignored).values()) == {True}
    assert set(client.run(_finds_our_stand_ins).values()) == {True}


@pytest.mark.slow
def test_a_segment_that_always_kills_its_worker_fails_and_the_others_do_not(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client, "search_parts.dies")
    deadly, *harmless = segments(tmp_path, 4)
    executor.submit([deadly])
    (result,) = everything(executor)
    assert (result.trial, result.status) == (0, "FAILED")
    # That a worker had begun it may be lost with it, as it dies at once: then it does not count, and one more is tried.
    assert re.fullmatch(rf"crash: [{KILLS}-{LOSSES}] workers that had it died, .* \(SIGKILL\)", result.reason)
    client.wait_for_workers(2, timeout=PATIENCE)
    for segment in harmless:
        executor.submit([segment])
    assert {result.status for result in everything(executor)} == {"COMPLETE"}


@pytest.mark.slow
def test_how_a_worker_ended_is_known_where_it_died_before_its_parent_had_its_address(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.wait_for_workers(2, timeout=PATIENCE)
    message = Watched._on_worker_exit_sync

    def late(parent: Watched, exitcode: int) -> None:
        """The address comes with the process, and a moment after it has begun to work."""
        assert parent.process is not None
        parent.process.worker_address = None
        message(parent, exitcode)

    monkeypatch.setattr(Watched, "_on_worker_exit_sync", late)
    executor = DaskExecutor(client, "search_parts.dies")
    executor.submit(segments(tmp_path, 1))
    (result,) = everything(executor)
    assert result.reason.endswith(" (SIGKILL)")
    client.wait_for_workers(2, timeout=PATIENCE)


def _sigint_is_ignored() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def _finds_our_stand_ins() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 # sent to the workers, where this file is not

    return find_spec("search_parts") is not None


def test_ctrl_c_leaves_the_workers_alone(client: Client, tmp_path: Path) -> None:
    pids = set(client.run(os.getpid).values())
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    executor = DaskExecutor(client, "search_parts.at_once")
    for segment in segments(tmp_path, 4):
        executor.submit([segment])
    assert len(everything(executor)) == 4
    assert set(client.run(os.getpid).values()) == pids


def test_everything_listens_on_this_machine_alone(client: Client) -> None:
    for pid in (os.getpid(), *client.run(os.getpid).values()):
        listening = [c for c in psutil.Process(pid).net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_busy_port_of_the_dashboard_is_left_to_whoever_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cluster._free_port(port) == 0
    assert cluster._free_port(port) == port


GPUS: list[tuple[str | None, list[str]]] = [
    ("0,1", ["0", "1"]),
    (" 0, 2 ", ["0", "2"]),
    ("", []),
    ("-1", []),
    ("GPU-a1,MIG-b2", ["GPU-a1", "MIG-b2"]),
]


@pytest.mark.parametrize(("visible", "expected"), GPUS)
def test_gpus_are_those_that_the_environment_allows(
    visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resources.gpus() == expected


WORKERS = [
    # visible, per_gpu, workers, devices of the workers
    ("0,1", 1, None, ["0", "1"]),
    ("0,1", 2, None, ["0", "0", "1", "1"]),
    ("0,1", 1, 3, ["0", "1", "0"]),
    ("3", 1, 1, ["3"]),
    ("", 1, 3, [None, None, None]),
]


@pytest.mark.parametrize(("visible", "per_gpu", "workers", "devices"), WORKERS)
def test_each_worker_sees_one_gpu(
    visible: str, per_gpu: int, workers: int | None, devices: Sequence[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = cluster._local_workers(ClusterConfig(workers=workers, per_gpu=per_gpu))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in made] == list(devices)


def test_without_gpus_there_is_a_worker_for_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cluster._local_workers(ClusterConfig()) == [{}] * resources.cores_allowed()


def test_a_worker_like_this_process_has_no_differences(client: Client) -> None:
    for worker, found in client.run(eval, FACTS % (PACKAGES,)).items():
        assert list(differences(worker, found)) == []


OTHERS = [
    ({"models": None, "digest": None}, "it has no package `models`"),
    ({"models": "/elsewhere/models/__init__.py", "digest": "0"}, "/elsewhere/models/__init__.py"),
    ({"packages": {"torch": "1.0"}}, "must have torch"),
    ({"packages": {}}, "must have distributed"),
]


@pytest.mark.parametrize(("changes", "expected"), OTHERS)
def test_a_worker_that_differs_is_told_in_a_sentence(changes: dict[str, Any], expected: str) -> None:
    same: dict[str, Any] = eval(FACTS % (PACKAGES,))
    sentences = list(differences("tcp://w", {**same, **changes}))
    assert any(expected in sentence for sentence in sentences)
    assert all(sentence.startswith("worker tcp://w must have ") for sentence in sentences)


def test_a_scheduler_that_does_not_answer_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        with (
            pytest.raises(ValueError, match=r"`cluster\.address` must be that of a running Dask scheduler, but 'tcp:"),
            connected(ClusterConfig(address=address), paths=[]),
        ):
            pass


@contextlib.contextmanager
def dask(*words: str, cwd: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `dask` command in a process of its own."""
    command = [str(Path(sys.executable).with_name("dask")), *words]
    process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A scheduler of the user's: its address, and the words that start a worker for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    with dask("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", cwd=folder):
        yield address, ["worker", address, "--host", "127.0.0.1", "--no-dashboard"]


@pytest.mark.slow
def test_a_running_scheduler_does_as_well(tmp_path: Path) -> None:
    with (
        scheduler(tmp_path) as (address, worker),
        dask(*worker, "--nthreads", "2", cwd=tmp_path),
        contextlib.ExitStack() as stack,
    ):
        client = _when_it_has_workers(stack, address)
        executor = DaskExecutor(client)
        for segment in segments(tmp_path, 2):
            executor.submit([segment])
        assert [result.status for result in everything(executor)] == ["COMPLETE"] * 2


@pytest.mark.slow
def test_a_worker_with_another_package_of_our_name_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / "models"
    foreign.mkdir(parents=True)
    for name in ("__init__.py", "segment.py"):
        (foreign / name).touch()
    with (
        scheduler(tmp_path) as (address, worker),
        dask(*worker, "--nthreads", "1", cwd=tmp_path, PYTHONPATH=str(foreign.parent)),
        contextlib.ExitStack() as stack,
        pytest.raises(ValueError, match=r"must have this version of Regatta, but its package `models` is .*foreign"),
    ):
        _when_it_has_workers(stack, address)


@pytest.mark.slow
def test_a_scheduler_without_workers_is_a_mistake(tmp_path: Path) -> None:
    with (
        scheduler(tmp_path) as (address, _),
        pytest.raises(ValueError, match="a scheduler with workers, but it has none"),
        connected(ClusterConfig(address=address), paths=[]),
    ):
        pass


def _when_it_has_workers(stack: contextlib.ExitStack, address: str) -> Client:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return stack.enter_context(connected(ClusterConfig(address=address), paths=[HERE]))
        except ValueError as error:
            if "it has none" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.slow
def test_no_worker_process_is_left_over() -> None:
    script = f"""
import os
from search.cluster import connected
from search.cluster_config import ClusterConfig
with connected(ClusterConfig(workers=1), paths=[{HERE!r}]) as client:
    print(*client.run(os.getpid).values())
"""
    done = subprocess.run([sys.executable, "-c", _main(script)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 1
    assert not any(psutil.pid_exists(pid) for pid in pids)


def _main(script: str) -> str:
    """A script whose spawned processes do not run it again."""
    body = "".join(f"    {line}\n" for line in script.strip().splitlines())
    return f"if __name__ == '__main__':\n{body}"
