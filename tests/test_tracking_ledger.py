"""The ledger keeps what it has acknowledged, takes the first result, and refuses what it cannot read."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from test_pipelines_doctor import as_nobody
from tracking_rows import complete, point, result, segment, study, trial

from search.trial import TrialResult
from tracking.ledger import SEARCH_RUN, Ledger, RunState
from tracking.ledger_file import FILE, SCHEMA_VERSION, driver_lock

HERE = Path(__file__).resolve().parent


def test_what_was_asked_and_what_came_back_is_read_back(tmp_path: Path) -> None:
    first, last = segment(0, 0, 40, status="PAUSED"), segment(0, 40, 60)
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0), trial(1)])
        assert ledger.record(first.to_json())
        assert ledger.record(last.to_json(), result([first, last]))
        ledger.set_meta("tags", {"git": "abc"})
    with Ledger.open(tmp_path, create=False) as ledger:
        ended, running = ledger.trials()
        assert (ended["status"], running["status"], running["result"]) == ("COMPLETE", "RUNNING", None)
        assert ended["config"] == trial(0)
        assert ended["result"] == result([first, last])
        assert ledger.trial(1) == running
        assert ledger.segments(0) == [first.to_json(), last.to_json()]
        assert ledger.meta("tags") == {"git": "abc"}
        assert ledger.meta("absent", 5) == 5


def test_trials_are_asked_together_or_not_at_all(tmp_path: Path) -> None:
    with study(tmp_path, 1) as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.ask([trial(1), trial(0)])
        assert [row["number"] for row in ledger.trials()] == [0]


def test_the_first_result_of_a_stretch_wins(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0)])
        first, again = segment(0, 0, 40, status="PAUSED"), segment(0, 0, 20, status="PAUSED")
        assert ledger.record(first.to_json())
        assert not ledger.record(again.to_json(), result([segment(0)]))
        assert ledger.segments(0) == [first.to_json()]
        assert ledger.trial(0)["status"] == "RUNNING"


def test_nothing_is_added_to_a_trial_that_has_ended(tmp_path: Path) -> None:
    with study(tmp_path, 1) as ledger:
        before = ledger.trials(), ledger.segments(0)
        assert not ledger.record(segment(0, 60, 80).to_json())
        assert not ledger.finish(TrialResult(number=0, status="FAILED").to_json())
        ledger.restart(0)
        assert (ledger.trials(), ledger.segments(0)) == before


def test_a_trial_may_end_without_a_segment(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0)])
        assert ledger.finish(TrialResult(number=0, status="TIMEOUT", reason="deadline").to_json())
        assert ledger.trial(0)["status"] == "TIMEOUT"


def test_a_restarted_trial_has_no_segments(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0)])
        ledger.record(segment(0, 0, 20, status="PAUSED").to_json())
        ledger.restart(0)
        assert ledger.segments(0) == []
        assert ledger.record(segment(0, 0, 40, status="PAUSED").to_json())


def test_a_curve_that_is_not_finite_round_trips(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0)])
        curve = [point(20, val_loss=math.inf, val_accuracy=-math.inf, train_loss=math.nan)]
        ledger.record(segment(0, 0, 20, status="PAUSED", curve=curve).to_json())
        read = ledger.segments(0)[0]["curve"][0]
        assert (read["val_loss"], read["val_accuracy"]) == (math.inf, -math.inf)
        assert math.isnan(read["train_loss"])


def test_a_commit_of_another_connection_is_noticed_and_a_note_that_stays_the_same_is_none(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as mine, Ledger.open(tmp_path, create=False) as other:
        before = other.changes()
        mine.set_meta("study", "a")
        after = other.changes()
        assert after != before
        mine.set_meta("study", "a")
        assert [note.version for note in mine.unsent_notes() if note.key == "study"] == [1]
        assert other.changes() == other.changes()


def test_a_note_that_changes_while_it_is_sent_is_sent_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.notes_sent(ledger.unsent_notes())
        ledger.set_meta("description", "first")
        (read,) = ledger.unsent_notes()
        ledger.set_meta("description", "second")
        ledger.notes_sent([read])
        assert [note.value for note in ledger.unsent_notes()] == ["second"]


def test_a_trial_is_unsent_until_all_its_steps_and_its_end_are_sent(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0), trial(1)])
        assert ledger.unsent() == []
        ledger.record(segment(0, 0, 20, status="PAUSED").to_json())
        assert ledger.unsent() == [0]
        ledger.save_run(0, RunState(run_id="a", points=20))
        assert (ledger.unsent_count(), ledger.unsent_evaluations()) == (0, 0)
        ledger.record(segment(0, 20, 60).to_json(), result([segment(0)]))
        assert (ledger.unsent(), ledger.unsent_evaluations()) == ([0], 2)
        ledger.save_run(0, RunState(run_id="a", points=60, closed=True))
        assert ledger.unsent() == []
        ledger.save_run(SEARCH_RUN, RunState(run_id="p"))
        ledger.forget_runs()
        assert (ledger.unsent(), ledger.unsent_evaluations()) == ([0], 3)
        assert (ledger.run(SEARCH_RUN), ledger.run(0)) == (RunState(), RunState(creating=True))


def test_two_threads_write_through_two_connections(tmp_path: Path) -> None:
    Ledger.open(tmp_path, create=True).close()

    def write(first: int) -> None:
        with Ledger.open(tmp_path, create=False) as ledger:
            for number in range(first, first + 40, 2):
                complete(ledger, number)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(tmp_path, create=False) as ledger:
        assert [row["status"] for row in ledger.trials()] == ["COMPLETE"] * 40


def test_two_thousand_trials_are_read_in_less_than_a_second(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(number) for number in range(2000)])
        done = segment(0)
        for number in range(2000):
            ledger.finish({**result([done]), "number": number})
        started = time.process_time()
        assert len(ledger.trials()) == 2000
        assert time.process_time() - started < 1.0


WRITER = """
import sys
import tempfile
from pathlib import Path
from tracking_rows import complete
from tracking.ledger import Ledger
with Ledger.open(Path(sys.argv[1]), create=True) as ledger:
    for number in range(100_000):
        complete(ledger, number)
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_every_acknowledged_commit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        while int(writer.stdout.readline()) < 50:
            pass
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    writer.wait()
    with Ledger.open(tmp_path, create=False) as ledger:
        rows = ledger.trials()
        ended = [row["number"] for row in rows if row["status"] == "COMPLETE"]
        assert ended == list(range(len(ended)))
        assert len(ended) > max(acknowledged, default=50)
        assert all(ledger.segments(number) for number in ended)
        # At most the trial that was asked when the signal came.
        assert len(rows) - len(ended) <= 1


