"""Measurements made before a search: what a step takes alone, and side by side with others of its shape."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from models.array import train_array
from models.config import TrainConfig
from models.fusion import fusable
from models.segment import Segment, SegmentResult
from models.train import train_segment

CPU_WIDTH = 16
"""Trials in an array on a processor: per member, wider ones gain little more, and fill the caches."""
GPU_WIDTH = 64
SECONDS = 0.15
"""How long each of the two trains."""
STEPS = 50
"""Steps that a training has at least, so that the time runs out before it ends."""


def array_gain(values: Mapping[str, Any]) -> dict[str, Any]:
    """How much faster a trial trains in an array than alone.

    Returns:
        `reason` why it cannot (or None), `width` of the array, `gain` (time per step alone over time per step and
        member side by side), `step_seconds` alone.
    """
    config = TrainConfig.from_json(values)
    config = dataclasses.replace(config, min_steps=max(config.min_steps, STEPS), evaluations=1)
    width = GPU_WIDTH if config.accelerator != "cpu" and torch.cuda.is_available() else CPU_WIDTH
    with tempfile.TemporaryDirectory() as folder:
        segments = [
            Segment(trial=index, config=dataclasses.replace(config, seed_order=index), folder=folder)
            for index in range(width)
        ]
        train_segment(segments[0], stop=after(0.0))
        alone = step_seconds([train_segment(segments[0], stop=after(SECONDS))])
        reason = fusable([config])
        if reason is not None:
            return {"reason": reason, "width": 1, "gain": 1.0, "step_seconds": alone}
        train_array(segments, stop=after(0.0))
        together = step_seconds(train_array(segments, stop=after(SECONDS)))
    gain = alone * width / together if alone and together else 1.0
    return {"reason": None, "width": width, "gain": gain, "step_seconds": alone}


def after(seconds: float) -> Callable[[], bool]:
    """False until so many seconds after the first call."""
    started: list[float] = []

    def over() -> bool:
        if not started:
            started.append(time.perf_counter())
        return time.perf_counter() - started[0] >= seconds

    return over


def step_seconds(results: Sequence[SegmentResult]) -> float:
    """Seconds of training for each step that was taken; 0 if none was."""
    first = results[0]
    return first.seconds / first.to_step if first.to_step else 0.0
