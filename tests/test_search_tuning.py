"""The strategy `tune`: what is proposed, what waits at rungs, what goes on, and where it was left does not matter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from search_parts import result_of, space

from models.config import TrainConfig
from models.segment import Segment, SegmentResult
from models.train import train_segment
from pipelines.display import rungs as rungs_line
from search.config import LearningRateConfig, PromotionConfig
from search.executors import SerialExecutor
from search.expected import FEWEST
from search.foreseen import Course, Outlook
from search.joint import JointSpace
from search.objectives import study_of
from search.race import Race
from search.resuming import recall, restore
from search.samplers import REMEMBERED, SAMPLERS, Known, remembered
from search.space import SearchSpace
from search.trial import TrialConfig, TrialResult, recorded
from search.tuning import ROUNDS, STARTUP, TuneStudy
from tracking.ledger import Ledger

RATES = LearningRateConfig(rule="linear", centre=0.1, reference_batch_size=64, factor=30.0, highest=10.0)
FINAL = {"constant": {}, "cosine": {"final": {"low": 0.0, "high": 0.2}}}
SMART = ("tpe", "cmaes", "nsga2")


def tuned(**search: Any) -> SearchSpace:
    known = {"strategy": "tune", "batch_sizes": (16, 32, 64, 128), "learning_rate": RATES, "schedules": FINAL}
    return space(**{**known, "trials": 60, **search})


def loss(trial: TrialConfig) -> float:
    """Best, 0, at batch size 64 with cosine to zero at a learning rate of 0.1; the best rate grows with the batch."""
    size = math.log2(trial.params["batch_size"] / 64)
    place = math.log(trial.params["learning_rate"] / (0.1 * 2**size))
    return size**2 + place**2 + float(trial.params.get("schedule.final", 0.3))


def raced(study: TuneStudy, *, width: int = 1, count: int | None = None) -> list[TrialConfig]:
    """Ask and tell until the study ends, or after so many trials."""
    asked: list[TrialConfig] = []
    while (trials := study.ask_together(lambda _: width)) and (count is None or len(asked) < count):
        for trial in trials:
            study.tell(trial, result_of(trial, loss(trial)))
        asked += trials
    return asked


def best(study: TuneStudy) -> float:
    value = study.top(1)[0].value
    assert value is not None
    return value


# What is proposed


@pytest.mark.parametrize("sampler", SMART)
def test_a_sampler_that_learns_finds_the_best_of_an_analytic_objective(sampler: str) -> None:
    study = TuneStudy(tuned(sampler=sampler, trials=120))
    raced(study, width=4)
    trial = next(trial for trial in study.trials() if trial.number == study.top(1)[0].number)
    assert trial.params["batch_size"] == 64 and trial.params["schedule"] == "cosine"
    assert best(study) < 0.1


@pytest.mark.slow
def test_the_sampler_with_gaussian_processes_finds_it_too() -> None:
    study = TuneStudy(tuned(sampler="gp", trials=40))
    raced(study, width=4)
    assert best(study) < 0.1


@pytest.mark.parametrize("sampler", [*SMART, "qmc", "random", "grid", "optuna.samplers.RandomSampler"])
def test_every_sampler_asks_exactly_the_trials_wanted_and_none_twice(sampler: str) -> None:
    study = TuneStudy(tuned(sampler=sampler, trials=30))
    asked = raced(study, width=8)
    assert len(asked) == study.planned == 30 and study.is_over
    assert len({repr(sorted(trial.params.items())) for trial in asked}) == 30
    assert [trial.number for trial in asked] == list(range(30))
    for trial in asked:
        assert isinstance(trial.train, TrainConfig) and trial.train.batch_size == trial.params["batch_size"]


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "random"])
def test_trials_asked_together_share_their_shape_and_are_few_where_the_sampler_learns(sampler: str) -> None:
    study = TuneStudy(tuned(sampler=sampler, trials=60))
    sizes = []
    while trials := study.ask_together(lambda _: 16):
        assert len({(trial.params["batch_size"], trial.params["optimizer"]) for trial in trials}) == 1
        sizes.append(len(trials) if trials[0].phase == "propose" else 0)
    assert max(sizes) <= 60 // ROUNDS


@pytest.mark.parametrize("sampler", ["qmc", "random", "grid"])
def test_a_sequence_does_not_depend_on_what_came_back_nor_on_the_width(sampler: str) -> None:
    def params(width: int) -> list[str]:
        return sorted(repr(trial.params) for trial in raced(TuneStudy(tuned(sampler=sampler, trials=32)), width=width))

    assert params(1) == params(5)


def test_a_longer_sequence_begins_with_the_shorter_one() -> None:
    short = {repr(trial.point) for trial in raced(TuneStudy(tuned(sampler="qmc", trials=16)))}
    long = {repr(trial.point) for trial in raced(TuneStudy(tuned(sampler="qmc", trials=48)))}
    assert short < long


def test_quasi_random_trials_come_first_and_are_spread_over_the_grid() -> None:
    asked = raced(TuneStudy(tuned(trials=40)))
    assert [trial.phase for trial in asked[:STARTUP]] == ["explore"] * STARTUP
    assert {trial.phase for trial in asked[STARTUP:]} == {"propose"}
    assert Counter(trial.params["batch_size"] for trial in asked[:STARTUP]) == dict.fromkeys((16, 32, 64, 128), 4)


def test_where_many_train_side_by_side_a_sampler_begins_with_whole_arrays_of_every_batch_size() -> None:
    study, sizes = TuneStudy(tuned(trials=600)), Counter[int]()
    while (trials := study.ask_together(lambda _: 16))[0].phase == "explore":
        assert len(trials) == 16 and len({trial.params["batch_size"] for trial in trials}) == 1
        sizes[trials[0].params["batch_size"]] += 1
    assert sizes == dict.fromkeys((16, 32, 64, 128), 1)


def test_a_short_search_begins_with_no_more_than_a_sampler_is_asked_for_at_once() -> None:
    study, explored = TuneStudy(tuned(trials=96)), 0
    while (trials := study.ask_together(lambda _: 16))[0].phase == "explore":
        explored += len(trials)
    assert explored == 4 * (96 // ROUNDS)


def test_a_sampler_begins_with_what_fills_an_array() -> None:
    study = TuneStudy(tuned(trials=600))
    trials = study.ask_together(lambda cell: 16 if cell.batch_size == 64 else 1)
    assert [trial.params["batch_size"] for trial in trials] == [64] * 16
    alone = [study.ask_together(lambda cell: 16 if cell.batch_size == 64 else 1) for _ in range(12)]
    assert Counter(trial.params["batch_size"] for (trial,) in alone) == dict.fromkeys((16, 32, 128), 4)


def test_the_same_place_of_a_rate_is_another_rate_at_another_batch_size() -> None:
    joint = JointSpace(tuned())
    point = {"schedule": "constant", "sgd.learning_rate": 0.5}
    rates = [joint.sampled({**point, "batch_size": index})["learning_rate"] for index in range(4)]
    assert rates == pytest.approx([0.025, 0.05, 0.1, 0.2], rel=0.01)


def test_tpe_proposes_what_optunas_own_class_does() -> None:
    optimizers = {"sgd": {"momentum": {"values": [0.0, 0.9]}}, "adamw": {"beta1": {"low": 0.8, "high": 0.99}}}
    args = SAMPLERS["tpe"][1]

    def asked(sampler: str, **given: Any) -> list[Mapping[str, Any]]:
        study = TuneStudy(tuned(sampler=sampler, sampler_args=given, optimizers=optimizers))
        return [trial.point for trial in raced(study, width=3)]

    assert asked("tpe") == asked("optuna.samplers.TPESampler", **args)


def test_arguments_are_asked_only_where_they_belong() -> None:
    optimizers = {"sgd": {"momentum": {"values": [0.0, 0.9]}}, "adamw": {"beta1": {"low": 0.8, "high": 0.99}}}
    for trial in raced(TuneStudy(tuned(optimizers=optimizers, sampler="tpe", trials=40, learning_rate=RATES))):
        names = set(trial.params) - {"batch_size", "optimizer", "schedule", "learning_rate"}
        wanted = {"optimizer.momentum"} if trial.params["optimizer"] == "sgd" else {"optimizer.beta1"}
        assert names == wanted | ({"schedule.final"} if trial.params["schedule"] == "cosine" else set())


def test_a_space_with_few_points_ends_when_it_has_no_more() -> None:
    small = tuned(sampler="grid", sampler_args={"levels": 2}, schedules={"constant": {}}, batch_sizes=(16, 32))
    study = TuneStudy(small)
    assert len(raced(study)) == study.planned == 4 and study.is_over


def test_a_batch_size_that_does_not_fit_is_not_asked_again() -> None:
    study = TuneStudy(tuned(trials=60))
    late: list[TrialConfig] = []
    while trials := study.ask_together(lambda _: 4):
        for trial in trials:
            large = trial.train.batch_size >= 64
            study.tell(trial, result_of(trial, status="OOM" if large else "COMPLETE"))
        late += trials if len(study.trials()) > 20 else []
    assert late and max(trial.train.batch_size for trial in late) < 64


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("tpee.x", {}, "`search.sampler` must be one of tpe, gp, cmaes, nsga2, qmc, random, grid, or the import path"),
        ("optuna.samplers.Tpe", {}, "cannot be imported"),
        ("optuna.study.Study", {}, "must be a sampler of Optuna's kind"),
        ("tpe", {"candidates": 3}, "`search.sampler_args` must be what TPESampler takes, but got {'candidates': 3}"),
        ("qmc", {"seed": 3}, "`search.sampler_args` must be no arguments with qmc, but got seed"),
        ("grid", {"levels": 0}, "`search.sampler_args.levels` must be a whole number of at least 1, but got 0"),
    ],
)
def test_a_sampler_that_cannot_be_made_is_told(name: str, args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        TuneStudy(tuned(sampler=name, sampler_args=args))
    assert sentence in str(raised.value)


def test_of_very_many_results_a_sampler_is_given_the_best_and_the_latest() -> None:
    many = [Known(point={}, state=TrialState.COMPLETE, value=float(-index % 5000)) for index in range(5000)]
    running = [Known(point={}, state=TrialState.RUNNING)]
    kept = remembered([*many, *running], maximize=False)
    assert len(kept) == REMEMBERED + 1 and kept[-1] is running[0] and kept[-2] is many[-1]
    assert min(one.value for one in kept[:-1] if one.value is not None) == 0.0


# Rungs, with real trainings


@contextmanager
def racing(folder: Path, made: SearchSpace, executor: Any = None) -> Iterator[tuple[Race, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    with Ledger.open(folder, create=True) as ledger:
        race = Race(study_of(made), ledger, str(folder / "checkpoints"))
        restore(race)
        yield race, executor or SerialExecutor()


def trained(**search: Any) -> SearchSpace:
    known = {"sampler": "qmc", "trials": 9, "batch_sizes": (128,), "schedules": {"constant": {}}}
    known |= {"promotion": PromotionConfig(eta=3, rungs=1, within=()), "training": {"epochs": 6}}
    return tuned(**{**known, **search})


def go(race: Race, executor: Any, *, stop_after: int | None = None) -> None:
    calls = iter(range(stop_after if stop_after is not None else 10**6))
    race.run(executor, stopping=lambda: next(calls, None) is None, watch=lambda _: None)


def outcome(folder: Path) -> list[tuple[str, int]]:
    with Ledger.open(folder, create=False) as ledger:
        return [(result.status, result.steps) for _, result in recorded(ledger.trials()) if result is not None]


def test_a_third_of_the_trials_goes_on_and_the_rest_ends_at_the_rung(tmp_path: Path) -> None:
    with racing(tmp_path / "study", trained()) as (race, executor):
        go(race, executor)
        assert race.is_over and not race.waiting
        (rung,) = race.study.at_rungs
        with_display = rungs_line(race)
    found = Counter(outcome(tmp_path / "study"))
    assert found["COMPLETE", 72] >= 3
    assert rung.progress == pytest.approx(1 / 3) and rung.gone_on == found["COMPLETE", 72]
    assert found["COMPLETE", 72] + found["PRUNED", 24] <= rung.came <= 9
    assert with_display == f"rungs: {rung.came} came to 33%, {rung.gone_on} went on"
    assert found["COMPLETE", 72] + found["PRUNED", 24] + sum(n for (s, _), n in found.items() if s == "DIVERGED") == 9


def test_a_promoted_trial_goes_on_to_the_bit(tmp_path: Path) -> None:
    with racing(tmp_path / "study", trained()) as (race, executor):
        go(race, executor)
        number = next(result.number for result in race.study.top(9) if result.steps == 72)
        parts = [SegmentResult.from_json(found) for found in race.ledger.segments(number)]
        assert [part.to_step for part in parts] == [24, 72]
        alone = Segment(trial=0, config=race.trials[number].train, folder=str(tmp_path))
    whole = train_segment(alone)
    assert figures(whole.curve) == figures([point for part in parts for point in part.curve])


def test_with_rescaling_every_rung_ends_a_whole_schedule(tmp_path: Path) -> None:
    promotion = PromotionConfig(eta=3, rungs=1, within=(), rescale=True)
    with racing(tmp_path / "study", trained(schedules={"cosine": {}}, promotion=promotion)) as (race, executor):
        go(race, executor)
        parts = [SegmentResult.from_json(race.ledger.segments(trial.number)[0]) for trial in race.study.trials()]
        peaks = [trial.train.learning_rate for trial in race.study.trials()]
    ends = [
        (part.curve[-1]["learning_rate"], peak) for part, peak in zip(parts, peaks, strict=True) if part.to_step == 24
    ]
    assert len(ends) >= 3 and all(peak is not None and rate < 0.01 * peak for rate, peak in ends)


def test_a_search_left_in_the_middle_of_a_rung_comes_to_the_same(tmp_path: Path) -> None:
    whole, left = tmp_path / "whole", tmp_path / "left"
    with racing(whole, trained()) as (race, executor):
        go(race, executor)
    for calls in (4, 3, 5):
        with racing(left, trained()) as (race, executor):
            go(race, executor, stop_after=calls)
            assert not race.is_over
    with racing(left, trained()) as (race, executor):
        go(race, executor)
        assert race.is_over
    assert sorted(outcome(left)) == sorted(outcome(whole))
    assert len(list((left / "checkpoints").iterdir())) <= trained().search.keep_checkpoints + 1


def test_without_rungs_every_trial_is_trained_to_its_end(tmp_path: Path) -> None:
    with racing(tmp_path / "study", trained(trials=3, promotion=PromotionConfig(rule="none"))) as (race, executor):
        go(race, executor)
    assert {steps for status, steps in outcome(tmp_path / "study") if status == "COMPLETE"} == {72}


def test_a_sampler_sees_a_trial_that_waits_by_what_it_would_come_to(tmp_path: Path) -> None:
    with racing(tmp_path / "study", trained()) as (race, executor):
        go(race, executor)
        known = dict(enumerate(race.study._known()))  # type: ignore[attr-defined]
    with Ledger.open(tmp_path / "study", create=False) as ledger:
        results = {row["number"]: row["result"] for row in ledger.trials()}
    ended = {number for number, result in results.items() if result["status"] == "COMPLETE"}
    given_up = {number for number, result in results.items() if result["status"] == "PRUNED"}
    assert ended and given_up and {known[number].state for number in ended | given_up} == {TrialState.COMPLETE}
    for number in ended:
        assert known[number].value == results[number]["value"]
    whole = {number: Course("constant", [known[number].rungs[0], known[number].value]) for number in ended}
    part = {number: Course("constant", [known[number].rungs[0]]) for number in given_up}
    outlook = Outlook(stages=2)
    outlook.take({**whole, **part})
    expected = outlook.ends
    for number in given_up:
        assert known[number].value == pytest.approx(expected[number])
        assert known[number].value < known[number].rungs[0]


def test_a_search_recommends_by_what_is_expected_as_its_ledger_does(tmp_path: Path) -> None:
    with racing(tmp_path / "study", trained(trials=24)) as (race, executor):
        go(race, executor)
        study = race.study
        leaders = study.leaders()
        assert study.ranking() == leaders and not study.expected
        study.expect()
        results = {trial.number: result for trial, result in known_results(race)}
        complete = {number for number, result in results.items() if result.status == "COMPLETE"}
        assert set(study.expected) == complete and len(complete) >= FEWEST
        ranked = [study.expected[trial.number].bound for trial, _ in study.ranking()]
        assert ranked == sorted(ranked) and ranked[0] == min(one.bound for one in study.expected.values())
        assert {trial.cell for trial, _ in study.ranking()} == {trial.cell for trial, _ in leaders}
        again = study_of(trained(trials=24))
        recall(again, race.ledger)
        again.expect()
        # From the ledger, in another order, the same to the last bit.
        assert again.expected == study.expected and again.ranking() == study.ranking()


def known_results(race: Race) -> list[tuple[TrialConfig, TrialResult]]:
    return [(trial, result) for trial, result in recorded(race.ledger.trials()) if result is not None]


def test_of_several_objectives_nothing_is_expected() -> None:
    study = study_of(tuned(objectives=("val_loss", "cost"), trials=30))
    assert isinstance(study, TuneStudy)
    raced(study, width=4)
    study.expect()
    assert not study.expected and study.ranking() == study.leaders()


def figures(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Evaluations without their clock."""
    return [{name: value for name, value in point.items() if name != "seconds"} for point in curve]
