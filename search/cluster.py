"""A Dask client for a search: workers of this machine or of a running scheduler, each checked before its first task."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm.core import CommClosedError
from distributed.scheduler import WorkerState
from distributed.utils import LoopRunner

from search import forking
from search.cluster_config import TLS, ClusterConfig
from search.failure import ClusterAbsent, SearchFailed
from search.installation import FACTS, PACKAGES, differences
from search.resources import cores_allowed, gpus
from search.worker import STALLED, WorkerSetup

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787
CONNECT_SECONDS = 30
END_SECONDS = 2.0
"""How long to wait for the exit code of a worker that is known to be lost."""
KILL_SECONDS = 2.0
"""How long a worker that is to end may take, about: one that hangs never does, and Ctrl-C must not take long."""
OVER_SHARE = "worker-restart-memory"
"""Dask's topic of worker processes that were stopped because they took more memory than their share."""
HEARTBEAT_LEAST = 60.0
"""A worker that imports torch, or whose code keeps Python's lock, sends no heartbeats meanwhile, and yet is well."""
SETTINGS = {
    "distributed.worker.daemon": False,  # A daemonic worker may not start the worker processes of a DataLoader.
    # Dask blames all tasks that a dead worker held. Whether one had begun there, and is tried again, is ours to say.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.admin.low-level-log-length": 100,
    # After this, 15 s by default, Dask gives up a worker that is being replaced: less than torch's import may take.
    "distributed.deploy.lost-worker-timeout": "1h",
    # Dask would rest a worker at 80 % of its share until memory is freed. Ours keep it: nothing would run there again.
    "distributed.worker.memory.pause": False,
    **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in forking.ENVIRONMENT.items()},
}
# Whatever fails comes back as a result; as lines of a log (of a heartbeat while all closes, too) it breaks the display.
WORKER = {"nthreads": 1, "host": LOOPBACK, "dashboard": False, "silence_logs": logging.CRITICAL}


class Watched(Nanny):
    """The parent of a worker process, which remembers how that and those before it ended."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.ends: dict[str, int] = {}
        """Exit codes by the address of the worker; by the parent's own where that was not known yet."""

    async def kill(self, timeout: float = KILL_SECONDS, reason: str = "nanny-kill") -> None:
        """End the process, by force if it does not end by itself soon."""
        await super().kill(timeout=min(timeout, KILL_SECONDS), reason=reason)

    def _on_worker_exit_sync(self, exitcode: int) -> None:
        # One that dies at once may be gone before its parent has learnt its address, and has that of the one before it.
        known = self.worker_address is not None and self.worker_address not in self.ends
        self.ends[str(self.worker_address if known else self.address)] = exitcode
        super()._on_worker_exit_sync(exitcode)  # type: ignore[no-untyped-call]


def end_of(client: Client, worker: WorkerState) -> tuple[str, str]:
    """How the process of a lost worker ended: `oom_host`, `timeout` or `crash`, and in words."""
    for _, event in client.get_events(OVER_SHARE):
        if event["worker"] == worker.address:
            return "oom_host", f"stopped with {event['rss'] / 1e9:.1f} GB, nearly all of its share of the memory"
    silent = _silent(client, worker.address)
    if silent is not None:
        return "timeout", silent
    code = _exit_code(client, worker)
    if code is None:
        return "crash", "nobody knows how"
    return "crash", signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _exit_code(client: Client, worker: WorkerState) -> int | None:
    parents: Mapping[Any, Watched] = getattr(client.cluster, "workers", {})
    parent = next((parent for parent in parents.values() if parent.address == worker.nanny), None)
    if parent is None:
        return None  # Another machine has started it.
    # The scheduler may hear of it a moment before the parent does.
    last = time.monotonic() + END_SECONDS
    while worker.address not in parent.ends and time.monotonic() < last:
        time.sleep(0.01)
    if worker.address not in parent.ends and parent.address in parent.ends:
        parent.ends[worker.address] = parent.ends.pop(parent.address)
    return parent.ends.get(worker.address)


def heartbeat_limit(stall_seconds: float | None) -> float | None:
    """Seconds without a heartbeat after which the scheduler gives up a worker's process.

    One that is stopped, or whose code keeps Python's lock, cannot watch over itself. Half of what a training may take
    without a step, since the scheduler looks once in so many seconds: it finds out between that and twice that.
    """
    return None if stall_seconds is None else max(HEARTBEAT_LEAST, stall_seconds / 2)


def _silent(client: Client, worker: str) -> str | None:
    """What hung there, if the worker was ended for its silence."""
    for _, event in client.get_events(STALLED):
        if event["worker"] == worker:
            stacks = f", stacks in {event['stacks']}" if event["stacks"] else ""
            return f"no step for {event['seconds']:.0f} s, in {event['where']}{stacks}; see `cluster.stall_seconds`"
    for _, event in client.get_events("scheduler"):
        if event.get("action") == "worker-ttl-timed-out" and worker in event["workers"]:
            return (
                f"no sign of life of its process for {event['ttl']:.0f} s: it was stopped, cut off, or its code "
                "keeps Python's lock"
            )
    return None


