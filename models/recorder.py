"""What a training measures of itself: loss, divergence, examples, seconds, and the points of its curve."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from models.config import TrainConfig
from models.segment import Point

CHECK_STEPS = 10
"""Steps between two looks at the loss: each look waits for the GPU."""
DIVERGED_AT = 10.0
"""A training loss this many times its start, after warmup, is divergence (methodology: Shallue's `infeasible`)."""
OPENING_EXAMPLES = 64
"""The loss at the start is a mean over about this many examples (ten batches at most): one alone says little."""

STATE = (
    "examples",
    "seconds",
    "batches",
    "opening_loss",
    "gradient_norm",
    "loss_sum",
    "loss_count",
    "recent_sum",
    "recent_count",
)


class Recorder:
    """Numbers of one trial; `state_dict` carries them from segment to segment."""

    def __init__(self, config: TrainConfig, *, examples_per_epoch: int, warmup_steps: int) -> None:
        self.examples_per_epoch = examples_per_epoch
        self.warmup_steps = warmup_steps
        self.opening_batches = min(10, -(-OPENING_EXAMPLES * config.accumulate // config.batch_size))
        # Lightning divides what a training step returns by the accumulation, and leaves what it logs as it is.
        self.loss_scale = config.accumulate if config.train_loss is None else 1
        self.curve: list[Point] = []
        self.segment_seconds = 0.0
        self.segment_examples = 0
        self.examples = 0
        self.seconds = 0.0
        self.batches = 0
        self.opening_loss: float | None = None
        self.gradient_norm = math.nan
        self.loss_sum = 0.0
        self.loss_count = 0
        self.recent_sum = 0.0
        self.recent_count = 0
        # Losses stay on the device until they are looked at: reading one waits for it.
        self._waiting: list[torch.Tensor] = []
        self._mark = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything that counts on from here, as plain numbers."""
        self._read()
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from what `state_dict` gave."""
        for name in STATE:
            setattr(self, name, state[name])

    def start_clock(self) -> None:
        """Training begins, or goes on after something that does not count as training."""
        self._mark = time.perf_counter()

    def stop_clock(self) -> None:
        """Training stops, or makes way for something that does not count as training."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self.segment_seconds += now - self._mark
        self._mark = now

    def take(self, loss: Any, examples: int) -> None:
        """Count one batch; `loss` is a tensor of one number, or None if the module told none."""
        self.examples += examples
        self.segment_examples += examples
        self.batches += 1
        if loss is not None:
            self._waiting.append(loss)
        if self.batches == self.opening_batches:
            self._read()
            self.opening_loss = self.recent_sum / self.recent_count if self.recent_count else None

    def take_read(self, losses: Sequence[float], examples: Sequence[int]) -> None:
        """Count several batches whose mean losses have been read already: the same, to the bit, as one `take` each."""
        assert not self._waiting, "losses are counted in their order"
        for loss, count in zip(losses, examples, strict=True):
            self.examples += count
            self.segment_examples += count
            self.batches += 1
            self.loss_sum += loss
            self.recent_sum += loss
            self.loss_count += 1
            self.recent_count += 1
            if self.batches == self.opening_batches:
                self.opening_loss = self.recent_sum / self.recent_count

    def _read(self) -> None:
        """Add up the waiting losses one by one: the sums do not depend on when they are read."""
        if not self._waiting:
            return
        for loss in torch.stack(self._waiting).flatten().tolist():
            self.loss_sum += loss * self.loss_scale
            self.recent_sum += loss * self.loss_scale
        self.loss_count += len(self._waiting)
        self.recent_count += len(self._waiting)
        self._waiting.clear()

    def diverged(self, step: int) -> str | None:
        """Why the training has diverged, if it has: looked at over the batches since the last look."""
        self._read()
        if not self.recent_count:
            return None
        mean = self.recent_sum / self.recent_count
        self.recent_sum, self.recent_count = 0.0, 0
        if not math.isfinite(mean):
            return f"the training loss is {mean} at step {step}"
        if self.opening_loss is None or self.opening_loss <= 0 or step <= self.warmup_steps:
            return None
        if mean > DIVERGED_AT * self.opening_loss:
            return f"the training loss is {mean / self.opening_loss:.3g} times its start at step {step}"
        return None

    def point(self, step: int, metrics: Mapping[str, Any], **axes: float) -> Point:
        """One evaluation, appended to the curve; the mean training loss starts anew behind it."""
        self._read()
        train = {"train_loss": self.loss_sum / self.loss_count} if self.loss_count else {}
        self.loss_sum, self.loss_count = 0.0, 0
        point: Point = {
            "step": step,
            "examples": self.examples,
            "epoch": self.examples / self.examples_per_epoch,
            "seconds": self.seconds,
            **axes,
            "gradient_norm": self.gradient_norm,
            **train,
        }
        point.update({name: float(value) for name, value in metrics.items() if name not in point})
        self.curve.append(point)
        return point
