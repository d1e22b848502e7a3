"""What a network or the time of a worker cuts off is taken up elsewhere, and comes back once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from distributed import Client
from faulty_line import Line
from faulty_searches import FAULTS, ONCE, SECONDS, curve, ended, started, trials, undisturbed, wait_until
from search_parts import HERE, gives_up_after
from test_faults_scheduler import LOST
from test_faults_scheduler import cluster as scheduler_with_worker
from test_search_executors import PATIENCE, dask, everything, segments, wait_for

from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor

pytestmark = pytest.mark.slow
HERE_ALONE = ["--host", "127.0.0.1", "--no-dashboard"]


class Cluster:
    """A scheduler, and a worker that is reached, and reaches it, by lines that can be cut."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        port, inner = free_ports(2)
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{port}"
        stack.enter_context(dask("scheduler", *HERE_ALONE, "--port", str(port), cwd=folder, PYTHONPATH=HERE))
        there, back = (stack.enter_context(closing(Line(which))) for which in (port, inner))
        self.lines = (there, back)
        ports = ["--listen-address", f"tcp://127.0.0.1:{inner}", "--contact-address", f"tcp://127.0.0.1:{back.port}"]
        words = ["--no-nanny", "--no-dashboard", "--nthreads", "1", *ports]
        stack.enter_context(dask("worker", f"tcp://127.0.0.1:{there.port}", *words, cwd=folder))
        with Client(self.address, timeout=PATIENCE, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
        self.client = stack.enter_context(connected(ClusterConfig(address=self.address), paths=[HERE]))

    def cut(self) -> None:
        for line in self.lines:
            line.cut()

    def mend(self) -> None:
        for line in self.lines:
            line.mend()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path_factory.mktemp("dask"))


def another(mark: Path, before: str) -> str:
    """The process that has begun a segment after that of before."""
    end = time.monotonic() + PATIENCE
    while (pid := wait_for(mark)) == before and time.monotonic() < end:
        time.sleep(0.05)
    return pid


def test_a_result_comes_late_when_the_network_was_away_for_a_while(cluster: Cluster, tmp_path: Path) -> None:
    executor = DaskExecutor(cluster.client, "search_parts.two_seconds")
    executor.submit(segments(tmp_path, 1))
    pid = wait_for(tmp_path / "started-0")
    cluster.cut()
    assert executor.completed(4.0) == []
    cluster.mend()
    assert [(result.status, result.worker) for result in everything(executor)] == [("COMPLETE", pid)]


def test_a_segment_behind_a_dead_network_goes_elsewhere_and_so_it_does_when_a_lifetime_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    client = cluster.client
    executor, mark = DaskExecutor(client, "search_parts.steps"), tmp_path / "started-0"
    executor.submit(segments(tmp_path, 1))
    behind = wait_for(mark)
    mortal = ["--nthreads", "1", "--lifetime", "30s", "--lifetime-restart"]
    with dask("worker", *HERE_ALONE, cluster.address, *mortal, cwd=cluster.folder):
        client.wait_for_workers(2, timeout=PATIENCE)
        client.run(os.getpid)  # Who answers has imported all, and sends heartbeats.
        client.run_on_scheduler(gives_up_after, 5.0)
        cluster.cut()
        elsewhere = another(mark, behind)
        client.run_on_scheduler(gives_up_after, 300.0)
        given_up = [event for _, event in client.get_events("scheduler") if event["action"] == "worker-ttl-timed-out"]
        # Whoever was cut off learns that it was given up, and what it brings is not heard.
        cluster.mend()
        after = another(mark, elsewhere)
        executor.request_stop()
        (result,) = everything(executor)
    assert [len(event["workers"]) for event in given_up] == [1]
    assert len({behind, elsewhere, after}) == 3
    assert (result.trial, result.status, result.worker) == (0, "PAUSED", after)


@pytest.mark.parametrize("given_up", [False, True], ids=["for a while", "until it is given up"])
def test_a_driver_that_is_cut_off_from_its_scheduler_goes_on(given_up: bool, tmp_path: Path) -> None:
    mark, home = tmp_path / "begun", tmp_path / "home"
    (port,) = free_ports(1)
    with ExitStack() as stack:
        scheduler_with_worker(stack, f"tcp://127.0.0.1:{port}", tmp_path)
        line = stack.enter_context(closing(Line(port)))
        words = [SECONDS, "0.05", "--search.segment_seconds", "0.5", FAULTS, "{any: mark}", ONCE, str(mark)]
        words += ["--cluster.address", f"tcp://127.0.0.1:{line.port}", "--cluster.workers", "null"]
        process = started(home, *words, "--model.init_args.at_step", "35")
        wait_until(mark.exists, process)
        line.cut()
        time.sleep(3.0)  # A segment ends meanwhile, and nobody hears of it.
        if given_up:
            line.give_up()
        else:
            line.mend()
        code, out, err = ended(process)
    assert (code, err) == (0, ""), out
    assert out.count(LOST.format(300)) == out.count("The Dask scheduler is back with 1 worker") == int(given_up)
    (row,) = trials(home)
    assert row["status"] == "COMPLETE"
    assert curve(row["segments"]) == undisturbed(row, tmp_path)
