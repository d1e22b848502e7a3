"""Objectives of `tune` other than the metric alone: what is proposed, who goes on, what is told to a sampler."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from search_parts import result_of
from test_search_tuning import go, racing, trained, tuned

from models.segment import SegmentResult
from search.config import PromotionConfig
from search.objectives import ObjectiveStudy, study_of
from search.promotion import Standing, promoted
from search.samplers import sampler_of
from search.scored_rungs import placed
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig, TrialResult, recorded
from search.tuning import TuneStudy
from tracking.analysis.pareto import Score

BOTH = ("val_loss", "examples_to_target")


def aimed(*objectives: str, **search: Any) -> SearchSpace:
    """One batch size and schedule: the learning rate is all that is searched."""
    known = {"batch_sizes": (64,), "schedules": {"constant": {}}, "metrics": {"target": 0.5}}
    return tuned(**{**known, "objectives": objectives or BOTH, **search})


def outcome(trial: TrialConfig) -> TrialResult:
    """The loss is least at a rate of 0.1, the way to the target shortest at 0.3: those between are the front."""
    rate = math.log(trial.params["learning_rate"] / 0.1)
    way = abs(rate - math.log(3))
    steps = 10 + round(1000 * way)
    hit = None if way > 2 else {"step": steps, "examples": 64 * steps, "seconds": way}
    return result_of(trial, value=rate**2, hit=hit, seconds=1.0 + way)


def raced(study: ObjectiveStudy, *, count: int | None = None) -> list[TrialConfig]:
    """Ask and tell until the study ends, or after so many trials."""
    asked: list[TrialConfig] = []
    while (count is None or len(asked) < count) and (trials := study.ask_together(lambda _: 4)):
        for trial in trials:
            study.tell(trial, outcome(trial))
        asked += trials
    return asked


def between(trial: TrialConfig) -> bool:
    """Whether no other rate would be better in both."""
    return 0.09 < float(trial.params["learning_rate"]) < 0.33


# What is proposed


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc", "random", "grid"])
def test_with_several_objectives_every_sampler_asks_the_trials_wanted_and_none_twice(sampler: str) -> None:
    study = ObjectiveStudy(tuned(objectives=BOTH, sampler=sampler, trials=30, metrics={"target": 0.5}))
    asked = raced(study)
    assert len(asked) == 30 and study.is_over and len({repr(trial.point) for trial in asked}) == 30


def test_a_sampler_that_learns_looks_along_the_front() -> None:
    shares = {}
    for sampler in ("tpe", "qmc"):
        proposed = raced(ObjectiveStudy(aimed(sampler=sampler, trials=80)))[40:]
        shares[sampler] = sum(map(between, proposed)) / len(proposed)
    assert shares["tpe"] > 2 * shares["qmc"] > 0


def test_the_way_to_a_target_alone_is_an_objective() -> None:
    study = ObjectiveStudy(aimed("examples_to_target", trials=60))
    raced(study)
    ranked = study.top(60)
    best = next(trial for trial in study.trials() if trial.number == ranked[0].number)
    assert best.params["learning_rate"] == pytest.approx(0.3, rel=0.1)
    assert study.front() == [] and study.ranking()[0][0] is best
    arrived = [result.hit is not None for result in ranked]
    assert arrived.count(False) > 0 and arrived == sorted(arrived, reverse=True)
    late = [result.value or 0.0 for result in ranked if result.hit is None]
    assert late == sorted(late)


def test_a_study_rebuilt_from_its_trials_proposes_what_it_would_have() -> None:
    whole, rebuilt = ObjectiveStudy(aimed(trials=40)), ObjectiveStudy(aimed(trials=40))
    asked = raced(whole, count=24)
    rebuilt.restore([(trial, outcome(trial)) for trial in asked])
    following = [[trial.point for trial in study.ask_together(lambda _: 4)] for study in (whole, rebuilt)]
    assert following[0] == following[1] != []


def test_what_lacks_a_value_is_told_by_its_place_and_never_by_a_number() -> None:
    study = ObjectiveStudy(aimed(trials=16, sampler="tpe"))
    trials = study.ask_together(lambda _: 5)
    fates: list[dict[str, Any]] = [
        {"value": 0.1, "hit": {"step": 1, "examples": 64, "seconds": 1.0}},
        {"value": 0.9},
        {"value": 0.7},
        {"status": "DIVERGED"},
        {"status": "FAILED"},
    ]
    for trial, fate in zip(trials, fates, strict=True):
        study.tell(trial, result_of(trial, **fate))
    known = list(study._known())
    states = (TrialState.COMPLETE, *[TrialState.PRUNED] * 3, TrialState.FAIL)
    assert tuple(one.state for one in known) == states
    assert [one.values for one in known] == [(0.1, 64.0), None, None, None, None]
    assert [one.place for one in known[:4]] == [0, 2, 1, 5]
    told = study._asker(sampler_of("tpe", {}, seed=0))._study.get_trials()
    assert [trial.constraints for trial in told[:4]] == [{}, {"behind": 3.0}, {"behind": 2.0}, {"behind": 6.0}]


@pytest.mark.parametrize("sampler", ["cmaes", "optuna.samplers.CmaEsSampler"])
def test_a_sampler_for_one_objective_is_refused_with_several(sampler: str) -> None:
    sentence = "`search.sampler` must take several objectives with `search.objectives` val_loss, examples_to_target"
    with pytest.raises(ValueError, match=sentence):
        ObjectiveStudy(tuned(objectives=BOTH, sampler=sampler))
    ObjectiveStudy(tuned(objectives=BOTH[1:], sampler=sampler))


@pytest.mark.parametrize(
    ("objectives", "kind"),
    [(None, TuneStudy), (("val_loss",), TuneStudy), (BOTH, ObjectiveStudy), (("steps_to_target",), ObjectiveStudy)],
)
def test_the_metric_alone_is_searched_as_ever(objectives: Any, kind: type[Study]) -> None:
    assert type(study_of(tuned(objectives=objectives))) is kind


class Stubborn(RandomSampler):
    """A sampler that wants a single point, as gp does at times."""

    def sample_independent(self, *_: Any) -> float:
        return 0.25


@pytest.mark.parametrize("objectives", [None, BOTH])
def test_a_sampler_that_repeats_itself_does_not_end_the_search(objectives: Any) -> None:
    study = study_of(aimed(objectives=objectives, sampler=f"{__name__}.Stubborn", trials=20))
    while trials := study.ask_together(lambda _: 4):
        for trial in trials:
            study.tell(trial, outcome(trial))
    phases = [trial.phase for trial in study.trials()]
    assert phases == [*["explore"] * 16, "propose", *["explore"] * 3]


# What comes out


@pytest.mark.parametrize(("choose", "rate"), [("first", 0.1), ("knee", math.sqrt(0.03))])
def test_one_of_the_front_is_chosen_by_a_stated_rule(choose: str, rate: float) -> None:
    study = ObjectiveStudy(aimed(sampler="grid", sampler_args={"levels": 200}, trials=200, choose=choose))
    raced(study)
    lying = study.front()
    assert 20 < len(lying) < 60 and all(between(trial) for trial, _ in lying)
    values = [result.value or 0.0 for _, result in lying]
    assert values == sorted(values)
    best = study.ranking()[0][0]
    assert best.params["learning_rate"] == pytest.approx(rate, rel=0.15) and best in [trial for trial, _ in lying]
    assert study.top(1)[0].number == best.number


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_metric_that_is_to_be_large_is_an_objective_too(direction: str) -> None:
    study = ObjectiveStudy(aimed(sampler="qmc", trials=3, metrics={"target": 0.5, "direction": direction}))
    hits = ({"step": 1, "examples": 64, "seconds": 1.0}, {"step": 2, "examples": 128, "seconds": 1.0})
    for value, hit in ((0.5, hits[0]), (0.6, hits[1]), (0.4, hits[1])):
        trial = study.ask()
        assert trial is not None
        study.tell(trial, result_of(trial, value=value, hit=hit))
    assert [trial.number for trial, _ in study.front()] == ([2, 0] if direction == "min" else [1, 0])


# At a rung


def standing(number: int, *losses: float, group: str = "a", resting: bool = True) -> Standing:
    return Standing(number=number, group=group, bracket=0, losses=losses, resting=resting)


def test_at_a_rung_the_front_goes_on_its_ends_first() -> None:
    points = [(5.0, 5.0), (1.0, 9.0), (2.0, 8.0), (9.0, 1.0), (6.0, 6.0), (7.0, 7.0)]
    scores = {number: [Score(point, 0.0)] for number, point in enumerate(points)}
    standings = placed([standing(number, point[0]) for number, point in enumerate(points)], scores)
    assert [one.losses[0] for one in standings] == [2.0, 0.0, 3.0, 1.0, 4.0, 5.0]
    assert promoted(standings, rule="halving", eta=3) == [1, 3]


def test_small_groups_have_a_share_together_though_places_of_different_groups_do_not_compare() -> None:
    """The first of each group is at place 0 of it: the one asked first goes on."""
    standings, scores = [], {}
    for first, group in ((0, "a"), (10, "b"), (20, "c")):
        for place in range(3):
            number, losses = first + place, [0.1 * place, *([0.9 - first / 100] if place == 0 else [])]
            standings.append(standing(number, *losses, group=group))
            scores[number] = [Score((loss, loss), loss) for loss in losses]
    found = placed(standings, scores)
    assert promoted(found, rule="halving", eta=3) == []
    assert promoted(found, rule="halving", eta=3, pooled=True) == [0]


def test_places_are_counted_among_those_of_one_group_and_rung_and_what_broke_has_none() -> None:
    scores = {n: [Score((x, -x), x), Score((-x, x), x)] for n, x in enumerate((3.0, 1.0, 2.0))}
    given = [standing(0, 3.0, 3.0), standing(1, 1.0, math.inf), standing(2, 2.0, group="b"), standing(3, math.inf)]
    found = placed(given, scores)
    assert [list(one.losses) for one in found] == [[1.0, 0.0], [0.0, math.inf], [0.0], [math.inf]]


def test_a_target_reached_before_the_rung_goes_before_a_better_metric_without() -> None:
    standings = [standing(number, 0.1 * number) for number in range(3)]
    scores = {0: [Score((0.0, math.inf), 0.0)], 1: [Score((0.1, math.inf), 0.1)], 2: [Score((0.2, 640.0), 0.2)]}
    assert promoted(placed(standings, scores), rule="halving", eta=3) == [2]


def test_a_rung_between_two_evaluations_takes_the_later_one() -> None:
    study = ObjectiveStudy(aimed(promotion=PromotionConfig(rungs=1, within=())))
    trial = study.ask()
    assert trial is not None
    points = [{"step": 40.0, "examples": 640.0, "seconds": 1.0, "val_loss": 0.4}]
    known = {"from_step": 0, "to_step": 40, "total_steps": 90, "status": "PAUSED", "curve": points}
    assert study.reaches(trial, [SegmentResult(trial=trial.number, **known)])  # type: ignore[arg-type]
    assert study._rungs.scores(trial.number) == [Score((0.4, 640.0), 0.4)]


def test_several_objectives_with_promotion_come_to_the_same_when_left_in_the_middle_of_a_rung(tmp_path: Path) -> None:
    made = trained(objectives=BOTH, metrics={"target": 1.5}, trials=6, training={"epochs": 3})
    found = []
    for name, calls in (("whole", ()), ("left", (4,))):
        for stop_after in (*calls, None):
            with racing(tmp_path / name, made) as (race, executor):
                go(race, executor, stop_after=stop_after)
                assert race.is_over is (stop_after is None)
                ended = [result for _, result in recorded(race.ledger.trials()) if result is not None]
                assert isinstance(race.study, ObjectiveStudy)
                front = [trial.number for trial, _ in race.study.front()]
        found.append(([(result.status, result.steps, result.value) for result in ended], front))
    assert found[0] == found[1] and found[0][1]
    statuses = Counter((status, steps) for status, steps, _ in found[0][0])
    assert statuses["COMPLETE", 36] >= 2 and statuses["PRUNED", 12] >= 2
