"""What a process does with the segments that it is given: train them, one task at a time, and leave no traces."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from models.segment import Segment, SegmentResult

TRAIN = "models.train.train_segment"
"""The function that trains a segment, by name: the driver of a search does not import torch."""
TRAIN_ARRAY = "models.array.train_array"
"""The function that trains several segments side by side."""
PUT_BACK = "models.process.put_back"
"""What keeps the traces of one training out of the next."""

_stop = threading.Event()
"""Set in a worker process when running segments should end at their next step."""
_training = threading.Lock()
"""A worker may have several threads, but torch's random generators belong to the process: one training at a time."""


def find(function: str) -> Any:
    """A function by its import path."""
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(module), name)


def run_segments(
    function: str,
    payloads: Sequence[Mapping[str, Any]],
    *,
    watch: Callable[[Segment], AbstractContextManager[None]] = lambda first: nullcontext(),
) -> list[dict[str, Any]]:
    """What a worker does: plain JSON values in and out, so that nothing of a user's is ever pickled."""
    segments = [Segment.from_json(payload) for payload in payloads]
    # The watch begins behind the lock: who waits for its turn does not hang.
    with _training, watch(segments[0]), find(PUT_BACK)([segment.config for segment in segments]):
        if function == TRAIN and (len(segments) > 1 or segments[0].fused):
            return [result.to_json() for result in find(TRAIN_ARRAY)(segments, stop=_stop.is_set)]
        train = find(function)
        return [train(segment, stop=_stop.is_set).to_json() for segment in segments]


def set_stop(value: bool) -> None:
    """Raise or lower this process's stop flag."""
    if value:
        _stop.set()
    else:
        _stop.clear()


def failed(segment: Segment, reason: str) -> SegmentResult:
    """The result of a segment that never gave one."""
    return SegmentResult(
        trial=segment.trial,
        from_step=segment.from_step,
        to_step=segment.from_step,
        total_steps=0,
        status="FAILED",
        reason=reason,
    )


def untouched(segment: Segment) -> SegmentResult:
    """The result of a segment that was stopped, and of which nothing came back: it goes on from where it began."""
    return replace(failed(segment, ""), status="PAUSED")
