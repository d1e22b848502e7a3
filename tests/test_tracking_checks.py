"""What misleads in a study is found, in numbers and with the remedy; a sound study is left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tracking.analysis.cell_checks import Check
from tracking.analysis.checks import checks
from tracking.analysis.convergence import Convergence, Hit

METRICS: Mapping[str, Any] = {"objective": "val_loss", "direction": "min", "target": 0.3}
BOUNDS = (0.001, 1.0)
EVALUATIONS = 40


class Study:
    """A sound study of three batch sizes, in which a test changes what it is about."""

    def __init__(self, *, cells: int = 3, trials: int = 12) -> None:
        self.metrics = dict(METRICS)
        self.names = [f"b{2**place}-sgd-cosine" for place in range(cells)]
        rates = np.geomspace(BOUNDS[0] * 1.05, BOUNDS[1] / 1.05, trials).tolist()
        self.rows = [self._row(name, index, rate) for name in self.names for index, rate in enumerate(rates)]
        for number, row in enumerate(self.rows):
            row["number"] = number
        self.hits = {row["number"]: 30.0 + row["index"] for row in self.rows if row["value"] < 0.3}
        self.places: dict[int, float] = {}

    @staticmethod
    def _row(name: str, index: int, rate: float) -> dict[str, Any]:
        value = 0.1 + 0.05 * math.log(rate / 0.03) ** 2
        axes = {"cell": name, "index": index, "phase": "explore", "schedule": "cosine", "learning_rate": rate}
        return {**axes, "status": "COMPLETE", "value": value, "time_mode": "measured"}

    def of(self, name: str) -> list[dict[str, Any]]:
        """The rows of a cell."""
        return [row for row in self.rows if row["cell"] == name]

    def best(self, name: str) -> dict[str, Any]:
        """The row of a cell with the least loss."""
        return min(self.of(name), key=lambda row: float(row["value"]))

    def diverge(self, rows: Sequence[dict[str, Any]]) -> None:
        """Let these trials end without a value."""
        for row in rows:
            row.update(status="DIVERGED", value=None)

    def record(self, row: Mapping[str, Any]) -> Convergence:
        """The convergence of a row, as its hit and place say."""
        step = self.hits.get(row["number"])
        hit = None if step is None else self._hit(step)
        return Convergence(
            number=row["number"],
            status=row["status"],
            hit=hit,
            censored_at=EVALUATIONS,
            censoring="" if hit else "budget",
            best_progress=self.places.get(row["number"], 0.9),
        )

    @staticmethod
    def _hit(step: float) -> Hit:
        ends = {"after": step - 1, "sustained": step, "interpolated": step}
        return Hit(step=step, examples=step, seconds=step, value=0.3, **ends)

    def check(self, strategy: str = "compare") -> list[Check]:
        """All that is found."""
        curves = {row["number"]: [{"step": step} for step in range(1, EVALUATIONS + 1)] for row in self.rows}
        records = {row["number"]: self.record(row) for row in self.rows}
        bounds = dict.fromkeys(self.names, BOUNDS)
        return checks(self.rows, curves, records, bounds, metrics=self.metrics, strategy=strategy)

    def only(self) -> Check:
        """The one thing that is found."""
        found = self.check()
        assert len(found) == 1, [check.sentence for check in found]
        return found[0]


def test_a_sound_study_has_nothing_to_beware_of() -> None:
    assert Study().check() == []


def test_a_search_for_the_best_alone_is_told_once_that_its_cells_compare_nothing() -> None:
    study = Study()
    study.rows = [row for row in study.rows if row["cell"] != "b2-sgd-cosine" or row["index"] == 0]
    for row in study.of("b2-sgd-cosine"):
        row["value"] = 0.01
    aimed, edge = study.check("tune")
    assert (aimed.name, aimed.cell) == ("unequal", None) and "1 to 12 to a cell" in aimed.sentence
    assert "`search.strategy: compare`" in aimed.sentence
    assert (edge.name, edge.cell) == ("edge", "b2-sgd-cosine")


def test_a_best_rate_at_the_end_of_its_range_is_told() -> None:
    study = Study()
    for row in study.of("b2-sgd-cosine"):
        row["value"] = 0.01 / row["learning_rate"]
    found = study.only()
    assert (found.name, found.cell, found.severity) == ("edge", "b2-sgd-cosine", "warning")
    assert "b2-sgd-cosine, 0.952, lies at the upper end of its range (1)" in found.sentence
    assert "`search.learning_rate.factor`" in found.sentence


def test_where_large_is_good_the_best_is_the_largest() -> None:
    study = Study()
    study.metrics["direction"] = "max"
    # The largest losses are at both ends of the range.
    assert {check.name for check in study.check()} == {"edge"}
    assert len(study.check()) == 3


def test_a_best_rate_below_one_that_diverged_is_a_note() -> None:
    study = Study()
    best = study.best("b1-sgd-cosine")
    study.diverge([row for row in study.of("b1-sgd-cosine") if row["learning_rate"] > best["learning_rate"]])
    found = study.only()
    assert (found.name, found.cell, found.severity) == ("edge", "b1-sgd-cosine", "note")
    assert "lies right below one that diverged" in found.sentence


def test_a_range_in_which_most_diverges_is_told() -> None:
    study = Study()
    rows = study.of("b4-sgd-cosine")
    study.diverge([row for row in rows if row["learning_rate"] > 0.015])
    found = {check.name: check for check in study.check()}
    assert "58% of the 12 trials of b4-sgd-cosine diverged" in found["infeasible"].sentence
    assert "`search.learning_rate.centre`" in found["infeasible"].sentence


def test_trials_out_of_memory_are_told() -> None:
    study = Study()
    for row in study.of("b4-sgd-cosine")[-3:]:
        row.update(status="OOM", value=None)
        study.hits.pop(row["number"], None)
    found = study.only()
    assert (found.name, found.severity) == ("memory", "note")
    assert "25% of the 12 trials of b4-sgd-cosine ran out of memory" in found.sentence


@pytest.mark.parametrize("kept", [1, 2])
def test_fewer_than_three_hits_are_luck(kept: int) -> None:
    study = Study()
    for row in [row for row in study.of("b1-sgd-cosine") if row["number"] in study.hits][kept:]:
        del study.hits[row["number"]]
    found = study.only()
    assert (found.name, found.cell) == ("hits", "b1-sgd-cosine")
    assert found.sentence.startswith(f"{kept} of the 12 trials of b1-sgd-cosine reach the target")


def test_a_trial_that_diverged_after_its_hit_did_not_arrive() -> None:
    study = Study()
    arrived = [row for row in study.of("b1-sgd-cosine") if row["number"] in study.hits]
    for row in arrived[:-2]:
        row["status"] = "DIVERGED"
    assert "hits" in {check.name for check in study.check()}


def test_a_hit_after_few_evaluations_is_coarse() -> None:
    study = Study()
    study.hits = {number: 8.0 if number >= 24 else step for number, step in study.hits.items()}
    found = study.only()
    assert (found.name, found.cell) == ("resolution", None)
    assert "1 of 3 cells reach the target after fewer than 20 evaluations (the fewest: 7, b4" in found.sentence
    assert "`training.evaluations`" in found.sentence


@pytest.mark.parametrize(
    ("hits", "words"),
    [
        ({}, "None of the 3 cells reaches the target"),
        ({0: 30.0, 1: 30.0, 2: 30.0}, "Only 1 of 3 cells, b1-sgd-cosine, reaches the target"),
        (dict.fromkeys(range(36), 4.0), "Every cell reaches the target before its evaluation number 5"),
    ],
)
def test_a_target_that_tells_nothing_apart_is_told(hits: dict[int, float], words: str) -> None:
    study = Study()
    study.hits = hits
    assert [check.sentence for check in study.check() if check.name == "target"][0].startswith(words)


def test_the_fifth_evaluation_is_not_too_easy() -> None:
    study = Study()
    study.hits = dict.fromkeys(range(36), 5.0)
    assert {check.name for check in study.check()} == {"resolution"}


def test_without_a_target_nothing_is_said_of_hits() -> None:
    study = Study()
    study.metrics["target"], study.hits = None, {}
    assert study.check() == []


def test_cells_with_fewer_trials_than_others_are_told() -> None:
    study = Study(trials=14)
    study.rows = [row for row in study.rows if row["cell"] != "b4-sgd-cosine" or row["index"] not in (0, 13)]
    found = study.only()
    assert found.name == "unequal"
    assert "between 12 (b4-sgd-cosine) and 14 (b1-sgd-cosine) quasi-random trials" in found.sentence


def test_trials_beyond_an_edge_and_around_the_best_unbalance_nothing() -> None:
    study = Study()
    extra = {**study.best("b1-sgd-cosine"), "phase": "refine", "number": 99}
    study.rows.append(extra)
    assert study.check() == []


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "TIMEOUT"])
def test_a_trial_that_says_nothing_does_not_count(status: str) -> None:
    study = Study()
    study.of("b1-sgd-cosine")[0].update(status=status, value=None)
    assert [check.name for check in study.check()] == ["unequal", "trials"]


def test_too_few_trials_are_told_once() -> None:
    found = Study(trials=11).only()
    assert (found.name, found.cell) == ("trials", None)
    assert "3 of 3 cells have fewer than 12 quasi-random trials (the fewest: 11)" in found.sentence


def test_a_rate_that_was_not_searched_is_told() -> None:
    study = Study()
    for row in study.of("b2-sgd-cosine"):
        row["learning_rate"] = 0.03
    found = study.only()
    assert found.name == "tuning" and "in b2-sgd-cosine, which says nothing" in found.sentence


def test_a_module_with_its_own_optimizer_has_no_rate_to_tune() -> None:
    study = Study()
    for row in study.rows:
        row["learning_rate"] = None
    assert study.check() == []


@pytest.mark.parametrize(
    ("place", "schedule", "severity", "words"),
    [
        (0.05, "cosine", "warning", "best within the first 10% of its training"),
        (1.0, "constant", "note", "still improves at its last evaluation"),
        (1.0, "cosine", None, ""),
        (0.5, "constant", None, ""),
    ],
)
def test_where_the_best_evaluation_lies_is_told(place: float, schedule: str, severity: str | None, words: str) -> None:
    study = Study()
    best = study.best("b2-sgd-cosine")
    best["schedule"], study.places[best["number"]] = schedule, place
    found = study.check()
    assert [check.severity for check in found] == ([severity] if severity else [])
    assert all(check.name == "progress" and words in check.sentence for check in found)


def test_seconds_spent_side_by_side_are_told() -> None:
    study = Study()
    study.rows[0]["time_mode"] = study.rows[1]["time_mode"] = "array"
    assert "The seconds of 2 of 36 trials" in study.only().sentence
    study.rows[0]["time_mode"] = study.rows[1]["time_mode"] = "steps x step time alone"
    found = study.only()
    assert (found.name, found.severity) == ("timing", "note")
    assert "34 as measured and 2 as steps x step time alone" in found.sentence


def test_a_study_that_has_only_begun_is_checked_too() -> None:
    assert checks([], {}, {}, {}, metrics=METRICS) == []
    study = Study()
    for row in study.rows:
        row.update(status="RUNNING", value=None)
    study.hits = {}
    assert {check.name for check in study.check()} == {"trials"}


def test_every_check_is_one_sentence() -> None:
    study = Study(trials=5)
    study.hits = {0: 3.0}
    study.diverge(study.rows[6:9])
    study.rows[12]["status"] = "OOM"
    study.rows[13]["time_mode"] = "array"
    found = study.check()
    assert len({check.name for check in found}) >= 5
    for check in found:
        assert check.sentence.endswith(".") and "\n" not in check.sentence and ". " not in check.sentence
