"""What a search expects of its best trials: a note of the ledger, and metrics by which MLflow's table is sorted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tracking.ledger import Ledger, Note
from tracking.runs import MetricPoint

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


def leaders(note: Note) -> Iterator[tuple[int, list[MetricPoint]]]:
    """By trial, what its run is to say."""
    timestamp_ms = round(1000 * note.changed)
    for number, values in note.value.items():
        named = zip(METRICS, values, strict=True)
        yield int(number), [MetricPoint(name, value, timestamp_ms, 0) for name, value in named]
