"""Measurements made before a search: what a step takes alone, and side by side with others of its shape."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import psutil
import torch

from models.array import train_array
from models.config import TrainConfig
from models.frozen import Frozen
from models.fusion import fusable
from models.prepared import prepare
from models.room import kept_for_backward, weights_of
from models.segment import Segment
from models.train import train_segment

FIRST_WIDTH = 16
"""Trials in the array that is tried first."""
BETTER = 0.05
"""A width is taken instead of half of it, or of twice it, if it makes a member's step this share faster."""
WIDER, NARROWER = 8.0, 2.0
"""A wider array is tried if a step of this one is so much faster than its members' alone, at least: then little of it
depends on the width. A narrower one, if it is at most so much faster. Each width takes about half a second to try."""
SPARE = 2.0
"""Memory of an array over what can be counted beforehand: temporaries, gaps."""
SECONDS = 0.06
"""How long each width trains at least."""
STEPS = 50
"""Steps that a training has at least, so that the time runs out before it ends."""
LAPS = 3
"""Steps that are timed at least; the first of a training is not, for it fills caches and memory."""


def array_gain(values: Mapping[str, Any]) -> dict[str, Any]:
    """How much faster a trial trains in an array than alone, and how wide the array should be.

    Args:
        values: `config` (a TrainConfig) and `most`, the widest array to think of. Where both are known too,
            `fixed_seconds`, of a step alone what does not grow with the array (as measured at another batch size), and
            `worth`: no array is tried that could not make a step so many times as fast even if it took only the rest.

    Returns:
        `reason` why it cannot (or None), `width` of the array, `step_seconds` alone, `share_seconds` of a step that a
        member has side by side, `admission_seconds` that it takes once in a process until the first step is made side
        by side, `steps` of a training.
    """
    config = TrainConfig.from_json(values["config"])
    steps = prepare(config).plan(config).total_steps
    config = dataclasses.replace(config, min_steps=max(config.min_steps, STEPS), evaluations=1)
    # Without a folder: nothing goes on from here, and a checkpoint of each member would take a fifth of the time.
    first = Segment(trial=0, config=config, folder="")
    watch = Stopwatch()
    train_segment(first, stop=watch)
    found = {"width": 1, "step_seconds": watch.lap, "share_seconds": 0.0, "admission_seconds": 0.0, "steps": steps}
    if (gain := highest_gain(watch.lap, values.get("fixed_seconds", math.inf))) < values.get("worth", 1.0):
        return {**found, "reason": f"side by side could be {math.floor(10 * gain) / 10} times as fast, at most"}
    began = time.perf_counter()
    reason = fusable([config])
    examined = time.perf_counter() - began
    most = 1 if reason else min(values["most"], int(memory_left(config) / (SPARE * member_bytes(config))))
    if most < 2:
        reason = reason or "two of it do not fit into memory side by side"
        return {**found, "reason": reason}
    watches = {}

    def share(width: int) -> float:
        watches[width] = timed_together(first, width)
        return watches[width].lap / width

    width, together = best_width(share, most=most, alone=found["step_seconds"])
    admission = examined + watches[width].ready
    return {**found, "reason": None, "width": width, "share_seconds": together, "admission_seconds": admission}


def highest_gain(alone: float, fixed: float) -> float:
    """How many times as fast a step may become in an array: what is fixed of it is shared, in the limit among many."""
    return alone / (alone - fixed) if fixed < alone else math.inf


def best_width(seconds: Callable[[int], float], *, most: int, alone: float) -> tuple[int, float]:
    """The width that makes a member's step fastest, found by doubling or by halving, where either promises something.

    Args:
        seconds: a member's share of a step in an array of some width.
        most: the widest to try.
        alone: seconds of a step alone.

    Returns:
        The width, and a member's share at it.
    """
    width = min(FIRST_WIDTH, most)
    share = seconds(width)
    grow = alone >= WIDER * share
    while grow or alone <= NARROWER * share:
        other = 2 * width if grow else width // 2
        found = seconds(other) if 2 <= other <= most else math.inf
        better = 1 - found / share if share else 0.0
        if better < BETTER:
            break
        width, share = other, found
        if grow and better < 2 * BETTER:
            break  # What a step costs beside its members halves with every doubling, and with it the gain.
    return width, share


def timed_together(first: Segment, width: int) -> Stopwatch:
    """What the steps of so many trials take side by side."""
    segments = [
        dataclasses.replace(first, trial=index, config=dataclasses.replace(first.config, seed_order=index))
        for index in range(width)
    ]
    watch = Stopwatch()
    train_array(segments, stop=watch)
    return watch


def member_bytes(config: TrainConfig) -> int:
    """Memory that one member of an array takes: its parameters' share, and what its forward pass keeps for backward."""
    frozen = Frozen(config, prepare(config))
    kept = kept_for_backward(frozen, config.batch_size // config.accumulate)
    return weights_of(frozen) + kept


def memory_left(config: TrainConfig) -> float:
    """Bytes that this process may fill: of the GPU that it sees, or its share of this machine's."""
    if on_gpu(config):
        return float(torch.cuda.mem_get_info()[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # As many others as there are cores for do the same.
    return float(psutil.virtual_memory().available) / max(1, cores // torch.get_num_threads())


def on_gpu(config: TrainConfig) -> bool:
    """Whether a trial trains on a GPU here."""
    return config.accelerator != "cpu" and torch.cuda.is_available()


class Stopwatch:
    """Times the steps of a training, which asks after each of them whether to stop, and stops it."""

    def __init__(self) -> None:
        self.laps: list[float] = []
        self.ready = 0.0
        """Seconds from the start to the end of the first step."""
        self.started = time.perf_counter()
        self.last = self.end = math.inf

    def __call__(self) -> bool:
        """Whether enough steps have been timed."""
        now = time.perf_counter()
        if self.end == math.inf:
            self.end = now + SECONDS
            self.ready = now - self.started
        else:
            self.laps.append(now - self.last)
        self.last = now
        return now >= self.end and len(self.laps) >= LAPS

    @property
    def lap(self) -> float:
        """Seconds of a step, the lower quartile: at times something else takes the processor. 0 if none was timed."""
        return float(np.quantile(self.laps, 0.25)) if self.laps else 0.0
