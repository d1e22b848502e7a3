"""From the ledger to MLflow: a step that may be repeated after any interruption, and the thread around it."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from tracking import projection
from tracking.files import unsent_files
from tracking.fronts import send_front
from tracking.ledger import SEARCH_RUN, Ledger, Note, RunState
from tracking.runs import (
    DESCRIPTION,
    PARENT,
    MetricPoint,
    MlflowWriter,
    RunStatus,
    RunWriter,
    WriteRefused,
    legal_name,
)

EXPERIMENT = "regatta"
NUMBERS = ("results", "analysis", "verified")
"""Notes that become metrics of the search's run."""
LONGEST_REST = 30.0
"""Seconds between two tries at most while the store is away."""
POLL = 1.0
"""Seconds after which the thread looks at the ledger unasked."""
RECOUNT = 3.0
"""Seconds between two counts of what MLflow lacks."""
LATE = 10.0
"""Seconds after which it is worth saying that MLflow lacks something."""
FAREWELL = 5.0
"""Seconds that `close` waits for the request under way."""
POLITENESS = 10
"""The thread's niceness: about a tenth of a core while the workers use all of them."""

logger = logging.getLogger(__name__)


class Projection:
    """Brings one MLflow store up to one ledger. What it read in the ledger it never contradicts in MLflow.

    Notes of the ledger that it reads: `study`, `experiment`, `tags` (on every run), `params` (a tree, final),
    `description` (Markdown), `recipe` (YAML text), `artifact:<file name>` (digest), `results`, `analysis` and
    `verified` (name to number), `view` (tags of the experiment) and `status` (RUNNING, FINISHED, ...) of the search's
    own run.
    """

    def __init__(self, ledger: Ledger, writer: RunWriter, *, watch: bool = False) -> None:
        self._ledger, self._writer, self._watch = ledger, writer, watch
        self._parent: str | None = None
        self.refused: dict[int, str] = {}
        """What MLflow said no to, by trial; left alone until another projection is made."""

    def steps(self) -> Iterator[None]:
        """Send what is lacking, run by run.

        Raises:
            ConnectionError: the store is away; what was sent before is known to the ledger.
            WriteRefused: the store has no place for the search at all.
        """
        parent = self._parent = self._parent or self._search_run()
        yield
        for number, send in self._jobs(parent):
            if number in self.refused:
                continue
            try:
                send()
            except WriteRefused as error:
                self.refused[number] = str(error)
            yield

    def _jobs(self, parent: str) -> Iterator[tuple[int, Callable[[], None]]]:
        yield SEARCH_RUN, partial(self._send_notes, parent)
        for number in self._ledger.unsent():
            yield number, partial(self._send_trial, number, parent)
        # Files come last: a store whose artifacts are out of reach still gets the numbers.
        yield SEARCH_RUN, partial(self._send_end, parent)
        yield SEARCH_RUN, partial(self._send_files, parent)

    # -- the search's own run

    def _search_run(self) -> str:
        """The run that is parent of all others: the one known, found again, or new."""
        ledger, writer = self._ledger, self._writer
        writer.experiment(ledger.meta("experiment", EXPERIMENT))
        key = f"{ledger.meta('id')}:search"
        found = writer.find_run(key)
        if found != ledger.run(SEARCH_RUN).run_id:
            # Another store than last time, or another copy of the ledger: what it has of the trials is unknown.
            ledger.forget_runs()
        if found is None:
            started_ms = round(1000 * ledger.meta("created"))
            name = ledger.meta("study", "search")
            found = writer.open_run(key, name=name, tags=self._study_tags(), started_ms=started_ms)
        ledger.save_run(SEARCH_RUN, RunState(run_id=found))
        return found

    def _study_tags(self) -> dict[str, str]:
        study = {"study": self._ledger.meta("study"), **self._ledger.meta("tags", {})}
        return {legal_name(name): str(value) for name, value in study.items() if value not in (None, "")}

    def _send_notes(self, parent: str) -> None:
        notes = {note.key: note for note in self._ledger.unsent_notes()}
        status = notes.get("status")
        if status is not None and status.value == "RUNNING":
            self._writer.close_run(parent, "RUNNING", round(1000 * status.changed))
            self._ledger.notes_sent([status])
        if "view" in notes:
            self._writer.tag_experiment(notes["view"].value)
            self._ledger.notes_sent([notes["view"]])
        sent = [notes[key] for key in ("tags", "params", "description", *NUMBERS) if key in notes]
        if sent:
            tags = self._study_tags() if "tags" in notes else {}
            if "description" in notes:
                tags[DESCRIPTION] = notes["description"].value
            points = [point for key in NUMBERS if key in notes for point in _results(notes[key])]
            params = projection.study_params(notes["params"].value) if "params" in notes else {}
            self._writer.log(parent, params=params, tags=tags, points=points)
            self._ledger.notes_sent(sent)
        if self._watch:
            self._watch = False
            self._writer.watch(parent)

    def _send_files(self, parent: str) -> None:
        for note, name, content in unsent_files(self._ledger):
            if content is not None:
                self._writer.artifact(parent, name, content)
            self._ledger.notes_sent([note])

    def _send_end(self, parent: str) -> None:
        send_front(self._ledger, self._writer)
        for note in self._ledger.unsent_notes():
            if note.key == "status":
                self._writer.close_run(parent, cast(RunStatus, note.value), round(1000 * note.changed))
                self._ledger.notes_sent([note])

    # -- a trial's run

    def _send_trial(self, number: int, parent: str) -> None:
        """At most: look for the run after an interruption, open it, log everything new at once, close it."""
        # The row first: if the trial ends in between, its last segment is sent now and its end in the next pass.
        row = self._ledger.trial(number)
        segments, state, result = self._ledger.segments(number), self._ledger.run(number), row["result"]
        started = segments[0]["started"] if segments else (result["started"] or row["asked"])
        tags = projection.tags(row, segments)
        if state.run_id is None:
            head = {**self._study_tags(), **tags, PARENT: parent}
            state, tags = self._open(row, state, head, round(1000 * started))
        assert state.run_id is not None, "it has just been opened"
        points = projection.points(row["config"], segments, after=state.points)
        if result is not None:
            points += projection.summary(result)
        params = dict[str, str]()
        if state.points < 0:
            # What never changes comes with the first evaluations.
            params, tags = projection.params(row["config"]), tags | projection.config_tags(row["config"])
        self._writer.log(state.run_id, params=params, tags=tags, points=points)
        sent = max([state.points, 0, *(segment["to_step"] for segment in segments)])
        if result is not None:
            ended = result["ended"] or started
            self._writer.close_run(state.run_id, projection.run_status(row), round(1000 * ended))
        self._ledger.save_run(number, replace(state, points=sent, closed=result is not None))

    def _open(
        self, row: Mapping[str, Any], state: RunState, head: dict[str, str], started_ms: int
    ) -> tuple[RunState, dict[str, str]]:
        """The trial's run, and the tags that it still lacks."""
        number, key, lacking = row["number"], f"{self._ledger.meta('id')}:{row['number']}", dict[str, str]()
        run_id = self._writer.find_run(key) if state.creating else None
        if run_id is None:
            self._ledger.save_run(number, replace(state, creating=True))
            name = projection.run_name(row)
            run_id = self._writer.open_run(key, name=name, tags=head, started_ms=started_ms)
        else:
            lacking = head
        opened = replace(state, run_id=run_id, creating=False)
        self._ledger.save_run(number, opened)
        return opened, lacking


