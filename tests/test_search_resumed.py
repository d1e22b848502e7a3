"""A study rebuilt from its ledger goes on as one that was never interrupted, whoever proposes in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from search_parts import result_of, space

from models.segment import SegmentResult
from search.config import LearningRateConfig, PromotionConfig
from search.executors import SerialExecutor
from search.race import Race
from search.resuming import restore
from search.trial import TrialConfig, TrialResult, recorded
from search.tuning import TuneStudy
from tracking.ledger import Ledger

RATES = LearningRateConfig(rule="linear", centre=0.1, reference_batch_size=64, factor=30.0, highest=10.0)
TRIALS = 48
GENERATIONS = {"nsga2": {"population_size": 8}, "cmaes": {"popsize": 6}}
"""Small, so that several pass."""


def tuned(**search: Any) -> TuneStudy:
    schedules = {"constant": {}, "cosine": {"final": {"low": 0.0, "high": 0.2}}}
    known = {"strategy": "tune", "batch_sizes": (16, 32, 64), "learning_rate": RATES, "schedules": schedules}
    return TuneStudy(space(**{**known, "trials": TRIALS, **search}))


def outcome(trial: TrialConfig) -> TrialResult:
    """Every seventh diverges."""
    if trial.number % 7 == 6:
        return result_of(trial, status="DIVERGED", value=None)
    return result_of(trial, math.log(trial.params["learning_rate"]) ** 2 + trial.params["batch_size"] / 64)


def reopened(study: TuneStudy, fresh: TuneStudy) -> TuneStudy:
    """The study as the next call has it: rebuilt from the text in the ledger."""
    found = {result.number: result for cell in study.cells.values() for result in cell.results.values()}
    rows = [
        {"config": trial.to_json(), "result": found[trial.number].to_json() if trial.number in found else None}
        for trial in study.trials()
    ]
    fresh.restore(recorded(json.loads(json.dumps(rows))))
    return fresh


def asked(search: dict[str, Any], *, again_after: frozenset[int] = frozenset()) -> list[str]:
    """All proposals, two trials always under way; the study is rebuilt after so many have ended."""
    study, ended = tuned(**search), 0
    under_way: list[TrialConfig] = []
    while True:
        while len(under_way) < 2 and (trial := study.ask()) is not None:
            under_way.append(trial)
        if not under_way:
            return [repr((trial.number, trial.point, trial.train)) for trial in study.trials()]
        trial = under_way.pop(0)
        study.tell(trial, outcome(trial))
        ended += 1
        if ended in again_after:
            study = reopened(study, tuned(**search))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2", "qmc", "random", "grid"])
def test_a_study_restored_half_way_proposes_what_it_would_have(sampler: str) -> None:
    search = {"sampler": sampler, "sampler_args": GENERATIONS.get(sampler, {})}
    assert asked(search) == asked(search, again_after=frozenset({3, 20, 27, 41}))


@pytest.mark.slow
def test_so_does_one_with_gaussian_processes() -> None:
    search = {"sampler": "gp", "trials": 20}
    assert asked(search) == asked(search, again_after=frozenset({17, 19}))


@pytest.mark.parametrize("sampler", ["cmaes", "nsga2"])
def test_generations_are_in_the_ledger(sampler: str) -> None:
    study = tuned(sampler=sampler, sampler_args=GENERATIONS[sampler])
    while (trial := study.ask()) is not None:
        study.tell(trial, outcome(trial))
    restored = reopened(study, tuned(sampler=sampler, sampler_args=GENERATIONS[sampler]))
    notes = [value for trial in restored.trials() for name, value in trial.noted.items() if "generation" in name]
    assert len(set(map(str, notes))) >= 3


def test_a_trial_that_has_trained_on_from_a_rung_does_not_wait_there_again() -> None:
    def segment(start: int, end: int) -> SegmentResult:
        curve = [{"step": float(step), "val_loss": 1.0} for step in range(start + 10, end + 1, 10)]
        return SegmentResult(trial=0, from_step=start, to_step=end, total_steps=90, status="PAUSED", curve=curve)

    study = tuned(sampler="qmc", promotion=PromotionConfig(eta=3, rungs=2))
    trial = study.ask()
    assert trial is not None
    assert study.reaches(trial, [segment(0, 10)])
    study = reopened(study, tuned(sampler="qmc", promotion=PromotionConfig(eta=3, rungs=2)))
    restored = study.trials()[0]
    assert not study.reaches(restored, [segment(0, 10), segment(10, 20)])
    assert study.reaches(restored, [segment(0, 10), segment(10, 20), segment(20, 30)])


def raced(folder: Path, *, trials: int) -> dict[int, str]:
    """Race a search of small trainings to its end, or on from where its ledger has it; gives how each trial ended."""
    made = space(strategy="tune", sampler="qmc", batch_sizes=(64,), trials=trials, training={"epochs": 9})
    with Ledger.open(folder, create=True) as ledger:
        race = Race(TuneStudy(made), ledger, str(folder / "checkpoints"))
        restore(race)
        race.run(SerialExecutor(), stopping=lambda: False, watch=lambda _: None)
        return {row["number"]: row["status"] for row in ledger.trials()}


def test_trials_that_were_given_up_stay_so_when_their_search_goes_on_or_is_given_more(tmp_path: Path) -> None:
    first = raced(tmp_path, trials=9)
    assert set(first.values()) >= {"PRUNED", "COMPLETE"}
    assert raced(tmp_path, trials=9) == first
    more = raced(tmp_path, trials=12)
    assert len(more) == 12 and {number: more[number] for number in first} == first
    assert set(more.values()) <= {"PRUNED", "COMPLETE", "DIVERGED"}
