"""The race: nothing runs before the ledger has it, nothing ends twice, and it goes on from wherever it was left."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from search_parts import ONE_TO_NINE, changed, space

from models.segment import Segment, SegmentResult
from search.executors import SerialExecutor
from search.failure import SearchFailed
from search.race import FAILURES, Race
from search.resuming import restore
from search.space import SearchSpace
from search.study import Study
from tracking.ledger import Ledger

AT_ONCE = "search_parts.at_once"


class Driven(Race):
    """A race that comes with its executor."""

    executor: SerialExecutor


@contextmanager
def racing(folder: Path, made: SearchSpace, function: str | SerialExecutor = AT_ONCE) -> Iterator[Driven]:
    """A race over the ledger of a folder, taken up where it was left."""
    folder.mkdir(exist_ok=True)
    with Ledger.open(folder, create=True) as ledger:
        executor = SerialExecutor(function) if isinstance(function, str) else function
        race = Driven(Study(made), ledger, str(folder / "checkpoints"))
        race.executor = executor
        (folder / "checkpoints").mkdir(exist_ok=True)
        restore(race)
        yield race


def run(
    race: Driven, *, stopping: Callable[[], bool] = lambda: False, watch: Callable[[Race], None] | None = None
) -> None:
    race.run(race.executor, stopping=stopping, watch=watch or (lambda _: None))


def after(calls: int) -> Callable[[], bool]:
    """False so many times, then true."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def rows(folder: Path) -> list[dict[str, Any]]:
    with Ledger.open(folder, create=False) as ledger:
        return ledger.trials()


def curves(folder: Path) -> list[list[dict[str, float]]]:
    """Every trial's curve, without the seconds that a clock has written."""
    with Ledger.open(folder, create=False) as ledger:
        return [
            [
                {k: v for k, v in point.items() if k != "seconds"}
                for s in ledger.segments(row["number"])
                for point in s["curve"]
            ]
            for row in ledger.trials()
        ]


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir() if not path.name.startswith(("lost", "died"))}


def referenced(folder: Path, made: SearchSpace) -> set[str]:
    """Names of the checkpoints of the best finished trials, and of the best of each cell."""
    complete = [r for r in rows(folder) if r["status"] == "COMPLETE"]
    ranked = sorted(complete, key=lambda row: (row["result"]["value"], row["number"]))
    first = {row["cell"]: row for row in reversed(ranked)}.values()
    kept = [*ranked[: made.search.keep_checkpoints], *first]
    return {Path(row["result"]["checkpoint"]).name for row in kept}


class Watching(SerialExecutor):
    """Looks into the ledger at every submit."""

    def __init__(self, folder: Path, function: str = AT_ONCE) -> None:
        super().__init__(function)
        self.folder = folder
        self.unknown: list[int] = []

    def submit(self, segments: Sequence[Segment]) -> None:
        known = {row["number"] for row in rows(self.folder)}
        self.unknown += [segment.trial for segment in segments if segment.trial not in known]
        super().submit(segments)


def test_the_ledger_has_a_trial_before_it_runs(tmp_path: Path) -> None:
    executor = Watching(tmp_path)
    with racing(tmp_path, space(), executor) as race:
        run(race)
    assert executor.unknown == []
    assert [row["status"] for row in rows(tmp_path)] == ["COMPLETE"] * 24


def test_a_finished_search_that_runs_again_does_nothing(tmp_path: Path) -> None:
    with racing(tmp_path, space()) as race:
        run(race)
    before = rows(tmp_path)
    with racing(tmp_path, space(), "search_parts.raises") as race:
        run(race)
        assert race.study.planned == 24
        # What has brought something back is not withdrawn, whatever the next recipe says.
        assert not race.ledger.withdraw()
    assert rows(tmp_path) == before


@pytest.mark.parametrize("stopped_after", [1, 4, 11, 17, 23])
def test_a_stopped_search_goes_on_to_the_results_of_an_undisturbed_one(tmp_path: Path, stopped_after: int) -> None:
    made = space(extend=True, learning_rate=ONE_TO_NINE)
    for name in ("whole", "stopped"):
        with racing(tmp_path / name, made) as race:
            run(race, stopping=after(stopped_after if name == "stopped" else 10**6))
    with racing(tmp_path / "stopped", made) as race:
        run(race)
    whole, stopped = rows(tmp_path / "whole"), rows(tmp_path / "stopped")
    assert [row["config"] for row in stopped] == [row["config"] for row in whole]
    assert [row["result"]["value"] for row in stopped] == [row["result"]["value"] for row in whole]
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")


