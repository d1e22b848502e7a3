"""What a search does in every process of a Dask worker: set it up, and begin tasks under watch."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib import import_module
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin, get_worker

from models.segment import Segment
from search import forking
from search.stalls import EXIT_CODE, Stall, watched
from search.work import find, run_segments, set_stop

BEGUN = "regatta-begun"
"""Dask's topic under which workers say which task they begin."""
STALLED = "regatta-stalled"
"""Dask's topic of worker processes that were ended because their training made no progress."""
RESTING = 0.5
"""Part of its share of the memory that a worker may hold between two trainings."""
GIVE_BACK = "models.memory.give_back"
"""What hands freed memory back to the system."""
FLUSH_SECONDS = 1.0
"""How long a worker that ends itself waits until its last word is sent."""


class WorkerSetup(WorkerPlugin):
    """What every worker process does when it starts, one that replaces a lost worker too."""

    name = "regatta"

    def __init__(self, paths: list[str], threads: int | None, stall_seconds: float | None) -> None:
        self.paths = paths
        self.threads = threads
        self.stall_seconds = stall_seconds

    def setup(self, worker: Worker) -> None:
        """Ignore Ctrl-C, which the terminal sends to all: the driver decides. Find the user's modules. Warm up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        forking.settle()
        # Behind everything else: a folder of the user's called `models` must not hide ours.
        sys.path.extend(path for path in self.paths if path not in sys.path)
        # Where workers are not forked: in all of them at the same time.
        import_module(forking.PRELOAD)
        import_module("torch").set_num_threads(self.threads or worker.state.nthreads)
        import_module("models.memory").keep_freed_memory()
        import_module("models.offspring").end_with_parent()

    def teardown(self, worker: Worker) -> None:
        """Whatever trains here when its worker is closed trains in vain: nobody would hear of it."""
        set_stop(True)


def begin(function: str, payloads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Train segments in this process, after saying so; end it if they make no progress."""
    worker = get_worker()
    worker.log_event(BEGUN, worker.get_current_task())
    setup = worker.plugins[WorkerSetup.name]
    assert isinstance(setup, WorkerSetup), "the preflight has registered it"

    def end(stall: Stall) -> None:
        worker.log_event(STALLED, {"worker": worker.address, **asdict(stall)})
        time.sleep(FLUSH_SECONDS)
        os._exit(EXIT_CODE)

    def watch(first: Segment) -> AbstractContextManager[None]:
        name = f"trial-{first.trial:05d}-step-{first.from_step}-process-{os.getpid()}.txt"
        return watched(setup.stall_seconds, folder=first.folder, name=name, end=end)

    give_back_above(RESTING * (worker.memory_manager.memory_limit or math.inf))
    return run_segments(function, payloads, watch=watch)


def give_back_above(rest: float) -> None:
    """Give back what earlier trainings have freed, where this process holds more than it may at rest.

    Freed memory is kept (`models.memory`), in gaps that the next training may not fit into: of a share of 1.5 GB they
    have taken 100 to 200 MB more with every training.
    """
    if psutil.Process().memory_info().rss > rest:
        find(GIVE_BACK)()


def call(function: str, payload: Any) -> Any:
    """Call a function, given by import path."""
    return find(function)(payload)
