"""A batch that does not fit into memory goes on in the fewest equal parts that may, and every later trial with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_parts import ONE_TO_NINE, changed, result_of, space

from models.config import TrainConfig
from models.segment import Segment, SegmentResult
from search.executors import SerialExecutor
from search.objectives import study_of
from search.parts import divides, half, parts
from search.race import Race
from search.records import examine
from search.resuming import restore
from search.space import SearchSpace
from search.study import Study
from search.verification import Verification
from tracking.ledger import Ledger
from tracking.rows import trials

GRID: dict[str, Any] = {"batch_sizes": (32, 96, 128, 256), "schedules": {"constant": {}}, "trials": 2, "refine": 1}


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "most", "expected"),
    [
        (512, 1, 512, 1),
        (512, 1, 256, 2),
        (512, 1, 255, 4),
        (512, 2, 256, 2),
        (96, 1, 40, 3),
        (96, 3, 40, 3),
        (96, 3, 20, 6),
        (81, 1, 40, 3),
        (127, 1, 63, 127),
        (1, 1, 1, 1),
    ],
)
def test_the_parts_are_the_fewest_that_are_small_enough(
    batch_size: int, accumulate: int, most: int, expected: int
) -> None:
    assert parts(batch_size, accumulate, most=most) == expected


def test_parts_are_equal_multiples_and_no_fewer_would_do() -> None:
    for batch_size in range(1, 97):
        for accumulate in (count for count in range(1, batch_size + 1) if batch_size % count == 0):
            for most in range(1, batch_size + 1):
                found = parts(batch_size, accumulate, most=most)
                assert batch_size % found == 0 and found % accumulate == 0 and batch_size // found <= most
                fewer = range(accumulate, found, accumulate)
                assert all(batch_size % count or batch_size // count > most for count in fewer)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (64, 64), (2, 1), (3, 1), (64, 4)])
def test_what_can_be_divided_gets_smaller_each_time_until_one_example_is_left(batch_size: int, accumulate: int) -> None:
    while divides(batch_size, accumulate):
        before = accumulate
        accumulate = parts(batch_size, accumulate, most=half(batch_size, accumulate))
        assert batch_size // accumulate <= batch_size // before / 2
    assert accumulate == batch_size


class Bounded(SerialExecutor):
    """A worker whose memory takes so many examples at once, and that notes what it was given."""

    def __init__(self, most: int) -> None:
        super().__init__("search_parts.at_once")
        self.most = most
        self.tried: list[tuple[int, int]] = []

    def completed(self, timeout: float) -> list[SegmentResult]:
        asked: list[Segment] = [segment for segments in self._waiting for segment in segments]
        self.tried += [(segment.config.batch_size, segment.config.accumulate) for segment in asked]
        return [self.bounded(asked, result) for result in super().completed(timeout)]

    def bounded(self, asked: list[Segment], result: SegmentResult) -> SegmentResult:
        config: TrainConfig = next(segment.config for segment in asked if segment.trial == result.trial)
        if config.batch_size // config.accumulate <= self.most:
            return result
        lacking = {"status": "OOM", "reason": "oom_gpu: out of memory", "to_step": 0, "curve": ()}
        return SegmentResult.from_json({**result.to_json(), **lacking})


def raced(
    folder: Path, made: SearchSpace, most: int, *, stopping: Callable[[], bool] = lambda: False
) -> tuple[Race, Bounded]:
    """A race on such workers over the ledger of a folder, taken up where it was left."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    executor = Bounded(most)
    with Ledger.open(folder, create=True) as ledger:
        ledger.set_meta("space", {"search": {}})
        ledger.set_meta("metrics", {"objective": "val_loss", "direction": "min"})
        examine(ledger)
        race = Race(study_of(made), ledger, str(folder / "checkpoints"))
        restore(race)
        race.run(executor, stopping=stopping, watch=lambda _: None)
        return race, executor


def found(folder: Path) -> set[tuple[int, str, int]]:
    return {(row["batch_size"], row["status"], row["accumulate"]) for row in trials(folder)}