def push(ledger: Ledger, writer: RunWriter) -> dict[int, str]:
    """Bring MLflow up to the ledger, here and now. Returns what MLflow refused, by trial.

    Raises:
        ConnectionError: the store is away; run it again later.
    """
    work = Projection(ledger, writer)
    for _ in work.steps():
        pass
    return work.refused


def _results(note: Note) -> list[MetricPoint]:
    timestamp_ms = round(1000 * note.changed)
    return [MetricPoint(legal_name(name), float(value), timestamp_ms, 0) for name, value in note.value.items()]


class Sync:
    """Keeps MLflow up with a ledger from a thread of its own. It never raises into, nor waits for, the search."""

    def __init__(
        self,
        folder: Path,
        *,
        uri: str | None,
        home: Path,
        system_metrics: bool = False,
        writer: Callable[[str | None, Path], RunWriter] = MlflowWriter,
    ) -> None:
        """The writer is made from `uri` and `home` in the thread, for that may take seconds."""
        self._folder, self._open_writer, self._watch = folder, partial(writer, uri, home), system_metrics
        self._changed = threading.Condition()
        self._asked, self._done = 0, -1
        """Passes asked for; the last of them that has gone through."""
        self._stopping = self._hurry = False
        self._pending = self._evaluations = 0
        self._counted = -math.inf
        self._complete = time.monotonic()
        """When MLflow last had everything that there was."""
        self._problem: str | None = None
        self._away_since = math.inf
        self._thread = threading.Thread(target=self._run, name="regatta-sync", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def notify(self) -> None:
        """Say that the ledger has news. Without it they are found within a second."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

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
        if self._thread.is_alive():
            self._thread.join(FAREWELL)

    # -- in the thread

    def _run(self) -> None:
        yield_processor()
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
                    self._pending = ledger.unsent_count()
                    self._count_evaluations(ledger)
                    writer = self._open_writer()
                    # MLflow's objects are here to stay: walking through them again and again took a fifth of the time.
                    gc.freeze()
                    work = Projection(ledger, writer, watch=self._watch)
                self._pass(ledger, work)
            except Exception as error:  # whatever it is, the search goes on, and so does the next try
                self._complain(error)
                self._count_evaluations(ledger)
                self._rest(ledger, rest)
                rest = min(2 * rest, LONGEST_REST)
            else:
                rest = 1.0
                self._finish_pass(asked, work)
                self._wait_for_news(ledger, asked, version)
        if writer is not None:
            writer.close()

    def _pass(self, ledger: Ledger, work: Projection) -> None:
        self._pending = ledger.unsent_count() - len(work.refused.keys() - {SEARCH_RUN})
        before = self._pending
        self._count_evaluations(ledger)
        for step, _ in enumerate(work.steps()):
            # The first two steps are the search's own run.
            self._pending = max(0, before - max(0, step - 1))
            self._count_evaluations(ledger)
            if self._stopping:
                return
        self._pending = 0

    def _finish_pass(self, asked: int, work: Projection) -> None:
        with self._changed:
            if not self._stopping:
                self._done = asked
            self._problem, self._evaluations = None, 0
            if work.refused:
                number, reason = next(iter(work.refused.items()))
                what = "the search's own run" if number == SEARCH_RUN else f"trial {number}"
                self._problem = f"MLflow refused {len(work.refused)} run(s), first {what}: {reason}"
            self._changed.notify_all()

    def _wait_for_news(self, ledger: Ledger, asked: int, version: int) -> None:
        with self._changed:
            while not self._stopping and self._asked == asked and ledger.changes() == version:
                self._changed.wait(POLL)
        self._complete = time.monotonic()

    def _complain(self, error: Exception) -> None:
        sentence = " ".join(f"{type(error).__name__}: {error}".split())
        if self._problem is None:
            logger.warning("MLflow is behind, the search goes on: %s", sentence)
            self._away_since = time.monotonic()
        self._problem = sentence

    def _rest(self, ledger: Ledger, seconds: float) -> None:
        """Wait before the next try, at most a second while someone waits for the outcome."""
        with self._changed:
            self._changed.notify_all()
            for _ in range(round(seconds / POLL)):
                self._changed.wait_for(lambda: self._stopping, POLL)
                if self._stopping or self._hurry:
                    return
                self._pending = ledger.unsent_count()
                self._count_evaluations(ledger)

    def _count_evaluations(self, ledger: Ledger) -> None:
        """Only now and then while there are any: of 10,000 trials it takes a third of a second."""
        if not self._evaluations or time.monotonic() - self._counted > RECOUNT:
            self._evaluations, self._counted = ledger.unsent_evaluations(), time.monotonic()


def yield_processor() -> None:
    """Let this thread have only what training leaves of the processor; what it has not sent by the end, it sends then.

    Writing a trial to MLflow takes some 50 ms of processor time, which the workers of the same machine would lack.
    """
    if sys.platform == "linux":  # Elsewhere priorities belong to whole processes.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), POLITENESS)