FILLER = """
import resource, sys
from pathlib import Path
from tracking_rows import complete
from tracking.ledger import Ledger
with Ledger.open(Path(sys.argv[1]), create=False) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    for number in range(1, 100_000):
        complete(ledger, number)
        print(number, flush=True)
"""


def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    study(tmp_path, 1).close()
    command = [sys.executable, "-c", FILLER, str(tmp_path)]
    filler = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert "LedgerUnwritable: the ledger" in filler.stderr
    assert "cannot be written" in filler.stderr
    last = int(filler.stdout.split()[-1])
    with Ledger.open(tmp_path, create=False) as ledger:
        ended = [row["number"] for row in ledger.trials() if row["status"] == "COMPLETE"]
        assert ended == list(range(last + 1))
        complete(ledger, 100_000)


OPENER = """
import resource, sys
from pathlib import Path
from tracking.ledger import Ledger
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
Ledger.open(Path(sys.argv[1]), create=False)
"""


def test_a_ledger_that_finds_no_room_to_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    study(tmp_path, 1).close()
    opener = subprocess.run([sys.executable, "-c", OPENER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "LedgerUnwritable: the ledger" in opener.stderr
    assert "see to the disk" in opener.stderr and "Restore it" not in opener.stderr.splitlines()[-1]


def test_a_missing_ledger_is_made_only_where_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none. Run `regatta search` first"):
        Ledger.open(tmp_path / "study", create=False)
    assert not (tmp_path / "study").exists()
    Ledger.open(tmp_path / "study", create=True).close()
    assert [path.name for path in (tmp_path / "study").iterdir()] == [FILE]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000, -4096, -1])
