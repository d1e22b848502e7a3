"""The driver's work for a trial does not grow with the trials before it, and answers what going through all would."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from search_parts import HERE, bowl, result_of, space

from models.segment import SegmentResult
from search.config import LearningRateConfig, PromotionConfig
from search.ladder import Ladder
from search.objectives import study_of
from search.promotion import Rule, Standing, bracket_of, promoted
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig

RATES = LearningRateConfig(rule="absolute", low=1e-3, high=1.0)
STEPS = 90
HALVING = PromotionConfig(eta=3, rungs=2, within=())


def history(rule: Rule, seed: int, *, groups: int, eta: int = 3, rungs: int = 3) -> list[tuple[Standing, bool]]:
    """What trials come to, one thing after the other; after some of it somebody asks who goes on."""
    chance = random.Random(seed)
    now: dict[int, Standing] = {}
    told: list[tuple[Standing, bool]] = []
    for _ in range(250):
        number = chance.randrange(60)
        before = now.get(number)
        # Few values, so that there are ties; some that broke, start again, go on or are given up.
        losses = [] if before is None or chance.random() < 0.05 else list(before.losses)
        if len(losses) < rungs:
            losses.append(chance.choice([0.1, 0.2, 0.3, 0.4, float("inf")]))
        group, bracket = str(number % groups), bracket_of(rule, number, eta=eta, count=rungs)
        resting, pool = chance.random() < 0.8, str(number % groups % 2)
        now[number] = Standing(number=number, group=group, bracket=bracket, losses=losses, resting=resting, pool=pool)
        told.append((now[number], chance.random() < 0.5))
    return told


@pytest.mark.parametrize("rule", ["halving", "hyperband", "median"])
@pytest.mark.parametrize("groups", [1, 7])
def test_the_ladder_promotes_whom_the_pure_rule_promotes(rule: Rule, groups: int) -> None:
    answers = 0
    for seed in range(6):
        ladder, now = Ladder(rule=rule, eta=3), dict[int, Standing]()
        for one, asked in history(rule, seed, groups=groups):
            ladder.put(one)
            now[one.number] = one
            if asked:
                found = ladder.promoted()
                assert found == promoted(now.values(), rule=rule, eta=3)
                answers += len(found)
    assert answers > 100


@pytest.mark.parametrize(("rule", "groups"), [("halving", 12), ("hyperband", 6)])
def test_so_it_does_where_small_groups_have_a_share_together(rule: Rule, groups: int) -> None:
    more = 0
    for seed in range(6):
        ladder, now = Ladder(rule=rule, eta=3, pooled=True), dict[int, Standing]()
        for one, _ in history(rule, seed, groups=groups):
            ladder.put(one)
            now[one.number] = one
            found = ladder.promoted()
            assert found == promoted(now.values(), rule=rule, eta=3, pooled=True)
            alone = promoted(now.values(), rule=rule, eta=3)
            assert set(alone) <= set(found)
            more += len(found) - len(alone)
            for number in set(found) - set(alone):
                assert leads_all(now, number) or left_behind_of_its_own(now, number)
    assert more > 20


def leads_all(standings: Mapping[int, Standing], number: int) -> bool:
    """Whether none of any group has come to less where it waits, and two to more where it was first compared."""
    one = standings[number]
    last, first = len(one.losses) - 1, one.bracket
    seen = [other for other in standings.values() if other.bracket <= last < len(other.losses)]
    before = [other for other in standings.values() if other.bracket <= first < len(other.losses)]
    worse = [other for other in before if (other.losses[first], other.number) > (one.losses[first], number)]
    return min((other.losses[last], other.number) for other in seen) == (one.losses[last], number) and len(worse) >= 2


def left_behind_of_its_own(standings: Mapping[int, Standing], number: int) -> bool:
    """Whether it is the best of its own where it waits, and was no worst before."""
    one = standings[number]
    kin = [other for other in standings.values() if (other.group, other.bracket) == (one.group, one.bracket)]
    last, first = len(one.losses) - 1, one.bracket
    beside = [(other.losses[last], other.number) for other in kin if len(other.losses) > last]
    before = sorted((other.losses[first], other.number) for other in kin if len(other.losses) > first)
    best = min(beside) == (one.losses[last], number)
    return best and before.index((one.losses[first], number)) <= len(before) - 3


class Counted(float):
    """A loss that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)


