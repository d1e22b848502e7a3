"""A study whose laws are known comes back with them, and what it lacks is said rather than made up."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from study_rows import E_MIN, EXAMPLES, OVERHEAD, PER_EXAMPLE, S_MIN, SIZES, study
from tracking_rows import study as ledger_study

from tracking.analysis.data import StudyData, load, training_examples
from tracking.analysis.study import analyse
from tracking.ledger import Ledger


@pytest.fixture(scope="module")
def data() -> StudyData:
    return study()


def test_the_laws_of_a_study_are_found(data: StudyData) -> None:
    overall = analyse(data).overall
    assert overall is not None and overall.hyperbola is not None and overall.hyperbola.reason is None
    assert overall.hyperbola.critical == pytest.approx(E_MIN / S_MIN, rel=0.15)
    assert overall.step_time is not None
    assert overall.step_time.half_batch == pytest.approx(OVERHEAD / PER_EXAMPLE, rel=1e-3)
    assert overall.time_optimal is not None
    assert overall.time_optimal.batch_size == pytest.approx(math.sqrt(128 * 200), rel=0.1)


def test_each_schedule_has_laws_of_its_own(data: StudyData) -> None:
    analysis = analyse(data)
    assert [method.name for method in analysis.methods] == ["constant", "cosine"]
    for method in analysis.methods:
        assert method.law is not None and method.law.exponent == pytest.approx(1.0, abs=0.05)
        assert [cell.batch_size for cell in method.cells] == list(SIZES)


def test_the_best_of_all_schedules_takes_the_fastest_cell_of_each_size(data: StudyData) -> None:
    overall = analyse(data).overall
    assert overall is not None
    assert {cell.schedule for cell in overall.cells} == {"cosine"}


def test_cells_whose_rate_was_not_searched_are_not_fitted(data: StudyData) -> None:
    fixed = dataclasses.replace(data, trials=[row for row in data.trials if row["index"] == 4])
    overall = analyse(fixed).overall
    assert overall is not None and overall.hyperbola is not None
    assert overall.hyperbola.reason is not None and overall.hyperbola.points == 0


def test_seconds_to_target_are_steps_times_the_step_time_alone(data: StudyData) -> None:
    measured = dataclasses.replace(data, probes={"steps": {"16-sgd": 0.5}})
    first = analyse(measured).cells[0]
    assert (first.batch_size, first.step_seconds, first.seconds) == (16, 0.5, 0.5 * first.steps)
    assert analyse(data).cells[0].step_seconds == pytest.approx(OVERHEAD + 16 * PER_EXAMPLE)


def test_the_gap_of_a_trial_is_that_of_its_objective(data: StudyData) -> None:
    more = {4: {"gap_val_loss": 0.01, "gap_val_accuracy": -0.2}, 5: {"gap_val_accuracy": -0.2}}
    rows = [row | more.get(row["number"], {}) for row in data.trials]
    cells = analyse(dataclasses.replace(data, trials=rows)).cells
    assert {r.number: r.gap for cell in cells for r in cell.records if r.gap is not None} == {4: 0.01}


def test_the_easier_target_has_a_critical_batch_size_of_its_own() -> None:
    both = analyse(study(easier_target=0.7))
    assert both.easier is not None and both.easier.hyperbola is not None and both.overall is not None
    assert both.easier.hyperbola.critical == pytest.approx(E_MIN / S_MIN, rel=0.15)
    for near, far in zip(both.easier.cells, both.overall.cells, strict=True):
        assert near.batch_size == far.batch_size and near.steps < far.steps
    assert analyse(study()).easier is None and analyse(study(target=None, easier_target=None)).easier is None


def test_regimes_go_from_perfect_scaling_to_none(data: StudyData) -> None:
    overall = analyse(data).overall
    assert overall is not None
    ways = overall.regimes
    assert [(way.small, way.large) for way in ways] == list(itertools.pairwise(SIZES))
    ratios = [way.ratio for way in ways]
    assert ratios == pytest.approx(
        [(S_MIN + E_MIN / a) / (S_MIN + E_MIN / b) for a, b in itertools.pairwise(SIZES)], rel=0.1
    )


FITS, FULL = {"batch_size": 64, "fits": True}, {"batch_size": 128, "fits": False}


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        (None, None),
        ({"largest": 64, "tried": [FITS, FULL]}, 64),
        ({"largest": 64, "tried": [FITS], "reason": "the training set has 100 examples"}, None),
        ({"largest": None, "tried": [FULL]}, None),
    ],
)
def test_memory_limits_the_batch_only_where_a_larger_one_did_not_fit(
    data: StudyData, found: dict[str, object] | None, limit: int | None
) -> None:
    probed = dataclasses.replace(data, probes={"largest": found})
    assert probed.memory_limit == limit and probed.largest == (limit or EXAMPLES)
    overall = analyse(probed).overall
    assert overall is not None and overall.time_optimal is not None
    assert overall.time_optimal.clipped == (limit is not None)
    assert limit is None or overall.time_optimal.batch_size == limit


def test_a_diverged_trial_never_wins(data: StudyData) -> None:
    rows = [row | {"value": -1.0, "status": "DIVERGED"} if row["index"] == 4 else row for row in data.trials]
    best = analyse(dataclasses.replace(data, trials=rows)).ranked[0].best
    assert best is not None and best["status"] == "COMPLETE"


def test_more_is_better_where_the_recipe_says_so() -> None:
    analysis = analyse(study(direction="max", target=-0.5))
    values = [cell.best["value"] for cell in analysis.ranked if cell.best]
    assert values == sorted(values, reverse=True)
    assert all(math.isfinite(cell.steps) for cell in analysis.cells)


def test_runs_on_fresh_seeds_are_compared_and_take_no_part_in_the_search(data: StudyData) -> None:
    good, bad = data.trials[4], data.trials[0]
    runs = [
        row | {"number": 1000 + 10 * index + seed, "phase": "confirm", "value": value + 0.001 * (seed % 3)}
        for index, (row, value) in enumerate(((good, 0.1), (bad, 0.2)))
        for seed in range(6)
    ]
    analysis = analyse(dataclasses.replace(data, trials=[*data.trials, *runs]))
    assert [verdict.outcome for verdict in analysis.verdicts] == ["better"]
    assert sum(len(cell.trials) for cell in analysis.cells) == len(data.trials)
    assert not analyse(data).verdicts


def test_the_training_set_is_counted_from_the_rows(data: StudyData) -> None:
    assert training_examples(data.trials) == EXAMPLES
    assert training_examples([]) is None


def test_a_study_is_read_from_its_folder(tmp_path: Path) -> None:
    with ledger_study(tmp_path, 3) as ledger:
        ledger.set_meta("study", "read")
        ledger.set_meta("metrics", {"objective": "val_loss", "direction": "min", "target": 0.5})
        ledger.set_meta("bounds", {"b32-sgd-cosine": [0.001, 1.0]})
        ledger.set_meta("calibration", {"target": 0.5, "cell": "b32-sgd-cosine", "best": [0.5], "seconds": 1.0})
    data = load(tmp_path)
    assert (data.name, data.target, len(data.trials), len(data.curves[0])) == ("read", 0.5, 3, 3)
    assert analyse(data).cells[0].bounds == (0.001, 1.0)
    assert data.calibration is not None and data.calibration["seconds"] == 1.0


def test_a_study_without_any_trial_is_analysed(tmp_path: Path) -> None:
    Ledger.open(tmp_path, create=True).close()
    analysis = analyse(load(tmp_path))
    assert (analysis.cells, analysis.overall, analysis.ranked) == ([], None, [])
