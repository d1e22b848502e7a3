"""What workers run instead of training, to measure what everything around it costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from models.segment import Segment, SegmentResult


def nothing(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that ends at once, with 15 evaluations to keep."""
    return _ended(segment, seconds=0.0)


def one_second(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that takes one second of processor time."""
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        pass
    return _ended(segment, seconds=1.0)


def _ended(segment: Segment, *, seconds: float) -> SegmentResult:
    rate = segment.config.learning_rate or 0.1
    curve = [
        {
            "step": step,
            "examples": 32 * step,
            "epoch": step / 10,
            "seconds": seconds * step / 15,
            "learning_rate": rate,
            "batch_size": 32.0,
            "gradient_norm": 1.0,
            "train_loss": rate / step,
            "val_loss": rate / step,
            "val_accuracy": 1 - rate / step,
        }
        for step in range(1, 16)
    ]
    return SegmentResult(
        trial=segment.trial,
        from_step=0,
        to_step=15,
        total_steps=15,
        status="COMPLETE",
        curve=curve,
        started=time.time(),
        seconds=seconds,
        wall_seconds=seconds,
        examples=480,
        tags={"tier": "solo", "order": "own"},
    )
