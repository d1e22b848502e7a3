"""When and where a trial trained, from its segments to MLflow's tags and back."""

from __future__ import annotations

from typing import Any

import pytest

from tracking.long_tags import joined, parted
from tracking.runs import LONGEST
from tracking.spans import TAG, Span, as_tags, from_tags, spans_of


def segments(*times: tuple[float, float, str]) -> list[dict[str, Any]]:
    return [{"started": begin, "wall_seconds": wall, "worker": worker} for begin, wall, worker in times]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], []),
        ([(10.0, 4.0, "a"), (20.0, 2.0, "a")], [Span(10.0, 14.0, "a"), Span(20.0, 22.0, "a")]),
        # Between the checkpoints of a long training the driver takes a breath.
        ([(10.0, 4.0, "a"), (14.04, 4.0, "a"), (18.05, 1.0, "a")], [Span(10.0, 19.05, "a")]),
        ([(10.0, 4.0, "a"), (14.05, 4.0, "a")], [Span(10.0, 14.0, "a"), Span(14.05, 18.05, "a")]),
        ([(0.0, 0.0, ""), (10.0, 4.0, "a")], [Span(10.0, 14.0, "a")]),
        ([(10.0, 4.0, "a"), (14.0, 4.0, "b")], [Span(10.0, 14.0, "a"), Span(14.0, 18.0, "b")]),
    ],
)
def test_a_wait_or_another_worker_begins_a_new_span(
    times: list[tuple[float, float, str]], expected: list[Span]
) -> None:
    found = spans_of(segments(*times))
    assert [tuple(one) for one in found] == [(begin, pytest.approx(end), worker) for begin, end, worker in expected]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_spans_come_back_from_tags_to_the_last_bit(count: int) -> None:
    known = [Span(1.8e9 + index / 3, 1.8e9 + index / 3 + 0.1, "tcp://10.0.0.1:4000") for index in range(count)]
    tags = as_tags(known)
    assert from_tags(tags | {"status": "COMPLETE"}) == known
    assert len(tags) == -(-len("".join(tags.values())) // LONGEST["tag"])


def test_of_a_trial_that_started_again_what_was_before_is_left_out() -> None:
    long, short = (as_tags([Span(0.5, 1.5, "a")] * count) for count in (1000, 2))
    assert len(long) > 1 and from_tags(long | short) == [Span(0.5, 1.5, "a")] * 2


def test_a_text_of_any_length_is_kept_in_parts() -> None:
    text = "0123456789" * 1700
    parts = parted(TAG, text)
    assert list(parts) == [TAG, f"{TAG}.1", f"{TAG}.2"] and joined(TAG, parts) == text
    assert joined(TAG, {f"{TAG}.1": "no first"}) == ""
