"""The thread that keeps MLflow up to date with the ledger while a search goes on, and waits where MLflow is away."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tracking.client import load, tracking_uri
from tracking.direct_runs import DirectWriter
from tracking.ledger import SEARCH_RUN, Ledger
from tracking.runs import RunWriter
from tracking.sending import Projection

LONGEST_REST = 30.0
"""Seconds between two tries at most while the store is away."""
POLL = 1.0
"""Seconds after which the thread looks at the ledger unasked."""
RECOUNT = 3.0
"""Seconds between two counts of what MLflow lacks."""
LATE = 10.0
"""Seconds after which it is worth saying that MLflow lacks something."""
SHARE = 0.1
"""Part of a core that sending may take while the search goes on. What comes in between goes in fewer, larger pieces."""
LONGEST_PAUSE = 8.0
"""Seconds between two passes at most, to keep to it."""
FAREWELL = 5.0
"""Seconds that `close` waits for the request under way."""
POLITENESS = 10
"""The thread's niceness: about a tenth of a core while the workers use all of them."""

logger = logging.getLogger(__name__)


class Sync:
    """Keeps MLflow up with a ledger from a thread of its own. It never raises into, nor waits for, the search."""

    def __init__(
        self,
        folder: Path,
        *,
        uri: str | None,
        home: Path,
        system_metrics: bool = False,
        writer: Callable[[str | None, Path], RunWriter] = DirectWriter,
    ) -> None:
        """The writer is made from `uri` and `home` in the thread, for that may take seconds."""
        self._folder, self._open_writer, self._watch = folder, partial(writer, uri, home), system_metrics
        self._load = partial(load, tracking_uri(uri, home))
        self._changed = threading.Condition()
        self._asked, self._done = 0, -1
        """Times that someone waited for everything; the last of them that was met."""
        self._passes = 0
        """Passes that have gone through."""
        self._begun = self._stopping = self._hurry = False
        self._pending = self._evaluations = self._refused = 0
        self._complete = time.monotonic()
        """When MLflow last had everything that there was."""
        self._problem: str | None = None
        self._away_since = math.inf
        self._thread = threading.Thread(target=self._run, name="regatta-sync", daemon=True)
        self._counter = threading.Thread(target=self._count, name="regatta-backlog", daemon=True)

    def prepare(self) -> None:
        """Import MLflow while the workers start, and touch nothing yet; returns at once."""
        self._thread.start()

    def start(self) -> None:
        """Begin; returns at once."""
        with self._changed:
            self._begun, self._complete = True, time.monotonic()
            self._changed.notify_all()
        if not self._thread.is_alive():
            self._thread.start()
        self._counter.start()

    def pending(self) -> int:
        """How many trials MLflow lacks something of, as last seen."""
        return self._pending

    def evaluations(self) -> int:
        """How many evaluations it lacks, as last seen."""
        return self._evaluations

    def is_late(self) -> bool:
        """Whether MLflow has lacked something for long: it is away, or slower than the search."""
        return self._pending > 0 and time.monotonic() - self._complete > LATE

    def problem(self) -> str | None:
        """Why MLflow is behind, in one line; None while all is well."""
        return self._problem

    def drain(self, timeout: float | None = None, *, away: float = math.inf) -> bool:
        """Wait until MLflow has everything that is in the ledger now; false if it has not after `timeout` seconds.

        False too once the store has been away for `away` seconds of them: it will hardly come just then.
        """
        began = time.monotonic()
        with self._changed:
            self._asked += 1
            wanted, self._hurry = self._asked, True
            self._changed.notify_all()

            def is_over() -> bool:
                lost = self._problem is not None and time.monotonic() - max(began, self._away_since) > away
                return self._done >= wanted or lost or not self._thread.is_alive()

            self._changed.wait_for(is_over, timeout)
            self._hurry = False
            return self._done >= wanted

    def close(self) -> None:
        """Stop after the request under way. What is left in the ledger is sent next time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in (self._thread, self._counter):
            if thread.is_alive():
                thread.join(FAREWELL)

    # -- in the thread

    def _run(self) -> None:
        yield_processor()
        with suppress(Exception):  # It is told where MLflow is to be used.
            self._load()
        with self._changed:
            self._changed.wait_for(lambda: self._begun or self._stopping)
        try:
            with Ledger.open(self._folder, create=False) as ledger:
                self._keep_up(ledger)
        except Exception as error:
            self._complain(error)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _keep_up(self, ledger: Ledger) -> None:
        writer: RunWriter | None = None
        work: Projection | None = None
        rest = 1.0
        while not self._stopping:
            asked, version = self._asked, ledger.changes()
            try:
                if work is None or writer is None:
                    writer = self._open_writer()
                    # MLflow's objects are here to stay: walking through them again and again took a fifth of the time.
                    gc.freeze()
                    work = Projection(ledger, writer, watch=self._watch)
                began = time.thread_time()
                self._pass(work)
                spent = time.thread_time() - began
            except Exception as error:  # whatever it is, the search goes on, and so does the next try
                self._complain(error)
                self._rest(rest)
                rest = min(2 * rest, LONGEST_REST)
            else:
                rest = 1.0
                self._finish_pass(asked, work)
                self._wait_for_news(ledger, asked, version, pause=min(LONGEST_PAUSE, spent / SHARE - spent))
        if writer is not None:
            writer.close()

    def _pass(self, work: Projection) -> None:
        for _ in work.steps():
            if self._stopping:
                return

    def _finish_pass(self, asked: int, work: Projection) -> None:
        with self._changed:
            if not self._stopping:
                self._done, self._pending, self._evaluations = asked, 0, 0
            self._problem = None
            self._refused = len(work.refused.keys() - {SEARCH_RUN})
            self._passes += 1
            if work.refused:
                number, reason = next(iter(work.refused.items()))
                what = "the search's own run" if number == SEARCH_RUN else f"trial {number}"
                self._problem = f"MLflow refused {len(work.refused)} run(s), first {what}: {reason}"
            self._changed.notify_all()

    def _wait_for_news(self, ledger: Ledger, asked: int, version: int, *, pause: float) -> None:
        with self._changed:
            self._complete = time.monotonic()
            self._changed.wait_for(lambda: self._stopping or self._hurry, pause)
            while not self._stopping and self._asked == asked and ledger.changes() == version:
                self._changed.wait(POLL)
        self._complete = time.monotonic()

    def _complain(self, error: Exception) -> None:
        sentence = " ".join(f"{type(error).__name__}: {error}".split())
        if self._problem is None:
            logger.warning("MLflow is behind, the search goes on: %s", sentence)
            self._away_since = time.monotonic()
        self._problem = sentence

    def _rest(self, seconds: float) -> None:
        """Wait before the next try, at most a second while someone waits for the outcome."""
        with self._changed:
            self._changed.notify_all()
            for _ in range(round(seconds / POLL)):
                self._changed.wait_for(lambda: self._stopping, POLL)
                if self._stopping or self._hurry:
                    return

    # -- in the thread that counts

    def _count(self) -> None:
        """What MLflow lacks, counted beside the requests: a single one may take longer than anyone waits to be told."""
        yield_processor()
        # A ledger that cannot be read is the other thread's to complain of.
        with suppress(Exception), Ledger.open(self._folder, create=False) as ledger:
            counted = -math.inf
            while not self._stopping:
                passes, evaluations = self._passes, self._evaluations
                pending = max(0, ledger.unsent_count() - self._refused)
                # Only now and then: of 10,000 trials it takes a third of a second.
                if pending and (not evaluations or time.monotonic() - counted > RECOUNT):
                    evaluations, counted = ledger.unsent_evaluations(), time.monotonic()
                with self._changed:
                    if self._passes == passes:  # Otherwise the count is from before the pass that has just ended.
                        self._pending, self._evaluations = pending, evaluations
                    self._changed.wait_for(lambda: self._stopping, POLL)


def yield_processor() -> None:
    """Let this thread have only what training leaves of the processor; what it has not sent by the end, it sends then.

    Writing a trial takes 5 ms of processor time, through MLflow's client some 50, which the workers of the same machine
    would lack.
    """
    if sys.platform == "linux":  # Elsewhere priorities belong to whole processes.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), POLITENESS)