def test_a_search_whose_batches_do_not_fit_keeps_all_of_them_in_parts(tmp_path: Path) -> None:
    race, executor = raced(tmp_path, space(**GRID, accumulate=True), 64)
    # 96 runs out first, and says that 48 at once fit: more than those are not tried again.
    assert race.study.most == 48
    assert found(tmp_path) == {(32, "COMPLETE", 1), (96, "COMPLETE", 2), (128, "COMPLETE", 4), (256, "COMPLETE", 8)}
    assert [tried for tried in executor.tried if tried[0] // tried[1] > 64] == [(96, 1)]
    assert list(race.told) == [
        "out of memory at batch size 96 with 96 examples at once: from now on trials train in parts of at most 48 "
        "examples, whose gradients make one step"
    ]


def test_memory_that_runs_out_again_halves_the_parts_again(tmp_path: Path) -> None:
    race, _ = raced(tmp_path, space(**{**GRID, "batch_sizes": (16, 128)}, accumulate=True), 40)
    assert found(tmp_path) == {(16, "COMPLETE", 1), (128, "COMPLETE", 4)} and len(race.told) == 2


def test_a_batch_of_which_not_one_example_fits_is_closed(tmp_path: Path) -> None:
    made = space(**{**GRID, "batch_sizes": (2, 4)}, accumulate=True)
    raced(tmp_path, made, 0)
    assert found(tmp_path) == {(2, "OOM", 2)}


def test_without_the_setting_the_batch_size_and_larger_ones_are_closed(tmp_path: Path) -> None:
    race, _ = raced(tmp_path, space(**GRID), 64)
    assert found(tmp_path) == {(32, "COMPLETE", 1), (96, "OOM", 1)} and not race.told


def test_a_search_that_never_lacks_memory_is_the_same_with_the_setting(tmp_path: Path) -> None:
    for name, setting in (("off", False), ("on", True)):
        raced(tmp_path / name, space(**GRID, accumulate=setting), 1000)
    with Ledger.open(tmp_path / "off", create=False) as off, Ledger.open(tmp_path / "on", create=False) as on:
        assert [row["config"] for row in off.trials()] == [row["config"] for row in on.trials()]


@pytest.mark.parametrize("calls", (3, 6, 9))
def test_a_search_that_was_broken_off_goes_on_within_the_same_limit(calls: int, tmp_path: Path) -> None:
    made = space(**GRID, accumulate=True)
    left = iter(range(calls))
    raced(tmp_path / "twice", made, 64, stopping=lambda: next(left, None) is None)
    raced(tmp_path / "twice", made, 64)
    raced(tmp_path / "once", made, 64)
    with Ledger.open(tmp_path / "twice", create=False) as twice, Ledger.open(tmp_path / "once", create=False) as once:
        assert [row["config"] for row in twice.trials()] == [row["config"] for row in once.trials()]


def test_a_limit_of_an_earlier_call_holds_where_more_would_fit_now(tmp_path: Path) -> None:
    made = space(**{**GRID, "batch_sizes": (256,)}, accumulate=True)
    raced(tmp_path, made, 128)
    raced(tmp_path, changed(made, trials=5), 1000)
    assert found(tmp_path) == {(256, "COMPLETE", 2)} and len(trials(tmp_path)) == 6


def test_sizes_that_were_closed_are_asked_again_in_parts_once_that_is_set(tmp_path: Path) -> None:
    made = space(**{**GRID, "batch_sizes": (32, 128)})
    raced(tmp_path, made, 64)
    assert found(tmp_path) == {(32, "COMPLETE", 1), (128, "OOM", 1)}
    raced(tmp_path, changed(made, accumulate=True), 64)
    assert found(tmp_path) == {(32, "COMPLETE", 1), (128, "OOM", 1), (128, "COMPLETE", 2)}


def test_one_study_over_everything_divides_too(tmp_path: Path) -> None:
    made = space(strategy="tune", batch_sizes=(32, 128), trials=8, accumulate=True, learning_rate=ONE_TO_NINE)
    race, _ = raced(tmp_path, made, 64)
    assert found(tmp_path) == {(32, "COMPLETE", 1), (128, "COMPLETE", 2)}
    assert [trial.train.accumulate for trial in race.study.trials()] == [row["accumulate"] for row in trials(tmp_path)]


def test_a_trial_that_has_begun_ends_where_memory_ran_out_and_those_after_it_are_in_parts() -> None:
    study = Study(space(**{**GRID, "batch_sizes": (128,)}, accumulate=True))
    trial = study.ask()
    assert trial is not None
    study.tell(trial, result_of(trial, status="OOM"))
    later = study.ask()
    assert later is not None and later.train.accumulate == 2 and later.params["batch_size"] == 128


def test_what_has_won_is_confirmed_in_the_parts_that_it_had() -> None:
    searched = Study(space(**{**GRID, "batch_sizes": (128,)}, accumulate=True))
    trial = searched.ask()
    assert trial is not None
    searched.tell(trial, result_of(trial))
    again = Verification(searched, top=1, seeds=3)
    again.most = 32
    confirmed = again.ask()
    assert confirmed is not None and again.fitted(confirmed) == confirmed and confirmed.train.accumulate == 1
    again.tell(confirmed, result_of(confirmed, status="OOM"))
    assert again.ask() is None


@pytest.mark.parametrize("note", [0, -3, "64", 1.5, True])
def test_a_damaged_limit_is_refused(note: object, tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.set_meta("most_examples", json.loads(json.dumps(note)))
        with pytest.raises(ValueError, match="`most_examples` is damaged"):
            examine(ledger)
