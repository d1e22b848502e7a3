"""Rows read back from a study are flat and complete, and its tables read back equal."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tracking_rows import point, result, segment, trial

from models.segment import SegmentResult
from search.trial import TrialResult
from tracking import rows as study_rows
from tracking.analysis.convergence import FIGURES
from tracking.ledger import Ledger
from tracking.projection import summary
from tracking.tables import columns, write_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with a trial in two segments, one without any, one that runs, and one that diverged."""
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(number, **({"optimizer.momentum": 0.9} if number == 3 else {})) for number in range(4)])
        first, last = segment(0, 0, 40, status="PAUSED"), replace(segment(0, 40, 60), fit={"val_loss": 0.05})
        ledger.record(first.to_json())
        ledger.record(last.to_json(), result([first, last]))
        ledger.finish(TrialResult(number=1, status="TIMEOUT", reason="deadline").to_json())
        ledger.record(segment(2, 0, 20, status="PAUSED").to_json())
        lost = segment(3, 0, 20, status="DIVERGED", curve=[point(20, val_loss=math.inf, extra=1 / 3)])
        ledger.record(lost.to_json(), result([lost]))
    return tmp_path


def test_a_trial_is_one_flat_row(folder: Path) -> None:
    row = study_rows.trials(folder)[0]
    assert not [value for value in row.values() if isinstance(value, dict | list)]
    expected = {
        "number": 0,
        "cell": "b32-sgd-cosine",
        "phase": "explore",
        "batch_size": 32,
        "learning_rate": 0.1,
        "status": "COMPLETE",
        "reason": None,
        "value": 5 / 61,
        "steps": 60,
        "examples": 1920,
        "epochs": 3.0,
        "seconds": 6.0,
        "best_val_loss": 5 / 61,
        "best_train_loss": 4 / 61,
        "best_step": 60,
        "final_val_accuracy": 0.6,
        "steps_to_target": 20,
        "examples_to_target": 640,
        "epochs_to_target": 1.0,
        "seconds_to_target": 2.0,
        "hit_after": 0.0,
        "sustained_steps_to_target": 60.0,
        "interpolated_steps_to_target": 20.0,
        "censoring": None,
        "last_mean": pytest.approx((5 / 21 + 5 / 41 + 5 / 61) / 3),
        "fit_val_loss": 0.05,
        "gap_val_loss": 5 / 61 - 0.05,
        "gap_reason": None,
        "worker": "worker-1",
    }
    assert expected.items() <= row.items()
    assert row["ended"] > row["started"]


def test_what_is_not_known_is_none(folder: Path) -> None:
    _, ended, running, diverged = study_rows.trials(folder)
    assert (ended["status"], ended["reason"], ended["value"]) == ("TIMEOUT", "deadline", None)
    assert (running["status"], running["steps"], running["started"]) == ("RUNNING", None, None)
    assert (diverged["status"], diverged["steps_to_target"], diverged["hit_after"]) == ("DIVERGED", None, None)
    assert (diverged["censoring"], running["censoring"]) == ("diverged", None)
    assert all(row[name] is None for row in (ended, running) for name in FIGURES)
    assert diverged["optimizer.momentum"] == 0.9


def test_a_trial_that_ends_in_a_pause_was_pruned_there() -> None:
    pruned = result([segment(0, 0, 40, status="PAUSED", curve=[point(20, val_loss=0.9), point(40, val_loss=0.7)])])
    assert (pruned["status"], pruned["censoring"], pruned["steps"]) == ("PRUNED", "pruned", 40)
    assert (pruned["value"], pruned["fit"], pruned["gap"]) == (0.7, {}, {})


def test_a_ledger_from_before_there_were_figures_and_gaps_is_read(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.ask([trial(0)])
        done = segment(0)
        old = result([done])
        for name in ("censoring", "figures", "fit", "gap"):
            del old[name]
        ledger.record({k: v for k, v in done.to_json().items() if k != "fit"}, old)
        assert SegmentResult.from_json(ledger.segments(0)[0]) == done
        assert TrialResult.from_json(ledger.trial(0)["result"]).gap == {}
        assert summary(ledger.trial(0)["result"])
    (row,) = study_rows.trials(tmp_path)
    assert row["steps_to_target"] == 20 and {row[name] for name in ("censoring", *FIGURES)} == {None}


def test_what_is_expected_stands_beside_what_was_measured(tmp_path: Path) -> None:
    assert not any("expected" in row for row in study_rows.with_expected([{"number": 0}], {}))
    rows = study_rows.with_expected([{"number": 0}, {"number": 1}], {"1": [0.25, 0.5]})
    assert [(row["expected"], row["expected_bound"]) for row in rows] == [(None, None), (0.25, 0.5)]


def test_a_curve_counts_from_the_trials_start_across_segments(folder: Path) -> None:
    rows = study_rows.curves(folder)
    assert [(row["trial"], row["step"], row["examples"], row["seconds"]) for row in rows] == [
        (0, 20, 640, 2.0),
        (0, 40, 1280, 4.0),
        (0, 60, 1920, 6.0),
        (2, 20, 640, 2.0),
        (3, 20, 640, 2.0),
    ]
    assert (rows[-1]["val_loss"], rows[-1]["extra"]) == (math.inf, 1 / 3)


def test_tables_hold_every_value_to_the_last_bit(folder: Path) -> None:
    trials, curves = write_tables(folder)
    assert sorted(path.name for path in folder.glob("*.csv")) == ["curves.csv", "trials.csv"]
    assert not list(folder.glob(".*"))
    for path, rows in ((trials, study_rows.trials(folder)), (curves, study_rows.curves(folder))):
        with path.open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        assert len(read) == len(rows)
        for texts, row in zip(read, rows, strict=True):
            for name, text in texts.items():
                value = row.get(name)
                assert text == ("" if value is None else str(value))
                assert not isinstance(value, float) or float(text) == value


def test_tables_of_a_study_without_results_have_their_columns(tmp_path: Path) -> None:
    Ledger.open(tmp_path, create=True).close()
    trials, curves = write_tables(tmp_path)
    assert trials.read_text().startswith("number,cell,index,phase,status,reason,value,steps")
    assert curves.read_text() == "trial,step,examples,epoch,seconds,learning_rate\n"


def test_columns_do_not_depend_on_which_trial_came_first() -> None:
    rows = [{"number": 0, "b": 1}, {"number": 1, "a": 1}]
    assert columns(rows, ["number"]) == columns(rows[::-1], ["number"]) == ["number", "a", "b"]


def test_a_study_that_does_not_exist_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Run `regatta search` first"):
        study_rows.trials(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