def test_a_truncated_ledger_is_refused_and_left_as_it_is(tmp_path: Path, keep: int, create: bool) -> None:
    study(tmp_path, 5).close()
    path = tmp_path / FILE
    path.write_bytes(damaged := path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"the ledger .*study\.db cannot be read \(.*\)\. Restore it"):
        Ledger.open(tmp_path, create=create)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("garbage", [b"\0" * 9000, b"SQLite format 3\0" + b"x" * 9000, os.urandom(50), b"{}"])
def test_garbage_is_refused_and_left_as_it_is(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / FILE).write_bytes(garbage)
    with pytest.raises(ValueError, match="cannot be read"):
        Ledger.open(tmp_path, create=True)
    assert (tmp_path / FILE).read_bytes() == garbage


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(ValueError, match="it is not a ledger of Regatta"):
        Ledger.open(tmp_path, create=True)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    study(tmp_path, 1).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(ValueError, match=rf"of version {SCHEMA_VERSION} at most, .* {SCHEMA_VERSION + 1}\. Update"):
        Ledger.open(tmp_path, create=True)


def test_overwritten_pages_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    study(tmp_path, 20).close()
    path, refused = tmp_path / FILE, 0
    with Ledger.open(tmp_path, create=False) as ledger:
        good = [row["number"] for row in ledger.trials()]
    whole = path.read_bytes()
    for page in range(len(whole) // 4096):
        path.write_bytes(whole[: 4096 * page] + b"\xff" * 64 + whole[4096 * page + 64 :])
        try:
            with Ledger.open(tmp_path, create=False) as ledger:
                assert [row["number"] for row in ledger.trials()] == good
        except ValueError:
            refused += 1
    assert refused > len(whole) // 4096 // 2


def test_an_entry_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with study(tmp_path, 1) as ledger:
        with sqlite3.connect(tmp_path / FILE) as connection:
            connection.execute("UPDATE trials SET config = '{'")
        connection.close()
        with pytest.raises(ValueError, match=r"cannot be read \(an entry is not JSON"):
            ledger.trials()


def test_a_second_driver_is_refused_with_the_firsts_process_id_and_host(tmp_path: Path) -> None:
    code = "import sys, pathlib; from tracking.ledger_file import driver_lock\n"
    code += "with driver_lock(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdin is not None and first.stdout is not None
    with first.stdin, first.stdout:
        assert first.stdout.readline() == "mine\n"
        host = json.loads((tmp_path / "driver.lock").read_text())["host"]
        refusal = rf"process {first.pid} on {host} .*is running this study"
        with pytest.raises(ValueError, match=refusal), driver_lock(tmp_path):
            raise AssertionError("two drivers")
        first.kill()
        first.wait()
    with driver_lock(tmp_path):
        assert json.loads((tmp_path / "driver.lock").read_text())["pid"] == os.getpid()


def test_a_lock_without_a_readable_holder_still_refuses(tmp_path: Path) -> None:
    with driver_lock(tmp_path):
        (tmp_path / "driver.lock").write_text("")
        with pytest.raises(ValueError, match="another process is running this study"), driver_lock(tmp_path):
            raise AssertionError("two drivers")


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_study_of_somebody_elses_is_told_as_such_and_not_called_damaged(mode: int) -> None:
    home = Path(tempfile.mkdtemp(dir="/var/tmp"))  # Where others may look: pytest's own folders are closed to them.
    folder = home / "mine"
    try:
        study(folder, 1).close()
        home.chmod(0o755)
        (folder / "study.db").chmod(mode)
        folder.chmod(0o555)
        refusal = rf"the study's folder {folder} must be writable, even to be read, but is not: .*REGATTA_HOME"
        with as_nobody():
            with pytest.raises(ValueError, match=refusal):
                Ledger.open(folder, create=False)
            with pytest.raises(ValueError, match=refusal), driver_lock(folder):
                raise AssertionError("locked in spite of it")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(home)
