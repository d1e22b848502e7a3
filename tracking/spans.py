"""When, and on which worker, a trial trained: a span for each segment, waits at rungs left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tracking.long_tags import joined, parted

TAG = "regatta.spans"
"""The tag that holds a trial's spans as JSON, a list of three each."""
BREATH = 0.01
"""A gap on one worker of at most this part of what lies before it is none: between a long training's checkpoints."""


class Span(NamedTuple):
    """A stretch of training on one worker, in Unix seconds."""

    begin: float
    end: float
    worker: str


def spans_of(segments: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Those of a trial's `SegmentResult`s, in their order; segments that follow at once on one worker are one span."""
    found: list[Span] = []
    for segment in segments:
        if not segment["worker"]:
            continue  # It never came to a worker, or nothing came back from there.
        begin, worker = segment["started"], segment["worker"]
        end = begin + segment["wall_seconds"]
        last = found[-1] if found else None
        if last and last.worker == worker and begin - last.end <= BREATH * (last.end - last.begin):
            found[-1] = last._replace(end=end)
        else:
            found.append(Span(begin, end, worker))
    return found


def as_tags(spans: Sequence[Span]) -> dict[str, str]:
    """Spans as MLflow keeps them."""
    return parted(TAG, json.dumps(spans)) if spans else {}


def from_tags(tags: Mapping[str, str]) -> list[Span]:
    """Spans as MLflow has them; none of a run of an earlier version."""
    text = joined(TAG, tags)
    # Of a trial that had to start again, the end of what it had before may follow.
    return [Span(*one) for one in json.JSONDecoder().raw_decode(text)[0]] if text else []
