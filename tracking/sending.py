"""What MLflow lacks of a study, sent run by run, and noted in the ledger as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from tracking import projection
from tracking.files import unsent_files
from tracking.fronts import FRONT, front
from tracking.leaders import LEADERS, leaders
from tracking.ledger import SEARCH_RUN, Ledger, Note, RunState
from tracking.runs import (
    DESCRIPTION,
    PARENT,
    MetricPoint,
    RunStatus,
    RunWriter,
    WholeRun,
    WriteRefused,
    legal_name,
)

EXPERIMENT = "regatta"
TOGETHER = 100
"""Runs whose status is set in one step."""
NUMBERS = ("results", "analysis", "verified")
"""Notes that become metrics of the search's run."""


class Projection:
    """Brings one MLflow store up to one ledger. What it read in the ledger it never contradicts in MLflow.

    Notes of the ledger that it reads: `study`, `experiment`, `tags` (on every run), `params` (a tree, final),
    `description` (Markdown), `recipe` (YAML text), `artifact:<file name>` (digest), `results`, `analysis` and
    `verified` (name to number), `front`, `leaders`, `view` (tags of the experiment) and `status` (RUNNING, FINISHED,
    ...) of the search's own run.
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
        yield from self._unfinished("RUNNING")
        yield from self._step(SEARCH_RUN, partial(self._send_notes, parent))
        yield from self._trials(parent)
        yield from self._unfinished("KILLED")
        yield from self._compared()
        # Files come last: a store whose artifacts are out of reach still gets the numbers.
        yield from self._step(SEARCH_RUN, partial(self._send_end, parent))
        yield from self._step(SEARCH_RUN, partial(self._send_files, parent))

    def _step(self, number: int, send: Callable[[], None]) -> Iterator[None]:
        if number in self.refused:
            return
        try:
            send()
        except WriteRefused as error:
            self.refused[number] = str(error)
        yield

    def _trials(self, parent: str) -> Iterator[None]:
        """One by one; where the store likes it better, those that came to something before it knew of them at once."""
        whole: dict[int, tuple[WholeRun, RunState]] = {}
        size, room = 0, self._writer.at_once
        for number in self._ledger.unsent():
            found = self._whole(number, parent) if room and number not in self.refused else None
            if found is None or found[0].size() > room:
                yield from self._step(number, partial(self._send_trial, number, parent))
                continue
            if size + found[0].size() > room:
                yield from self._record(whole, parent)
                whole, size = {}, 0
            whole[number] = found
            size += found[0].size()
        yield from self._record(whole, parent)

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
        for note in self._ledger.unsent_notes():
            if note.key == "status":
                self._writer.close_run(parent, cast(RunStatus, note.value), round(1000 * note.changed))
                self._ledger.notes_sent([note])

    # -- trials that a search has left in the middle of their training

    def _unfinished(self, status: Literal["RUNNING", "KILLED"]) -> Iterator[None]:
        """Their runs are KILLED once the search has ended, and RUNNING again when it goes on; a step for some of them.

        How it ended, which no one run is to be held back by, is sent behind this.
        """
        note = next((note for note in self._ledger.unsent_notes() if note.key == "status"), None)
        if note is None or (note.value == "RUNNING") != (status == "RUNNING"):
            return
        at_ms = round(1000 * note.changed)
        runs = list(self._ledger.open_runs().items())
        for first in range(0, len(runs), TOGETHER):
            some = runs[first : first + TOGETHER]
            try:
                self._writer.close_runs([run_id for _, run_id in some], status, at_ms)
            except WriteRefused:
                for number, run_id in some:
                    yield from self._step(number, partial(self._writer.close_run, run_id, status, at_ms))
            yield

    # -- what only the end of a search can say of trials

    def _compared(self) -> Iterator[None]:
        """Which of them lie on the front, what is expected of the best: a step for each, whose run is open by now."""
        for note in self._ledger.unsent_notes():
            if note.key not in (FRONT, LEADERS):
                continue
            tags = dict(front(note)) if note.key == FRONT else {}
            points = dict(leaders(note)) if note.key == LEADERS else {}
            for number in tags or points:
                run_id = self._ledger.run(number).run_id
                if run_id is not None:
                    log = partial(self._writer.log, run_id, params={}, tags=tags.get(number, {}))
                    yield from self._step(number, partial(log, points=points.get(number, ())))
            self._ledger.notes_sent([note])

    # -- trials that have come to something before the store knew of them: most of those that wait at a rung too

    def _whole(self, number: int, parent: str) -> tuple[WholeRun, RunState] | None:
        """The run of such a trial, and how far it will have got; None for any other trial."""
        state = self._ledger.run(number)
        if state != RunState():
            return None
        row = self._ledger.trial(number)
        # The row first: if the trial ends in between, its end is sent in the next pass.
        result, segments = row["result"], self._ledger.segments(number)
        if result is None and not segments:
            return None
        started, ended = _started(row, segments), projection.summary(result) if result else []
        run = WholeRun(
            key=self._key(number),
            name=projection.run_name(row),
            started_ms=round(1000 * started),
            ended_ms=None if result is None else round(1000 * (result["ended"] or started)),
            status="RUNNING" if result is None else projection.run_status(row),
            tags=self._head(row, segments, parent) | projection.config_tags(row["config"]),
            params=projection.params(row["config"]),
            points=projection.points(row["config"], segments, after=-1) + ended,
        )
        return run, replace(state, points=_reached(segments, state), closed=result is not None)

    def _record(self, whole: Mapping[int, tuple[WholeRun, RunState]], parent: str) -> Iterator[None]:
        """All at once; refused, one by one, so that only those are that are to blame. A step for each."""
        if not whole:
            return
        self._ledger.save_runs({number: RunState(creating=True) for number in whole})
        try:
            ids = self._writer.record([run for run, _ in whole.values()])
        except WriteRefused:
            for number in whole:
                yield from self._step(number, partial(self._send_trial, number, parent))
            return
        states = zip(whole.items(), ids, strict=True)
        self._ledger.save_runs({number: replace(state, run_id=run_id) for (number, (_, state)), run_id in states})
        yield from (None for _ in whole)

    # -- a trial's run

    def _send_trial(self, number: int, parent: str) -> None:
        """At most: look for the run after an interruption, open it, log everything new at once, close it."""
        # The row first: if the trial ends in between, its last segment is sent now and its end in the next pass.
        row = self._ledger.trial(number)
        segments, state, result = self._ledger.segments(number), self._ledger.run(number), row["result"]
        started = _started(row, segments)
        tags = projection.tags(row, segments)
        if state.run_id is None:
            head = self._head(row, segments, parent)
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
        sent = _reached(segments, state)
        if result is not None:
            ended = result["ended"] or started
            self._writer.close_run(state.run_id, projection.run_status(row), round(1000 * ended))
        self._ledger.save_run(number, replace(state, points=sent, closed=result is not None))

    def _open(
        self, row: Mapping[str, Any], state: RunState, head: dict[str, str], started_ms: int
    ) -> tuple[RunState, dict[str, str]]:
        """The trial's run, and the tags that it still lacks."""
        number, key, lacking = row["number"], self._key(row["number"]), dict[str, str]()
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

    def _head(self, row: Mapping[str, Any], segments: Sequence[Mapping[str, Any]], parent: str) -> dict[str, str]:
        return {**self._study_tags(), **projection.tags(row, segments), PARENT: parent}

    def _key(self, number: int) -> str:
        return f"{self._ledger.meta('id')}:{number}"


def _started(row: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]) -> float:
    """When a trial of which there is something to send began."""
    return float(segments[0]["started"] if segments else (row["result"]["started"] or row["asked"]))


def _reached(segments: Sequence[Mapping[str, Any]], state: RunState) -> int:
    """The step up to which these segments bring MLflow."""
    return max([state.points, 0, *(int(segment["to_step"]) for segment in segments)])


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
