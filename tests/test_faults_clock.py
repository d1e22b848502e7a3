"""A clock that is set forward or back while a search runs: nothing is lost, and no duration is wrong for it."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commands import regatta
from faulty_searches import FAULTS, ONCE, curve, ended, started, trials, wait_until
from test_search_executors import dask, scheduler

pytestmark = pytest.mark.slow
PLACES = ("usr/lib/*/faketime/libfaketime.so.1", "usr/local/lib/faketime/libfaketime.so.1")
"""Where Debian and others put the library that stands between a process and the clock."""


def library() -> str | None:
    """That of this machine."""
    return next((str(path) for place in PLACES for path in Path("/").glob(place)), None)


def searched(folder: Path, *, jump: int) -> list[dict[str, Any]]:
    """Both trials of a search whose clock, the driver's and the worker's, is set by so many seconds in the first."""
    mark, home, clock = folder / "begun", folder / "home", folder / "clock"
    folder.mkdir()
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    words = ["--training.epochs", "15", "--search.trials", "2", FAULTS, "{any: mark}", ONCE, str(mark)]
    process = started(home, *words, "--model.init_args.at_step", "35", environment=environment)
    wait_until(mark.exists, process)
    clock.write_text(f"{jump:+d}")
    code, out, err = ended(process)
    assert (code, err) == (0, ""), out
    return trials(home)


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
def test_a_clock_that_is_set_costs_at_most_a_segment(tmp_path: Path) -> None:
    undisturbed = searched(tmp_path / "0", jump=0)
    for jump in (3600, -3600):
        rows = searched(tmp_path / str(jump), jump=jump)
        assert [row["status"] for row in rows] == ["COMPLETE"] * 2
        assert [curve(row["segments"]) for row in rows] == [curve(row["segments"]) for row in undisturbed]
        # Segments are stamped by the clock as it is set, and timed by one that nobody sets.
        assert abs(rows[1]["segments"][-1]["started"] - time.time() - jump) < 600
        parts = [part for row in rows for part in row["segments"]]
        assert all(0 < part["seconds"] <= part["wall_seconds"] < 600 for part in parts)


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
def test_the_doctor_names_a_worker_whose_clock_is_another(tmp_path: Path) -> None:
    late = {"LD_PRELOAD": str(library()), "FAKETIME": "-7", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with ExitStack() as stack:
        address, worker = stack.enter_context(scheduler(tmp_path))
        for environment in ({}, late):
            stack.enter_context(dask(*worker, "--no-nanny", "--nthreads", "1", cwd=tmp_path, **environment))
        said, end = "", time.monotonic() + 180
        while "workers   1 with our packages, clocks within 1 s" not in said or "behind" not in said:
            assert time.monotonic() < end, said
            said = regatta("doctor", "--address", address, home=tmp_path / "home").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("warn workers")]
    assert re.search(r"the clock of tcp://127\.0\.0\.1:\d+ is [67]\.\d s behind\. Let both machines follow", line), line