def test_a_result_is_compared_with_hardly_more_others_when_there_are_many() -> None:
    chance, ladder, counts = random.Random(0), Ladder(rule="halving", eta=3), []
    losses = [Counted(chance.random()) for _ in range(2000)]
    for number, loss in enumerate(losses):
        ladder.put(Standing(number=number, group="", bracket=0, losses=[loss], resting=True))
        for found in ladder.promoted():
            ladder.put(Standing(number=found, group="", bracket=0, losses=[losses[found]], resting=False))
        counts.append(Counted.compared)
    early, late = counts[499] - counts[249], counts[1999] - counts[1749]
    assert 0 < late < 1.5 * early


def scaled(trials: int, **search: Any) -> SearchSpace:
    known = {"batch_sizes": (64,), "schedules": {"constant": {}}, "learning_rate": RATES, "refine": 0}
    return space(**{**known, "trials": trials, **search})


def come_to(trial: TrialConfig, until: float) -> SegmentResult:
    """A training that has paused at a rung."""
    step = round(until * STEPS)
    curve = [{"step": float(step), "val_loss": bowl(trial)}]
    made = {"from_step": 0, "to_step": step, "total_steps": STEPS, "status": "PAUSED", "curve": curve}
    return SegmentResult(trial=trial.number, **made)  # type: ignore[arg-type]


def one_more(study: Study) -> None:
    """What a race asks of a study for one trial."""
    trial = study.ask()
    assert trial is not None
    until = study.until(trial, 0.0)
    if until < 1.0:
        assert study.reaches(trial, [come_to(trial, until)])
        study.promoted(idle=False)
    else:
        study.keepers(3)
        study.tell(trial, result_of(trial))
        study.keepers(3)


def calls(study: Study, count: int) -> int:
    """Functions called for so many more trials."""
    found = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for _ in range(count):
            one_more(study)
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize(
    "search",
    [
        {},
        {"strategy": "tune", "sampler": "qmc", "promotion": PromotionConfig(rule="none")},
        {"strategy": "tune", "sampler": "random", "promotion": PromotionConfig(rule="none")},
        {"strategy": "tune", "sampler": "qmc", "promotion": HALVING},
    ],
    ids=["compare", "qmc", "random", "asha"],
)
def test_a_trial_takes_as_many_calls_after_hundreds_as_after_some(search: dict[str, Any]) -> None:
    study = study_of(scaled(600, **search))
    for _ in range(100):
        one_more(study)
    early = calls(study, 50)
    for _ in range(400):
        one_more(study)
    assert calls(study, 50) < 1.5 * early


def step(name: str, folder: Path, count: int) -> dict[str, Any]:
    """One step of `large_study`, in a process of its own; what it found."""
    command = [sys.executable, "-m", "large_study", name, str(folder), str(count)]
    path = os.pathsep.join([HERE, str(Path(HERE).parent / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("megabytes") < 1000
    return found


large = pytest.mark.skipif(sys.platform != "linux", reason="only here a process says how much memory it had at most")


@pytest.mark.slow
@large
def test_a_study_of_ten_thousand_trials_goes_on_with_exact_counts_in_little_memory(tmp_path: Path) -> None:
    whole = {"status": {"COMPLETE": 10_000}, "cells": [1250] * 8, "numbers": True, "distinct": 10_000}
    assert step("searched", tmp_path, 10_000) == {"before": 0, "over": False, "asked": 10_000, **whole}
    assert step("searched", tmp_path, 10_000) == {"before": 10_000, "over": True, "asked": 0, **whole}
    more = {"status": {"COMPLETE": 10_008}, "cells": [1251] * 8, "numbers": True, "distinct": 10_008}
    assert step("searched", tmp_path, 10_008) == {"before": 10_000, "over": False, "asked": 8, **more}


@pytest.mark.slow
@large
def test_after_ten_thousand_results_a_sampler_that_learns_still_proposes_something_new(tmp_path: Path) -> None:
    assert step("proposed", tmp_path, 10_000) == {"known": 10_000, "asked": 10_000, "over": True}
