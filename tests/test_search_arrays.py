"""A race whose trials train side by side: the same results, the same ledger, the same ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from search_parts import changed, space

from models.probes import array_gain
from models.segment import Segment, SegmentResult
from search.audit import audit, summary
from search.executors import SerialExecutor
from search.gains import Gains, measure
from search.race import Race
from search.space import SearchSpace
from search.study import Study
from search.work import failed
from tracking.ledger import Ledger

WIDE = Gains(widths={(64, "sgd"): 8, (256, "sgd"): 8}, step_seconds={(64, "sgd"): 0.001, (256, "sgd"): 0.002})


def raced(
    folder: Path, made: SearchSpace, *, gains: Gains, executor: SerialExecutor | None = None
) -> dict[int, dict[str, Any]]:
    """Race a study to its end; gives the ledger's trials by number."""
    folder.mkdir()
    with Ledger.open(folder, create=True) as ledger:
        race = Race(Study(made), ledger, str(folder / "checkpoints"), gains=gains)
        race.run(executor or SerialExecutor(), stopping=lambda: False, watch=lambda _: None)
        return {row["number"]: row for row in ledger.trials()}


def by_place(rows: dict[int, dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["cell"], row["index"]): row["result"] for row in rows.values() if row["result"]}


def test_trials_side_by_side_come_to_what_they_come_to_alone(tmp_path: Path) -> None:
    made = space(training={"epochs": 2, "precision": "64-true"}, trials=4, refine=0)
    array = by_place(raced(tmp_path / "array", made, gains=WIDE))
    alone = by_place(raced(tmp_path / "alone", made, gains=Gains()))
    assert array.keys() == alone.keys() and len(array) == 16
    assert {result["tags"]["tier"] for result in array.values()} == {"array"}
    assert {result["tags"]["tier"] for result in alone.values()} == {"solo"}
    for place, result in array.items():
        assert result["value"] == pytest.approx(alone[place]["value"], rel=1e-9)
        assert result["steps"] == alone[place]["steps"]


def test_an_array_that_pauses_goes_on_packed_again_to_the_same_end(tmp_path: Path) -> None:
    made = space(
        training={"epochs": 2, "precision": "64-true"}, batch_sizes=(64,), trials=4, refine=1, segment_seconds=0.002
    )
    cut = by_place(raced(tmp_path / "cut", made, gains=WIDE))
    whole = by_place(raced(tmp_path / "whole", changed(made, segment_seconds=1000.0), gains=WIDE))
    with Ledger.open(tmp_path / "cut", create=False) as ledger:
        assert all(len(ledger.segments(number)) > 1 for number in range(8))
    assert cut.keys() == whole.keys() and len(cut) == 10
    for place, result in cut.items():
        assert result["tags"]["tier"] == "array"
        assert result["value"] == pytest.approx(whole[place]["value"], rel=1e-6)


class LosesArrays(SerialExecutor):
    """Loses every task of more than one segment, as if its worker had died."""

    def completed(self, timeout: float) -> list[SegmentResult]:
        segments: Sequence[Segment] = self._waiting[0] if self._waiting else ()
        if len(segments) <= 1:
            return super().completed(timeout)
        self._waiting.popleft()
        return [failed(segment, "lost_worker: gone") for segment in segments]


def test_the_trials_of_a_lost_array_are_tried_again_alone(tmp_path: Path) -> None:
    made = space(batch_sizes=(64,), trials=2, refine=0)
    rows = raced(tmp_path / "study", made, gains=WIDE, executor=LosesArrays())
    assert [row["status"] for row in rows.values()] == ["COMPLETE"] * 4
    assert {row["result"]["tags"]["tier"] for row in rows.values()} == {"solo"}


def test_an_audit_trains_its_share_again_and_leaves_the_ledger_alone(tmp_path: Path) -> None:
    made = space(training={"precision": "64-true"}, trials=4, refine=0, audit=0.25)
    folder = tmp_path / "study"
    folder.mkdir()
    with Ledger.open(folder, create=True) as ledger:
        race = Race(Study(made), ledger, str(folder / "checkpoints"), gains=WIDE)
        race.run(SerialExecutor(), stopping=lambda: False, watch=lambda _: None)
        before = ledger.trials()
        found = audit(race.study, SerialExecutor(), folder=str(folder / "audit"))
        assert ledger.trials() == before
    assert len(found) == 4 and all(difference.relative < 1e-9 for difference in found)
    assert summary(found, "val_loss").startswith("audit: 4 trials trained again alone; val_loss at the end differs by")
    assert not list((folder / "audit").iterdir())


def test_the_probe_measures_what_fuses_and_tells_why_the_rest_does_not(tmp_path: Path) -> None:
    study = Study(space(batch_sizes=(64,)))
    config = study.space.train_config(next(iter(study.cells.values())).cell, {"learning_rate": 0.1}, index=0)
    gain = array_gain({"config": config.to_json(), "most": 16})
    assert gain["reason"] is None and gain["width"] > 1 and gain["steps"] == 23
    assert gain["step_seconds"] > 0 and gain["share_seconds"] > 0 and gain["admission_seconds"] > 0
    refused = array_gain({"config": {**config.to_json(), "precision": "bf16-mixed"}, "most": 16})
    assert refused["reason"] == "its precision is bf16-mixed" and refused["step_seconds"] > 0


def test_the_probe_decides_before_a_race(tmp_path: Path) -> None:
    gains = measure(SerialExecutor(), Study(space(batch_sizes=(64,), arrays="require")))
    assert gains.width((64, "sgd")) > 1 and gains.reasons == {}
