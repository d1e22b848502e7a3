"""However the driver of a search ends, no process outlives it, and the same command goes on to the exact number."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from faulty_searches import (
    FAULTS,
    ONCE,
    SECONDS,
    ended,
    family,
    left_over,
    search,
    send,
    started,
    trials,
    wait_until,
    workers,
)

from tracking.ledger import Ledger

GRACE = 10.0
"""Seconds that schedulers leave a process after SIGTERM."""


def loaders(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of DataLoaders: started by a worker."""
    found: list[psutil.Process] = []
    for worker in workers(process.pid):
        with suppress(psutil.NoSuchProcess):
            found += worker.children()
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_a_closed_terminal_pauses_what_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    words = [FAULTS, "{any: mark}", ONCE, str(mark), SECONDS, "0.05", "--search.segment_seconds", "60"]
    process = started(tmp_path, *words)
    wait_until(mark.exists, process)
    processes, asked = family(process), time.monotonic()
    send(process, signal.SIGHUP)
    code, out, err = ended(process)
    assert (code, err) == (129, ""), out
    assert time.monotonic() - asked < GRACE
    assert left_over(processes) == []
    assert "to go on: regatta search" in out
    (paused,) = trials(tmp_path)
    assert [part["status"] for part in paused["segments"]] == ["PAUSED"]
    assert search(tmp_path, *words)[0] == 0
    (complete,) = trials(tmp_path)
    assert (complete["status"], complete["config"]) == ("COMPLETE", paused["config"])
    assert complete["segments"][0] == paused["segments"][0]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("since", "before"), [("faulty.yaml", []), ("faulty/trials.csv", ["COMPLETE"])])
def test_one_ctrl_c_ends_what_hangs_before_the_first_trial_or_after_the_last(
    since: str, before: list[str], tmp_path: Path
) -> None:
    released = tmp_path / "released"
    init_args = f"{{hangs: {tmp_path / since}, released: {released}}}"
    words = ["--model.class_path", "hanging.Hanging", "--model.init_args", init_args, "--search.probes", "[noise]"]
    process = started(tmp_path, *words)
    wait_until(released.with_suffix(".hangs").exists, process)
    processes, asked = family(process), time.monotonic()
    send(process, signal.SIGTERM)
    code, out, err = ended(process)
    assert (code, err) == (143, ""), out
    assert time.monotonic() - asked < GRACE
    assert left_over(processes) == []
    assert [row["status"] for row in trials(tmp_path)] == before
    released.touch()
    assert search(tmp_path, *words)[0] == 0
    assert [row["status"] for row in trials(tmp_path)] == ["COMPLETE"]
    with Ledger.open(tmp_path / "faulty", create=False) as ledger:
        assert ledger.meta("probes")["noise"]["windows"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_second_ctrl_c_ends_even_a_training_that_hangs_and_loses_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "hangs"
    words = [FAULTS, "{any: hang}", ONCE, str(mark), "--search.batch_sizes", "[16, 64]"]
    process = started(tmp_path, *words)
    # One trial hangs, and the other waits behind it for ever.
    wait_until(mark.exists, process)
    processes = family(process)
    send(process, signal.SIGINT)
    time.sleep(0.5)  # Two at once would come as one.
    asked = time.monotonic()
    send(process, signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, out + err
    assert time.monotonic() - asked < GRACE
    assert "Traceback" not in err
    assert left_over(processes) == []
    before = trials(tmp_path)
    assert search(tmp_path, *words)[0] == 0
    after = trials(tmp_path)
    assert [row["status"] for row in after] == ["COMPLETE"] * 2
    assert [row["config"] for row in after] == [row["config"] for row in before]


@pytest.mark.slow
def test_no_process_of_a_dataloader_that_works_outlives_a_killed_driver(tmp_path: Path) -> None:
    # Once a step is done, the processes have delivered: they are beyond their start, in which they would be left over.
    mark = tmp_path / "begun"
    words = ["--data.class_path", "faulty.InProcesses", FAULTS, "{any: mark}", ONCE, str(mark), SECONDS, "0.2"]
    process = started(tmp_path, *words)
    wait_until(mark.exists, process)
    processes = family(process)
    assert len(loaders(process)) == 2
    process.kill()
    process.wait()
    assert left_over(processes) == []
    process.communicate()


def test_no_trials_at_all_are_a_mistake(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, "--search.trials", "0")
    assert (code, out) == (2, "")
    assert "`search.trials` must be at least 1, but got 0" in err
    assert not (tmp_path / "faulty").exists()
