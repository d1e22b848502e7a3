"""What goes to a worker and what comes back: one stretch of one trial's training, as plain JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.config import TrainConfig

Status = Literal["PAUSED", "COMPLETE", "DIVERGED", "OOM", "TIMEOUT", "FAILED"]
"""How a segment ended. PAUSED: the trial goes on from the checkpoint. FAILED carries its reason."""

Point = dict[str, float]
"""One evaluation: the `AXES` below, and what the module logged."""

AXES = ("step", "examples", "epoch", "seconds", "learning_rate", "batch_size", "gradient_norm", "train_loss")
"""The keys of a `Point` that Regatta itself writes; every other key is a metric that the module logged."""


RESCALED = "rescaled"
"""Tag of a trial whose schedule was stretched anew at every rung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of a trial's training. Run twice, it gives the same result: a lost worker costs one segment."""

    trial: int
    """Number of the trial in its study."""
    config: TrainConfig
    from_step: int = 0
    """Optimizer steps already taken; 0: a fresh start."""
    checkpoint: str | None = None
    """Where those steps left the trial (path or fsspec URL); None at the start."""
    sha256: str | None = None
    """Digest of that checkpoint's bytes."""
    until: float = 1.0
    """Progress at which this segment ends, a share of the budget in (0, 1]."""
    rescale: bool = False
    """Whether the schedule is stretched over `until` instead of the whole training: it decays until there."""
    max_seconds: float | None = None
    """Seconds of training after which it ends at the next good place; None: no limit."""
    fused: bool = False
    """Whether it trains as the member of an array even where it is the only one: its steps are recorded there."""
    folder: str
    """Where it writes its checkpoint (path or fsspec URL); empty: nowhere, and nothing goes on from its end."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for another process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Segment:
        """The segment that `to_json` wrote."""
        return cls(**{**values, "config": TrainConfig.from_json(values["config"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentResult:
    """What one segment of a trial came to."""

    trial: int
    from_step: int
    to_step: int
    total_steps: int
    """Optimizer steps of the whole training; 0 if it never got to know."""
    status: Status
    reason: str = ""
    """Why it ended, where the status alone does not say: `user_error`, `lost_worker`, ..., a colon, the detail."""
    curve: Sequence[Point] = ()
    """Evaluations made in this segment, in order of their steps."""
    checkpoint: str | None = None
    sha256: str | None = None
    started: float = 0.0
    """Unix time at which the worker began."""
    seconds: float = 0.0
    """Seconds of training, without validation, checkpoint, logging and set-up."""
    wall_seconds: float = 0.0
    """Seconds from the segment's start to its end, everything included."""
    examples: int = 0
    """Examples processed in this segment."""
    fit: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What validation says, at the end of a complete training, of a fixed subset of the training set."""
    worker: str = ""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What is worth a tag on the run: `order`, `tier`, `gap_reason` (why there is no `fit`)."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for another process or the ledger."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SegmentResult:
        """The result that `to_json` wrote."""
        return cls(**values)
