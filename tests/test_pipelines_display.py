"""What the user sees while a search runs: true numbers, on a terminal and without one."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from search_parts import result_of, space
from tracking_rows import study

from models.segment import SegmentResult
from pipelines.display import Display, clock, examples_done, grid, leader, seconds_left
from pipelines.session import behind
from search.race import Race
from search.study import Study
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.sync import Sync


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    """Two batch sizes, two schedules, 4 + 2 trials in each; nothing asked yet."""
    with Ledger.open(tmp_path, create=True) as ledger:
        yield Race(Study(space()), ledger, str(tmp_path / "checkpoints"))


def tell(race: Race, count: int, **fields: Any) -> None:
    for _ in range(count):
        trial = race.study.ask()
        assert trial is not None
        race.study.tell(trial, result_of(trial, **fields))


def display(*, terminal: bool = False, note: str = "") -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return Display(console, note=lambda: note), out


def text(renderable: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(renderable)
    return out.getvalue()


def test_the_headline_counts_what_has_ended_and_how(race: Race) -> None:
    shown, _ = display()
    assert shown.headline(race) == "0/24 trials · 0 running"
    tell(race, 3, value=0.5)
    tell(race, 2, status="DIVERGED")
    tell(race, 1, status="FAILED")
    assert shown.headline(race).startswith("6/24 trials · 0 running · 2 diverged · 1 failed")
    tell(race, 1, status="OOM")
    assert "1 out of memory" in shown.headline(race)


def test_examples_are_those_of_ended_trials_and_of_segments_under_way(race: Race) -> None:
    tell(race, 2, value=0.5, examples=1000)
    race.segments[7].append(SegmentResult(trial=7, from_step=0, to_step=1, total_steps=9, status="PAUSED", examples=64))
    assert examples_done(race) == 2064


def test_speed_is_that_of_this_call_and_not_of_an_earlier_one(race: Race) -> None:
    tell(race, 2, value=0.5, examples=10**9)
    shown, _ = display()
    shown.watch(race)
    assert "examples/s" not in shown.headline(race)
    tell(race, 1, value=0.5, examples=100)
    assert " examples/s" in shown.headline(race)


def test_the_time_left_goes_by_what_trials_of_the_same_batch_size_took(race: Race) -> None:
    assert seconds_left(race) == math.inf
    tell(race, 2, value=0.5, wall_seconds=10.0)
    assert {trial.train.batch_size for trial in race.study.trials()} == {64}
    # 22 are left; those of the other batch size are taken to last as long, until one of them has ended.
    assert seconds_left(race) == pytest.approx(22 * 10.0)
    tell(race, 2, value=0.5, wall_seconds=1.0)
    assert seconds_left(race) == pytest.approx(10 * 10.0 + 10 * 1.0)


@pytest.mark.parametrize(("limit", "shown"), [(math.inf, "3:40 left"), (61.0, "1:01 left"), (-0.5, "0:00 left")])
def test_no_more_time_is_left_than_the_limit_grants(limit: float, shown: str, race: Race) -> None:
    limited = Display(Console(file=io.StringIO()), note=str, limit=lambda: limit)
    assert ("left" in limited.headline(race)) == math.isfinite(limit)
    tell(race, 2, value=0.5, wall_seconds=10.0)
    assert limited.headline(race).endswith(shown)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_time_is_written_as_a_clock_has_it(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_leader_is_named_with_its_cell_and_rate(race: Race) -> None:
    assert leader(race) == "no trial has ended yet"
    tell(race, 1, status="DIVERGED")
    assert leader(race) == "no trial has ended yet"
    tell(race, 1, value=0.25)
    rate = race.study.trials()[1].params["learning_rate"]
    assert leader(race) == f"best so far: val_loss 0.25, b64-sgd-cosine at learning rate {rate:.3g}"


def test_the_grid_has_a_row_for_every_batch_size_and_a_column_for_every_schedule(race: Race) -> None:
    tell(race, 2, value=0.123456)
    lines = [line.split() for line in text(grid(race)).splitlines()]
    assert lines == [
        ["batch", "size", "constant", "cosine"],
        ["64", "0.1235", "1/6", "0.1235", "1/6"],
        ["256", "0/6", "0/6"],
    ]


def test_several_optimizers_are_named_in_the_columns(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        made = space(batch_sizes=(64,), optimizers={"sgd": {}, "own": {}}, schedules={"constant": {}})
        race = Race(Study(made), ledger, "checkpoints")
        # The module's own optimizer has nothing to sample: one trial says it all.
        assert text(grid(race)).split() == ["batch", "size", "sgd", "constant", "own", "constant", "64", "0/6", "0/1"]


def test_without_a_terminal_there_are_plain_lines_seldom(race: Race) -> None:
    shown, out = display(note="store [/away] is not there")
    with shown:
        for _ in range(5):
            tell(race, 1, value=0.5)
            shown.watch(race)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("1/24 trials · 0 running")
    assert line.endswith(" · store [/away] is not there")
    assert line.isprintable()


def test_on_a_terminal_the_picture_goes_when_the_search_has_ended(race: Race) -> None:
    shown, out = display(terminal=True)
    with shown:
        tell(race, 1, value=0.5)
        shown.watch(race)
        drawn = out.getvalue()
    assert "1/24 trials" in drawn and "best so far" in drawn and "batch size" in drawn
    assert out.getvalue().endswith("\x1b[2K")  # the last line drawn is erased


def away(uri: str | None, home: Path) -> MemoryWriter:
    raise ConnectionError("no route")


def test_while_mlflow_is_away_the_display_says_what_waits_for_it(tmp_path: Path) -> None:
    study(tmp_path, 2).close()
    sync = Sync(tmp_path, uri=None, home=tmp_path, writer=away)
    assert behind(sync) == ""
    sync.start()
    deadline = time.monotonic() + 30
    while (sync.problem() is None or not sync.evaluations()) and time.monotonic() < deadline:
        time.sleep(0.01)
    sync.close()
    assert behind(sync) == "2 trials with 6 evaluations wait for MLflow (ConnectionError: no route)"