@contextmanager
def connected(config: ClusterConfig, *, paths: list[str], patience: float | None = None) -> Iterator[Client]:
    """A client whose workers have passed the preflight.

    Args:
        paths: folders in which workers of this machine find the user's modules.
        patience: seconds in which a running scheduler has to answer; None: `CONNECT_SECONDS`.

    Raises:
        ClusterAbsent: if the scheduler cannot be reached, or has no workers.
        ValueError: if it has workers with other packages.
        SearchFailed: if a worker of this machine does not come up.
    """
    setup = WorkerSetup(paths, None, config.stall_seconds)
    settings = {
        **SETTINGS,
        "distributed.scheduler.worker-ttl": heartbeat_limit(config.stall_seconds),
        "distributed.worker.multiprocessing-method": forking.method(),
    }
    with dask.config.set(settings):
        if config.address is not None:
            with _remote(config.address, patience or CONNECT_SECONDS) as client:
                yield _checked(client, setup)
        else:
            forking.start()
            workers = _local_workers(config)
            setup.threads = max(1, cores_allowed() // len(workers))
            with ExitStack() as stack:
                try:
                    cluster = stack.enter_context(_local(workers, dashboard=config.dashboard))
                    client = _checked(stack.enter_context(Client(cluster)), setup)
                except (RuntimeError, OSError) as error:
                    why = (str(error) or type(error).__name__).splitlines()[0]
                    raise SearchFailed(f"A worker died while it started ({why}).") from error
                yield client


def examined(address: str) -> dict[str, tuple[list[str], float]]:
    """Every worker of a running scheduler: how it differs and must not, and seconds by which its clock is ahead.

    Raises:
        ClusterAbsent: if the scheduler cannot be reached.
    """
    with dask.config.set(SETTINGS), _remote(address, CONNECT_SECONDS) as client:
        facts: Mapping[str, Any] = client.run(eval, FACTS % (PACKAGES,))
        return {worker: (list(differences(worker, found)), _ahead(client, worker)) for worker, found in facts.items()}


def _ahead(client: Client, worker: str) -> float:
    """Seconds, as good as half the time that the question takes."""
    asked = time.time()
    there: float = client.run(eval, "__import__('time').time()", workers=[worker])[worker]
    return there - (asked + time.time()) / 2


def _remote(address: str, patience: float) -> Client:
    certificates = [dask.config.get(f"distributed.comm.tls.{name}", None) for name in ("ca-file", "client.cert")]
    if address.startswith("tls://") and None in certificates:
        raise ValueError(f"`cluster.address` must be left out without certificates, but got {address!r}. {TLS}")
    # That it is lost, and looked for in vain, is told elsewhere; as lines of a log it would break the display.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=patience)
    except (OSError, ValueError) as error:
        raise ClusterAbsent(
            f"`cluster.address` must be that of a running Dask scheduler, but {address!r} does not answer: {error}. "
            "Start one with `dask scheduler`, or leave `cluster.address` out."
        ) from error


def _local_workers(config: ClusterConfig) -> list[dict[str, str]]:
    """What a worker's environment has beside ours: one per GPU (or `per_gpu`), seeing only that; else one per core."""
    devices = [gpu for gpu in gpus() for _ in range(config.per_gpu)]
    count = config.workers or len(devices) or cores_allowed()
    return [{"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {} for i in range(count)]


@contextmanager
def _local(workers: list[dict[str, str]], *, dashboard: bool) -> Iterator[SpecCluster]:
    runner = _deaf_loop()
    # Dask's own share is that of one core, however few workers there are.
    options = {**WORKER, "memory_limit": 1 / len(workers)}
    # That a task has lost its workers becomes the reason of its trial; as a line of a log it would break the display.
    logging.getLogger("distributed.scheduler").setLevel(logging.CRITICAL)
    # Another search may take the dashboard's port right after it was found free: its address is told in any case.
    warnings.filterwarnings("ignore", r"Port \d+ is already in use", UserWarning)
    with SpecCluster(
        loop=runner.loop,
        scheduler={
            "cls": Scheduler,
            "options": {
                "host": LOOPBACK,
                "port": 0,
                "dashboard": dashboard,
                "dashboard_address": f"{LOOPBACK}:{_free_port(DASHBOARD_PORT)}",
            },
        },
        # All of ours: a process that workers are forked from has that of its own start.
        workers={
            index: {"cls": Watched, "options": {**options, "env": {**os.environ, **env}}}
            for index, env in enumerate(workers)
        },
        silence_logs=logging.ERROR,
        name="regatta",
    ) as cluster:
        yield cluster
    runner.stop()


def _deaf_loop() -> LoopRunner:
    """A running event loop whose thread blocks SIGINT, as do all processes that start from it.

    The terminal sends Ctrl-C to every process. A worker that is just starting has not come to ignore it yet.
    """
    # It is started with the first process otherwise, and then unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner = LoopRunner()
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    runner.loop.asyncio_loop.set_exception_handler(_unless_closed)
    return runner


def _unless_closed(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell what nobody asked after, but for a connection that was closed: the death of a worker is told elsewhere."""
    if not isinstance(context.get("exception"), CommClosedError):
        loop.default_exception_handler(context)


def _free_port(wanted: int) -> int:
    """The wanted port if nobody has it, otherwise 0, which lets the system choose one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            return 0
    return wanted


def dashboard_address(client: Client) -> str:
    """Where to look at the cluster: Dask's dashboard where bokeh is installed, otherwise its plain pages."""
    status = str(client.dashboard_link)
    return status if find_spec("bokeh") else status.replace("/status", "/info/main/workers.html")


def _checked(client: Client, setup: WorkerSetup) -> Client:
    facts: Mapping[str, Any] = client.run(eval, FACTS % (PACKAGES,))
    if not facts:
        raise ClusterAbsent("`cluster.address` must be that of a scheduler with workers, but it has none. Start some.")
    mistakes = [sentence for worker, found in facts.items() for sentence in differences(worker, found)]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    client.register_plugin(setup)
    return client
