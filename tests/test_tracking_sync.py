"""MLflow ends up with what the ledger has, however often it is interrupted, and the search never waits for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tracking_rows import complete, point, result, segment, study, trial
from tracking_stores import KINDS, QUIET, Seen, all_runs, open_mlflow, open_store, seen

from search.trial import TrialResult
from tracking.files import announce
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.mlflow_runs import MlflowWriter
from tracking.runs import DESCRIPTION, KEY, PARENT, RunWriter, WholeRun, WriteRefused
from tracking.sending import Projection, push
from tracking.sync import Sync

pytestmark = QUIET


class Flaky(MemoryWriter):
    """A store that drops one connection: before it has done what was asked, or after, when only the answer is lost."""

    def __init__(self, *, fail_at: int, after: bool) -> None:
        super().__init__()
        self.fail_at, self.after = fail_at, after
        self.count = 0

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("experiment", "find_run", "open_run", "log", "close_run", "artifact"):
            return method

        def call(*values: Any, **named: Any) -> Any:
            self.count += 1
            fails = self.count == self.fail_at
            if fails and not self.after:
                raise ConnectionError("dropped")
            answer = method(*values, **named)
            if fails:
                raise ConnectionError("dropped")
            return answer

        return call


class Refusing(MemoryWriter):
    """A store that takes nothing of one trial."""

    def log(self, run_id: str, **what: Any) -> None:
        if self.runs[run_id].tags.get("trial") == "1":
            raise WriteRefused("no such run")
        super().log(run_id, **what)


def filled(folder: Path) -> Ledger:
    """A study that has everything: trials of one segment, of two, without any, and one that runs."""
    ledger = study(folder, 2)
    ledger.ask([trial(number) for number in (2, 3, 4, 5)])
    first, last = segment(2, 0, 40, status="PAUSED"), segment(2, 40, 60)
    ledger.record(first.to_json())
    ledger.record(last.to_json(), result([first, last]))
    ledger.finish(TrialResult(number=3, status="TIMEOUT", reason="deadline").to_json())
    ledger.record(segment(4, 0, 20, status="PAUSED").to_json())
    notes = {"study": "digits", "experiment": folder.name, "tags": {"git": "abc"}, "description": "# Digits"}
    notes |= {"recipe": "name: digits\n", "results": {"result/value": 0.5}}
    for key, value in notes.items():
        ledger.set_meta(key, value)
    (folder / "report").mkdir()
    for name in ("trials.csv", "report/steps.png"):
        (folder / name).write_bytes(b"\x89 some")
    announce(ledger, ["trials.csv", "report/steps.png"])
    ledger.set_meta("status", "FINISHED")
    return ledger


def contents(writer: RunWriter, study_id: str) -> dict[str, Seen]:
    """What a store holds of a study, by key, without what differs from store to store."""
    runs = [seen(writer, run_id) for run_id in all_runs(writer)]
    return {run.tags[KEY].removeprefix(study_id): run for run in runs}


@pytest.fixture(params=KINDS)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunWriter:
    return open_store(request.param, tmp_path_factory)


def test_the_store_has_what_the_ledger_has(tmp_path: Path, writer: RunWriter) -> None:
    with filled(tmp_path) as ledger:
        assert push(ledger, writer) == {}
        runs = contents(writer, ledger.meta("id"))
    assert sorted(runs) == [":0", ":1", ":2", ":3", ":4", ":search"]
    search, ended, timeout, running = runs[":search"], runs[":2"], runs[":3"], runs[":4"]
    assert (search.name, search.status, search.tags[DESCRIPTION]) == ("digits", "FINISHED", "# Digits")
    assert search.artifacts == {
        "recipe.yaml": b"name: digits\n",
        "trials.csv": b"\x89 some",
        "report/steps.png": b"\x89 some",
    }
    assert [(point.key, point.value) for point in search.points] == [("result/value", 0.5)]
    assert (ended.name, ended.status, timeout.status, running.status) == (
        "0002 b32-sgd-cosine",
        "FINISHED",
        "FAILED",
        "KILLED",
    )
    assert [point.step for point in ended.points if point.key == "validation/loss"] == [20, 40, 60]
    assert [point.step for point in running.points if point.key == "validation/loss"] == [20]
    assert {point.key: point.value for point in ended.points}["result/steps_to_target"] == 20
    assert (timeout.tags["reason"], timeout.tags["status"]) == ("deadline", "TIMEOUT")
    assert all(run.params["optimizer"] == "sgd" for run in (ended, timeout, running))
    assert all(run.tags["git"] == "abc" and run.tags["study"] == "digits" for run in runs.values())
    assert len({run.tags[PARENT] for run in (ended, timeout, running)}) == 1


def test_pushing_again_changes_nothing(tmp_path: Path, writer: RunWriter) -> None:
    with filled(tmp_path) as ledger:
        push(ledger, writer)
        before, calls = contents(writer, ledger.meta("id")), writer.calls
        push(ledger, writer)
        assert writer.calls - calls <= 3, "only the experiment and the search's own run are looked up"
        # As if the ledger were an older copy: nothing is known of what was sent.
        ledger.forget_runs()
        push(ledger, writer)
        assert contents(writer, ledger.meta("id")) == before


def test_a_trial_goes_on_where_it_was(tmp_path: Path, writer: RunWriter) -> None:
    with filled(tmp_path) as ledger:
        push(ledger, writer)
        calls = writer.calls
        segments = [segment(4, 0, 20, status="PAUSED"), segment(4, 20, 60)]
        ledger.record(segments[1].to_json(), result(segments))
        push(ledger, writer)
        run = contents(writer, ledger.meta("id"))[":4"]
        # Two to look up the search, one with what is new, one to close.
        assert writer.calls - calls <= 3 + 2
    assert [point.step for point in run.points if point.key == "validation/loss"] == [20, 40, 60]
    assert (run.status, run.tags["status"]) == ("FINISHED", "COMPLETE")


def test_a_short_trial_costs_three_requests_or_a_share_of_one_transaction(tmp_path: Path, writer: RunWriter) -> None:
    with study(tmp_path, 0) as ledger:
        ledger.set_meta("experiment", tmp_path.name)
        push(ledger, writer)
        before = writer.calls
        push(ledger, writer)
        idle = writer.calls - before
        for number in range(10):
            complete(ledger, number)
        before = writer.calls
        push(ledger, writer)
        assert writer.calls - before - idle == (1 if writer.at_once else 30)


@pytest.mark.parametrize("at_once", [0, 200], ids=["one-by-one", "many-at-once"])
@pytest.mark.parametrize("after", [False, True], ids=["request-lost", "answer-lost"])
def test_after_an_interruption_anywhere_every_run_and_point_is_there_once(
    tmp_path: Path, after: bool, at_once: int
) -> None:
    whole = MemoryWriter()
    with filled(tmp_path / "whole") as ledger:
        push(ledger, whole)
        expected = {key: _without_ids(run) for key, run in contents(whole, ledger.meta("id")).items()}
    assert whole.calls > 20
    for fail_at in range(1, whole.calls + 1):
        flaky = Flaky(fail_at=fail_at, after=after)
        flaky.at_once = at_once
        with filled(tmp_path / str(fail_at)) as ledger:
            with pytest.raises(ConnectionError):
                push(ledger, flaky)
            push(ledger, flaky)
            found = {key: _without_ids(run) for key, run in contents(flaky, ledger.meta("id")).items()}
        assert len(flaky.runs) == len(expected)
        assert found == expected, f"interrupted at request {fail_at}"


def _without_ids(run: Seen) -> tuple[Any, ...]:
    tags = {name: text for name, text in run.tags.items() if name not in (KEY, PARENT)}
    points = [(point.key, point.value, point.step) for point in run.points]
    return run.name, run.status, run.params, tags, points, run.artifacts


def test_a_restarted_trial_is_not_drawn_twice(tmp_path: Path) -> None:
    writer = MemoryWriter()
    with filled(tmp_path) as ledger:
        push(ledger, writer)
        ledger.restart(4)
        again = segment(4, 0, 60)
        ledger.record(again.to_json(), result([again]))
        push(ledger, writer)
        run = contents(writer, ledger.meta("id"))[":4"]
    assert [point.step for point in run.points if point.key == "validation/loss"] == [20, 40, 60]


def test_another_store_gets_everything_and_the_first_one_nothing_twice(tmp_path: Path) -> None:
    first, second = MemoryWriter(), MemoryWriter()
    with filled(tmp_path) as ledger:
        for store in (first, second, first):
            push(ledger, store)
        assert contents(first, ledger.meta("id")).keys() == contents(second, ledger.meta("id")).keys()
    assert len(first.runs) == len(second.runs) == 6


def test_a_ledger_from_an_older_copy_finds_its_runs_again(tmp_path: Path) -> None:
    writer = MemoryWriter()
    with filled(tmp_path) as ledger:
        push(ledger, writer)
        with sqlite3.connect(ledger.path) as older:
            older.execute("DELETE FROM runs")
        older.close()
        push(ledger, writer)
    assert len(writer.runs) == 6


@pytest.mark.parametrize("at_once", [0, 10_000], ids=["one-by-one", "many-at-once"])
def test_what_is_refused_of_one_trial_holds_up_no_other(tmp_path: Path, at_once: int) -> None:
    writer = Refusing()
    writer.at_once = at_once
    with study(tmp_path, 3) as ledger:
        assert push(ledger, writer) == {1: "no such run"}
        assert ledger.unsent() == [1]
        assert [ledger.run(number).closed for number in range(3)] == [True, False, True]
        assert len(writer.runs) == 4


class Batches(MemoryWriter):
    """A store that likes so many values at once, and remembers how many it got."""

    def __init__(self, at_once: int) -> None:
        super().__init__()
        self.at_once = at_once
        self.sizes: list[list[int]] = []

    def record(self, runs: Sequence[WholeRun]) -> list[str]:
        self.sizes.append([run.size() for run in runs])
        return super().record(runs)


def test_whole_runs_go_as_many_at_once_as_the_store_likes_and_no_more(tmp_path: Path) -> None:
    writer = Batches(400)
    with study(tmp_path, 10) as ledger:
        ledger.ask([trial(10)])
        large = segment(10, curve=[point(step) for step in range(1, 61)])
        ledger.record(large.to_json(), result([large]))
        push(ledger, writer)
    assert sum(len(sizes) for sizes in writer.sizes) == 10
    assert all(sum(sizes) <= 400 for sizes in writer.sizes) and len(writer.sizes[0]) > 1
    assert len(writer.runs) == 12


def test_every_trial_of_a_batch_is_a_step_and_what_is_sent_is_noted_before_it(tmp_path: Path) -> None:
    with study(tmp_path, 10) as ledger:
        steps = Projection(ledger, Batches(400)).steps()
        left = [ledger.unsent_count() for _ in steps]
    assert len(left) == 10 + 4
    assert left[:2] == [10, 10] and left[-1] == 0
    assert all(count <= max(0, 9 - index) for index, count in enumerate(left[2:]))


def test_a_trial_that_the_store_knows_of_is_not_recorded_anew(tmp_path: Path) -> None:
    writer = Batches(400)
    with study(tmp_path, 0) as ledger:
        ledger.ask([trial(0)])
        parts = [segment(0, 0, 20, status="PAUSED"), segment(0, 20, 60)]
        ledger.record(parts[0].to_json())
        push(ledger, writer)
        assert (len(writer.sizes), len(writer.runs), ledger.run(0).closed) == (1, 2, False)
        ledger.record(parts[1].to_json(), result(parts))
        push(ledger, writer)
        assert (len(writer.sizes), len(writer.runs), ledger.run(0).closed) == (1, 2, True)


def test_a_search_that_goes_on_opens_its_run_again(tmp_path: Path, writer: RunWriter) -> None:
    with filled(tmp_path) as ledger:
        push(ledger, writer)
        ledger.set_meta("status", "RUNNING")
        push(ledger, writer)
        assert contents(writer, ledger.meta("id"))[":search"].status == "RUNNING"


def test_a_trial_left_in_the_middle_is_killed_with_the_search_and_runs_again_with_it(
    tmp_path: Path, writer: RunWriter
) -> None:
    def left() -> Seen:
        push(ledger, writer)
        return contents(writer, ledger.meta("id"))[":4"]

    with filled(tmp_path) as ledger:
        ledger.set_meta("status", "RUNNING")
        assert left().status == "RUNNING"
        ledger.set_meta("status", "FINISHED")
        assert (left().status, left().tags["status"]) == ("KILLED", "RUNNING")
        before = writer.calls
        push(ledger, writer)
        assert writer.calls - before <= 2
        ledger.set_meta("status", "RUNNING")
        assert left().status == "RUNNING"
        last = segment(4, 20, 60)
        ledger.record(last.to_json(), result([segment(4, 0, 20, status="PAUSED"), last]))
        assert left().status == "FINISHED"
        ledger.set_meta("status", "FINISHED")
        assert left().status == "FINISHED"


def test_a_deleted_run_of_a_trial_left_in_the_middle_does_not_keep_the_search_from_ending(tmp_path: Path) -> None:
    writer = MemoryWriter()
    with filled(tmp_path) as ledger:
        ledger.set_meta("status", "RUNNING")
        push(ledger, writer)
        (gone,) = (run_id for run_id, run in writer.runs.items() if run.tags[KEY].endswith(":4"))
        del writer.runs[gone]
        ledger.set_meta("status", "FINISHED")
        assert push(ledger, writer) == {4: f"there is no run {gone!r}"}
        assert contents(writer, ledger.meta("id"))[":search"].status == "FINISHED"


def test_the_machine_is_watched_on_the_searchs_own_run_only_when_asked(tmp_path: Path) -> None:
    with study(tmp_path, 1) as ledger:
        for watch in (False, True):
            writer = MemoryWriter()
            list(Projection(ledger, writer, watch=watch).steps())
            watched = [run.tags[KEY].split(":")[1] for run in writer.runs.values() if run.watched]
            assert watched == (["search"] if watch else [])


# -- the thread


@pytest.fixture
def started() -> Iterator[Callable[..., Sync]]:
    """Starts a sync on a study with the writer that a function makes, and ends it."""
    running: list[Sync] = []

    def start(folder: Path, writer: Callable[[], RunWriter]) -> Sync:
        sync = Sync(folder, uri=None, home=folder, writer=lambda uri, home: writer())
        running.append(sync)
        sync.start()
        return sync

    yield start
    for sync in running:
        sync.close()


def test_the_thread_keeps_up_with_the_ledger(tmp_path: Path, started: Callable[..., Sync]) -> None:
    writer = MemoryWriter()
    with study(tmp_path, 2) as ledger:
        sync = started(tmp_path, lambda: writer)
        assert sync.drain(30)
        assert len(writer.runs) == 3
        for number in range(2, 20):
            complete(ledger, number)
        assert sync.drain(30)
        assert len(writer.runs) == 21
        assert (sync.pending(), sync.problem()) == (0, None)


def test_news_are_found_without_being_told(tmp_path: Path, started: Callable[..., Sync]) -> None:
    writer = MemoryWriter()
    with study(tmp_path, 1) as ledger:
        assert started(tmp_path, lambda: writer).drain(30)
        complete(ledger, 1)
        wait_for(lambda: len(writer.runs) == 3)


def test_an_outage_is_said_once_and_ends_by_itself(
    tmp_path: Path, started: Callable[..., Sync], caplog: pytest.LogCaptureFixture
) -> None:
    up = threading.Event()
    store = MemoryWriter()

    def open_writer() -> RunWriter:
        if not up.is_set():
            raise ConnectionError("no route to\nhost")
        return store

    with study(tmp_path, 1) as ledger, caplog.at_level(logging.WARNING):
        sync = started(tmp_path, open_writer)
        assert not sync.drain(0.2)
        wait_for(lambda: sync.problem() == "ConnectionError: no route to host")
        assert not sync.drain(1.5)
        complete(ledger, 1)
        wait_for(lambda: (sync.pending(), sync.evaluations()) == (2, 6))
        assert [record.getMessage() for record in caplog.records] == [
            "MLflow is behind, the search goes on: ConnectionError: no route to host"
        ]
        up.set()
        assert sync.drain(30)
        assert (sync.pending(), sync.evaluations(), sync.problem(), len(store.runs)) == (0, 0, None, 3)


def test_nobody_waits_long_at_the_end_for_a_store_that_is_away(tmp_path: Path, started: Callable[..., Sync]) -> None:
    def open_writer() -> RunWriter:
        raise ConnectionError("no route")

    study(tmp_path, 1).close()
    sync = started(tmp_path, open_writer)
    before = time.monotonic()
    assert not sync.drain(60, away=0.5)
    assert time.monotonic() - before < 30


def test_a_store_that_is_slow_is_late_and_one_without_news_is_not(
    tmp_path: Path, started: Callable[..., Sync], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.sync.LATE", 0.3)
    store = MemoryWriter()
    with study(tmp_path, 0) as ledger:
        sync = started(tmp_path, lambda: Slow(store))
        assert sync.drain(30)
        time.sleep(0.4)
        assert not sync.is_late()
        for number in range(20):
            complete(ledger, number)
        wait_for(sync.is_late)
        assert sync.problem() is None and sync.pending() > 0 and sync.evaluations() > 0
        assert sync.drain(30)
        assert not sync.is_late()


def test_what_waits_is_counted_while_a_single_request_takes_long(
    tmp_path: Path, started: Callable[..., Sync], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.sync.LATE", 0.3)
    answered = threading.Event()

    class Waiting(MemoryWriter):
        def experiment(self, name: str) -> None:
            assert answered.wait(60)
            super().experiment(name)

    with study(tmp_path, 1) as ledger:
        sync = started(tmp_path, Waiting)
        complete(ledger, 1)
        wait_for(lambda: sync.is_late() and (sync.pending(), sync.evaluations()) == (2, 6))
        answered.set()
        assert sync.drain(30)
        assert (sync.pending(), sync.evaluations(), sync.is_late()) == (0, 0, False)


def test_a_drop_in_the_middle_is_made_good(tmp_path: Path, started: Callable[..., Sync]) -> None:
    writer = Flaky(fail_at=7, after=True)
    study(tmp_path, 3).close()
    assert started(tmp_path, lambda: writer).drain(30)
    assert len(writer.runs) == 4


def test_what_is_refused_is_said_and_drained_around(tmp_path: Path, started: Callable[..., Sync]) -> None:
    study(tmp_path, 3).close()
    sync = started(tmp_path, Refusing)
    assert sync.drain(30)
    assert sync.problem() == "MLflow refused 1 run(s), first trial 1: no such run"


def test_a_ledger_that_cannot_be_read_is_a_problem_and_not_an_exception(
    tmp_path: Path, started: Callable[..., Sync]
) -> None:
    sync = started(tmp_path / "absent", MemoryWriter)
    assert not sync.drain(30)
    assert "Run `regatta search` first" in (sync.problem() or "")


def test_closing_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    store = MemoryWriter()
    slow = Slow(store)
    study(tmp_path, 20).close()
    sync = Sync(tmp_path, uri=None, home=tmp_path, writer=lambda uri, home: slow)
    sync.start()
    wait_for(lambda: len(store.runs) >= 3)
    before = time.monotonic()
    sync.close()
    assert time.monotonic() - before < 2
    assert not sync.drain(1)
    assert len(store.runs) < 21
    with Ledger.open(tmp_path, create=False) as ledger:
        push(ledger, store)
    assert len(store.runs) == 21


def test_mlflow_itself_is_written_from_the_thread(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, started: Callable[..., Sync]
) -> None:
    with study(tmp_path, 3) as ledger:
        ledger.set_meta("experiment", tmp_path.name)
        made: list[MlflowWriter] = []

        def open_writer() -> RunWriter:
            made.append(open_mlflow(tmp_path_factory))
            return made[0]

        sync = started(tmp_path, open_writer)
        assert sync.drain(60), sync.problem()
        assert len(contents(made[0], ledger.meta("id"))) == 4


class Slow(MemoryWriter):
    """A store that takes its time for every run."""

    def __init__(self, store: MemoryWriter) -> None:
        super().__init__()
        self.runs = store.runs

    def log(self, run_id: str, **what: Any) -> None:
        time.sleep(0.1)
        super().log(run_id, **what)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for half a minute"
        time.sleep(0.01)


class Busy(MemoryWriter):
    """A store that costs processor time whenever something is logged."""

    def log(self, run_id: str, **what: Any) -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        super().log(run_id, **what)


def test_sending_rests_after_each_pass_by_what_it_took_unless_someone_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.sync.POLL", 0.01)
    ledger = filled(tmp_path)
    sync = Sync(tmp_path, uri=None, home=tmp_path, writer=lambda uri, home: Busy())
    sync.start()
    assert sync.drain(30)
    done = sync._passes
    for step in range(50):
        ledger.set_meta("results", {"result/value": float(step)})
        time.sleep(0.05)
    # Each pass takes a twentieth of a second, and nine times that is rested after it; without, there would be some 25.
    assert sync._passes - done <= 8
    began = time.monotonic()
    assert sync.drain(30)
    assert time.monotonic() - began < 1.5
    sync.close()
    ledger.close()