def test_more_trials_are_added_to_a_finished_search(tmp_path: Path) -> None:
    with racing(tmp_path, space(trials=2, refine=1)) as race:
        run(race)
    first = rows(tmp_path)
    with racing(tmp_path, space(trials=4, refine=2)) as race:
        run(race)
    assert rows(tmp_path)[:12] == first
    assert Counter(row["cell"] for row in rows(tmp_path)) == Counter({cell.name: 6 for cell in space().cells()})


class Interrupted(BaseException):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("moment", [1, 2, 7, 12])
def test_a_driver_that_dies_between_asking_and_running_loses_nothing(tmp_path: Path, moment: int) -> None:
    calls = after(moment)

    def dying(race: Race) -> None:
        if calls():
            raise Interrupted

    with pytest.raises(Interrupted), racing(tmp_path, space()) as race:
        run(race, watch=dying)
    assert "RUNNING" in {row["status"] for row in rows(tmp_path)}
    with racing(tmp_path, space()) as race:
        run(race)
    assert Counter(row["status"] for row in rows(tmp_path)) == Counter({"COMPLETE": 24})
    assert len({(row["cell"], row["index"]) for row in rows(tmp_path)}) == 24


# With real trainings: a small network on the digits.

TRAIN = "models.train.train_segment"
PAUSING = {"trials": 1, "refine": 0, "batch_sizes": (64,), "schedules": {"cosine": {}}}


def small(**search: Any) -> SearchSpace:
    return space(**{"training": {"epochs": 3}, "batch_sizes": (256,), "trials": 2, "refine": 0, **search})


class Pausing(SerialExecutor):
    """Every segment ends at its first good place: the flag that ends a search is up all the time."""

    def completed(self, timeout: float) -> list[SegmentResult]:
        self.request_stop()
        return super().completed(timeout)


def test_a_trial_that_pauses_goes_on_from_its_checkpoint_and_ends_the_same(tmp_path: Path) -> None:
    made = small(keep_checkpoints=2)
    with racing(tmp_path / "whole", made, TRAIN) as race:
        run(race)
    with racing(tmp_path / "pausing", made, Pausing(TRAIN)) as race:
        run(race)
    assert curves(tmp_path / "pausing") == curves(tmp_path / "whole")
    with Ledger.open(tmp_path / "pausing", create=False) as ledger:
        assert len(ledger.segments(0)) > 3
    for name in ("whole", "pausing"):
        assert checkpoints(tmp_path / name) == referenced(tmp_path / name, made)
        assert len(checkpoints(tmp_path / name)) == 2


def test_a_search_stopped_in_mid_training_keeps_the_paused_checkpoint_alone(tmp_path: Path) -> None:
    made = small()
    with racing(tmp_path / "whole", made, TRAIN) as race:
        run(race)
    with racing(tmp_path / "stopped", made, Pausing(TRAIN)) as race:
        run(race, stopping=after(5))
    (paused,) = [row["number"] for row in rows(tmp_path / "stopped") if row["status"] == "RUNNING"]
    assert len(checkpoints(tmp_path / "stopped")) == 1
    assert next(iter(checkpoints(tmp_path / "stopped"))).startswith(f"{paused:05d}-")
    # What a killed driver has left goes with the next start.
    (tmp_path / "stopped" / "checkpoints" / "00077-000000009.ckpt").touch()
    with racing(tmp_path / "stopped", made, TRAIN) as race:
        run(race)
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")
    assert checkpoints(tmp_path / "stopped") == referenced(tmp_path / "stopped", made)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no checkpoint")])
def test_a_lost_or_damaged_checkpoint_starts_its_trial_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    made = small(**PAUSING)
    with racing(tmp_path / "whole", made, TRAIN) as race:
        run(race)
    with racing(tmp_path / "harmed", made, Pausing(TRAIN)) as race:
        run(race, stopping=after(2))
    (checkpoint,) = (tmp_path / "harmed" / "checkpoints").iterdir()
    harm(checkpoint)
    with racing(tmp_path / "harmed", made, TRAIN) as race:
        run(race)
    assert curves(tmp_path / "harmed") == curves(tmp_path / "whole")
    assert checkpoints(tmp_path / "harmed") == referenced(tmp_path / "harmed", made)


