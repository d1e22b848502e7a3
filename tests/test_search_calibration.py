"""The target that a search finds before it begins: from the smallest batch size, on seeds that no trial has."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
from search_parts import space

from search.calibration import SEEDS, calibrate, reference_of, seeded
from search.executors import SerialExecutor
from search.failure import SearchFailed
from search.space import SearchSpace
from search.study import Study


def small(**changes: Any) -> SearchSpace:
    return space(training={"epochs": 3}, batch_sizes=(256, 128), **changes)


def never() -> bool:
    return False


def test_the_target_is_the_median_best_of_the_tuned_smallest_batch_size(tmp_path: Path) -> None:
    found = calibrate(small(), SerialExecutor(), tmp_path / "calibration", never)
    assert found is not None
    assert found.cell == "b128-sgd-constant" and len(found.best) == SEEDS and len(set(found.best)) == SEEDS
    assert found.target == pytest.approx(statistics.median(found.best), rel=1e-3)
    assert found.target == float(f"{found.target:.4g}")
    assert found.target < found.easier_target < 3.0
    assert found.seconds > 0
    assert not list((tmp_path / "calibration" / "seeds").iterdir())


def test_a_metric_that_is_better_when_large_has_its_easier_target_below(tmp_path: Path) -> None:
    made = small(metrics={"target_metric": "val_accuracy", "target_direction": "max", "calibrate": True})
    found = calibrate(made, SerialExecutor(), tmp_path / "calibration", never)
    assert found is not None
    assert 0.0 < found.easier_target < found.target <= 1.0


def test_an_interrupted_calibration_gives_nothing_and_goes_on_later(tmp_path: Path) -> None:
    calls = iter([False] * 3)
    assert calibrate(small(), SerialExecutor(), tmp_path / "calibration", lambda: next(calls, True)) is None
    again = calibrate(small(), SerialExecutor(), tmp_path / "calibration", never)
    whole = calibrate(small(), SerialExecutor(), tmp_path / "whole", never)
    assert again is not None and whole is not None
    assert again.best == whole.best


def test_a_reference_that_comes_to_nothing_ends_the_search_with_the_reason(tmp_path: Path) -> None:
    made = small(trials=1)
    wild = dataclasses.replace(made.search.learning_rate, rule="absolute", low=1e6, high=1e7)
    made = dataclasses.replace(made, search=dataclasses.replace(made.search, learning_rate=wild))
    with pytest.raises(SearchFailed, match="the smallest batch size"):
        calibrate(made, SerialExecutor(), tmp_path / "calibration", never)


def test_its_seeds_are_no_trials_seeds() -> None:
    study = Study(small())
    trials = [trial for _ in range(24) if (trial := study.ask()) is not None]
    own = {trial.train.seed_init for trial in trials}
    fresh = {seeded(trials[0].train, seed).seed_init for seed in range(SEEDS)}
    assert len(fresh) == SEEDS and not fresh & own


def test_the_reference_is_one_cell_without_refinement() -> None:
    (cell,) = reference_of(small(refine=2)).cells()
    assert (cell.batch_size, cell.schedule) == (128, "constant")
