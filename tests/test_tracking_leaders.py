"""MLflow's table of trials begins with those of which most is expected."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tracking_rows import study

from tracking.leaders import FIRST, LEADERS, METRICS, note_leaders
from tracking.memory_runs import MemoryWriter
from tracking.runs import MetricPoint, WriteRefused
from tracking.sending import push
from tracking.view import experiment_tags


def told(writer: MemoryWriter) -> dict[int, list[float]]:
    """What each trial's run says now of what is expected there: the value and the bound."""
    found = {}
    for run in writer.runs.values():
        points = {key: [p for p in run.points.values() if p.key == key] for key in METRICS}
        if "trial" in run.tags and all(points.values()):
            latest = [max(points[key], key=lambda point: point.timestamp_ms).value for key in METRICS]
            found[int(run.tags["trial"])] = latest
    return found


def test_runs_say_what_is_expected_of_their_trial_and_say_it_anew_when_that_has_changed(tmp_path: Path) -> None:
    writer = MemoryWriter()
    with study(tmp_path, 3) as ledger:
        note_leaders(ledger, {}, maximize=False)
        push(ledger, writer)
        assert told(writer) == {}
        for expected in ({0: (0.5, 0.6), 2: (0.4, 0.7)}, {0: (0.3, 0.4), 1: (0.2, 0.3), 2: (0.1, 0.2)}):
            time.sleep(0.002)  # Of two values of a metric at one step, MLflow has the later one, by the millisecond.
            note_leaders(ledger, expected, maximize=False)
            push(ledger, writer)
            assert told(writer) == {number: [*values] for number, values in expected.items()}
        calls = writer.calls
        push(ledger, writer)
        assert writer.calls <= calls + 2, "all has been sent"


class Deleted(MemoryWriter):
    """Somebody has deleted the run of trial 1."""

    def log(
        self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], points: Sequence[MetricPoint]
    ) -> None:
        if self.runs[run_id].tags.get("trial") == "1" and {point.key for point in points} == set(METRICS):
            raise WriteRefused("the run is deleted")
        super().log(run_id, params=params, tags=tags, points=points)


def test_a_run_that_is_gone_keeps_nothing_from_the_others_nor_from_the_search(tmp_path: Path) -> None:
    writer = Deleted()
    with study(tmp_path, 3) as ledger:
        note_leaders(ledger, dict.fromkeys(range(3), (0.1, 0.2)), maximize=False)
        ledger.set_meta("status", "FINISHED")
        assert push(ledger, writer) == {1: "the run is deleted"}
    assert told(writer) == {0: [0.1, 0.2], 2: [0.1, 0.2]}
    assert {run.status for run in writer.runs.values()} == {"FINISHED"}


@pytest.mark.parametrize("maximize", [False, True])
def test_the_best_by_the_bound_are_told_and_those_that_were_before(tmp_path: Path, maximize: bool) -> None:
    sign = -1.0 if maximize else 1.0
    with study(tmp_path, 0) as ledger:
        note_leaders(ledger, {number: (0.0, sign * number) for number in range(200)}, maximize=maximize)
        assert set(ledger.meta(LEADERS)) == {str(number) for number in range(FIRST)}
        note_leaders(ledger, {number: (0.0, -sign * number) for number in range(20, 200)}, maximize=maximize)
        first, before = range(200 - FIRST, 200), range(20, FIRST)
        assert set(ledger.meta(LEADERS)) == {str(number) for number in (*first, *before)}


@pytest.mark.parametrize(
    ("expected", "order", "first"), [(True, "expected_bound", "expected"), (False, "value", "value")]
)
def test_the_table_is_sorted_by_what_is_expected_where_anything_is(expected: bool, order: str, first: str) -> None:
    (tag,) = experiment_tags(minimize=True, params=["batch_size"], expected=expected).values()
    view = json.loads(tag)
    assert view["orderByKey"] == f"metrics.`result/{order}`" and view["orderByAsc"]
    assert view["selectedColumns"][0] == f"metrics.`result/{first}`"