def test_only_the_best_trials_of_two_cells_keep_a_checkpoint(tmp_path: Path) -> None:
    made = small(trials=3, keep_checkpoints=1, training={"epochs": 1})
    seen: list[int] = []
    with racing(tmp_path, made, TRAIN) as race:
        run(race, watch=lambda _: seen.append(len(checkpoints(tmp_path))))
        assert max(seen) == len(race.study.cells) == 2
        assert checkpoints(tmp_path) == referenced(tmp_path, made)
        race.tidy()
        assert checkpoints(tmp_path) == {Path(str(race.study.top(1)[0].checkpoint)).name}


# Failures.


def test_a_lost_worker_costs_its_segment_and_no_more(tmp_path: Path) -> None:
    with racing(tmp_path / "whole", space()) as race:
        run(race)
    with racing(tmp_path / "lost", space(), "search_parts.lost_once") as race:
        run(race)
    assert [row["status"] for row in rows(tmp_path / "lost")] == ["COMPLETE"] * 24
    assert [row["config"] for row in rows(tmp_path / "lost")] == [row["config"] for row in rows(tmp_path / "whole")]
    assert curves(tmp_path / "lost") == curves(tmp_path / "whole")


class Losing(SerialExecutor):
    """Loses the worker of one trial every time."""

    def completed(self, timeout: float) -> list[SegmentResult]:
        return [
            SegmentResult.from_json({**r.to_json(), "status": "FAILED", "reason": "lost_worker: gone"})
            if r.trial == 2
            else r
            for r in super().completed(timeout)
        ]


def test_a_trial_that_loses_its_worker_twice_has_failed(tmp_path: Path) -> None:
    with racing(tmp_path, space(), Losing(AT_ONCE)) as race:
        run(race)
    assert {row["number"]: row["result"]["reason"] for row in rows(tmp_path) if row["status"] == "FAILED"} == {
        2: "lost_worker: gone"
    }


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [("fails", "FAILED", "KeyError: 'label'"), ("hung", "TIMEOUT", "timeout: no step for 600 s")],
)
def test_five_failures_in_a_row_end_the_search_with_their_reason(
    function: str, status: str, reason: str, tmp_path: Path
) -> None:
    with racing(tmp_path, space(), f"search_parts.{function}") as race, pytest.raises(SearchFailed, match=reason):
        run(race)
    statuses = [row["status"] for row in rows(tmp_path)]
    assert statuses.count(status) == FAILURES
    assert len(statuses) <= FAILURES + 1


def test_a_mistake_that_only_training_shows_is_raised_and_asks_nothing_more(tmp_path: Path) -> None:
    with racing(tmp_path, space(), "search_parts.mistaken") as race, pytest.raises(ValueError, match=r"^`metrics\.obj"):
        run(race)
    assert [row["status"] for row in rows(tmp_path)] == ["RUNNING"]
    with Ledger.open(tmp_path, create=False) as ledger:
        assert ledger.withdraw()
    assert rows(tmp_path) == []


def test_out_of_memory_ends_its_batch_size_and_larger_ones(tmp_path: Path) -> None:
    made = space(batch_sizes=(32, 128, 256), schedules={"constant": {}}, trials=3, refine=1)
    with racing(tmp_path, made, "search_parts.too_large") as race:
        run(race)
    counted = Counter((row["cell"], row["status"]) for row in rows(tmp_path))
    assert counted == Counter({("b32-sgd-constant", "COMPLETE"): 4, ("b128-sgd-constant", "OOM"): 1})
    with racing(tmp_path, changed(made, trials=6), "search_parts.too_large") as race:
        run(race)
    assert Counter(row["status"] for row in rows(tmp_path)) == Counter({"COMPLETE": 7, "OOM": 1})


def test_no_jump_of_the_clock_changes_or_ends_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small(**PAUSING)
    with racing(tmp_path / "calm", made, TRAIN) as race:
        run(race)
    clock, jumps = time.time, itertools.cycle([0.0, 3600.0, -3600.0])
    monkeypatch.setattr(time, "time", lambda: clock() + next(jumps))
    with racing(tmp_path / "jumping", made, TRAIN) as race:
        run(race)
    assert curves(tmp_path / "jumping") == curves(tmp_path / "calm")
    for row in rows(tmp_path / "jumping"):
        assert (row["status"], 0 <= row["result"]["seconds"] <= row["result"]["wall_seconds"]) == ("COMPLETE", True)
