"""What a search expects of its best trials: a note of the ledger, and metrics by which MLflow's table is sorted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracking.ledger import Ledger
from tracking.runs import MetricPoint, RunWriter

LEADERS = "leaders"
"""The note: trial number to what is expected of its configuration, and to the bound, one standard error worse."""
METRICS = ("result/expected", "result/expected_bound")
FIRST = 50
"""So many are told to MLflow: each is a request of its own, at the end of a search."""


def note_leaders(ledger: Ledger, expected: Mapping[int, Sequence[float]], *, maximize: bool) -> None:
    """Note the trials of which most is expected, by the bound, and those that were among them before."""
    ranked = sorted(expected, key=lambda number: (expected[number][1] * (-1 if maximize else 1), number))
    before = [number for number in map(int, ledger.meta(LEADERS) or {}) if number in expected]
    if ranked:
        numbers = dict.fromkeys([*ranked[:FIRST], *before])
        ledger.set_meta(LEADERS, {str(number): list(expected[number]) for number in numbers})


def send_leaders(ledger: Ledger, writer: RunWriter) -> None:
    """Write it to the runs of these trials, if that has not been done; their runs are open by then."""
    for note in ledger.unsent_notes():
        if note.key == LEADERS:
            timestamp_ms = round(1000 * note.changed)
            for number, values in note.value.items():
                named = zip(METRICS, values, strict=True)
                points = [MetricPoint(name, value, timestamp_ms, 0) for name, value in named]
                run_id = ledger.run(int(number)).run_id
                if run_id is not None:
                    writer.log(run_id, params={}, tags={}, points=points)
            ledger.notes_sent([note])
