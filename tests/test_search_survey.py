"""What training side by side brings is measured beside a race: its first trials train alone, later ones in arrays."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from search_parts import space

from search.executors import SerialExecutor
from search.gains import FEWEST, UNACCOMPANIED, fixed_seconds
from search.race import Race
from search.survey import WORTH, Survey
from search.tuning import TuneStudy
from tracking.ledger import Ledger

SPACE: dict[str, Any] = {"strategy": "tune", "batch_sizes": (64,), "trials": 60, "seed": 3}
ANSWER = {"reason": None, "width": 8, "steps": 23, "admission_seconds": 0.0, "step_seconds": 0.1, "share_seconds": 0.01}


class Asked(SerialExecutor):
    """Its probe answers when it is let, and the trials that have been submitted by then are counted."""

    def __init__(self, answer: Any = ANSWER) -> None:
        super().__init__()
        self.answer = answer
        self.let = threading.Event()
        self.submitted = 0
        self.before: int | None = None
        self.asked: list[Any] = []

    def submit(self, segments: Sequence[Any]) -> None:
        self.submitted += len(segments)
        super().submit(segments)

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        self.before = self.submitted
        self.asked += payloads
        assert self.let.wait(60) and function == "models.probes.array_gain"
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer] * len(payloads)


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    with Ledger.open(tmp_path, create=True) as ledger:
        yield Race(TuneStudy(space(**SPACE)), ledger, str(tmp_path / "checkpoints"))


def run(race: Race, executor: Asked, *, let_after: int, trials: float = math.inf) -> list[int]:
    """Race to the end, or to so many trials; gives how many had been asked whenever the race was given gains."""
    survey = Survey(executor, race)
    given: list[int] = []

    def watch(race: Race) -> None:
        if len(race.trials) >= let_after and not executor.let.is_set():
            executor.let.set()
            assert not race.gains.widths
            while survey._news.empty():
                time.sleep(0.01)
        if survey.look():
            given.append(len(race.trials))

    race.run(executor, stopping=lambda: len(race.trials) >= trials, watch=watch)
    return given


def test_trials_train_alone_until_the_measurement_is_there_and_side_by_side_from_then_on(race: Race) -> None:
    executor = Asked()
    assert run(race, executor, let_after=20) == [20]
    tiers = {
        row["number"]: {segment["tags"]["tier"] for segment in race.ledger.segments(row["number"])}
        for row in race.ledger.trials()
    }
    assert all(tiers[number] == {"solo"} for number in range(16))
    assert sum("array" in tiers[number] for number in range(20, 60)) > 30
    alone = [row["result"]["tags"] for row in race.ledger.trials() if tiers[row["number"]] == {"solo"}]
    assert {tags["fallback_reason"] for tags in alone} == {UNACCOMPANIED}
    timed = [row["result"]["tags"] for row in race.ledger.trials() if row["result"] and row["number"] >= 20]
    assert "steps x step time alone" in {tags.get("time_mode") for tags in timed}


def test_it_is_measured_before_the_race_has_begun(race: Race) -> None:
    executor = Asked()
    Survey(executor, race)
    end = time.monotonic() + 30
    while executor.before is None and time.monotonic() < end:
        time.sleep(0.01)
    executor.let.set()
    assert executor.before == 0 and not race.trials


def test_what_is_known_of_a_batch_size_counts_before_the_others_are_measured(tmp_path: Path) -> None:
    made = space(**{**SPACE, "batch_sizes": (64, 256), "trials": 100})
    with Ledger.open(tmp_path, create=True) as ledger:
        race = Race(TuneStudy(made), ledger, str(tmp_path / "checkpoints"))
        executor = Asked()
        executor.let.set()
        survey, known = Survey(executor, race), [0]

        def watch(race: Race) -> None:
            survey.look()
            if len(race.gains.widths) != known[-1]:
                known.append(len(race.gains.widths))

        race.run(executor, stopping=lambda: known[-1] == 2, watch=watch)
    assert known == [0, 1, 2]


def test_what_is_fixed_of_a_step_is_told_to_the_probe_of_the_next_batch_size(tmp_path: Path) -> None:
    made = space(**{**SPACE, "batch_sizes": (64, 256), "trials": 100})
    with Ledger.open(tmp_path, create=True) as ledger:
        race = Race(TuneStudy(made), ledger, str(tmp_path / "checkpoints"))
        executor = Asked()
        executor.let.set()
        run(race, executor, let_after=1000)
    first, second = executor.asked
    assert "fixed_seconds" not in first and second["worth"] == WORTH
    # A step of 8 takes 0.08 s, one alone 0.1: nothing of it can belong to a member.
    assert second["fixed_seconds"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("width", "share", "alone", "expected"),
    [(16, 0.1, 1.0, 0.96), (5, 0.4, 1.0, 0.75), (8, 0.05, 1.0, 1.0), (4, 2.0, 1.0, 0.0)],
)
def test_what_is_fixed_of_a_step_is_what_members_do_not_add(
    width: int, share: float, alone: float, expected: float
) -> None:
    answer = {**ANSWER, "width": width, "share_seconds": share, "step_seconds": alone}
    assert fixed_seconds(answer) == pytest.approx(expected)


def test_who_goes_on_knows_the_step_times_of_before_until_they_are_measured_anew(race: Race) -> None:
    run(race, Asked(), let_after=20, trials=40)
    resumed = Race(race.study, race.ledger, race.folder)
    Survey(Asked(), resumed)
    assert resumed.gains.step_seconds == {(64, "sgd"): 0.1} and not resumed.gains.widths
    other = Asked({**ANSWER, "step_seconds": 0.2})
    other.let.set()
    survey = Survey(other, resumed)
    resumed.trials = race.trials
    while not survey.look():
        time.sleep(0.01)
    assert resumed.gains.step_seconds == {(64, "sgd"): 0.2} and resumed.gains.widths


def test_where_nothing_can_be_measured_the_reasons_are_told(tmp_path: Path) -> None:
    many = {"model.init_args.network.init_args.classes": {"low": 10, "high": 50}}
    with Ledger.open(tmp_path, create=True) as ledger:
        race = Race(TuneStudy(space(**SPACE, parameters=many)), ledger, str(tmp_path / "checkpoints"))
        executor = Asked()
        executor.let.set()
        assert len(run(race, executor, let_after=1000)) == 1
        assert race.gains.reasons == {(64, "sgd"): "too few trials share its shape"}


def test_a_search_of_few_trials_measures_nothing(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        race = Race(TuneStudy(space(**{**SPACE, "trials": FEWEST - 1})), ledger, str(tmp_path / "checkpoints"))
        executor = Asked()
        executor.let.set()
        assert run(race, executor, let_after=1000) == []
    assert executor.before is None and len(race.trials) == FEWEST - 1


def test_what_goes_on_with_few_trials_left_measures_nothing(race: Race) -> None:
    run(race, Asked(), let_after=20)
    executor = Asked()
    executor.let.set()
    assert run(Race(race.study, race.ledger, race.folder), executor, let_after=1000) == []
    assert executor.before is None


def test_what_becomes_of_the_measurement_becomes_of_the_race(race: Race) -> None:
    with pytest.raises(ValueError, match="the model is gone"):
        run(race, Asked(ValueError("the model is gone")), let_after=20)
