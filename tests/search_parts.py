"""What several tests of the search share: small spaces, results made from parameters, and stand-in trainings."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.config import ClassConfig, DataConfig, MetricsConfig, TrainingConfig
from models.pulse import beat
from models.segment import Point, Segment, SegmentResult
from search.config import LearningRateConfig, SearchConfig
from search.space import SearchSpace
from search.trial import TrialConfig, TrialResult

HERE = str(Path(__file__).parent)
ONE_TO_NINE = LearningRateConfig(rule="absolute", low=1e-3, high=1.0)


def space(
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    init_args: Mapping[str, Any] | None = None,
    **search: Any,
) -> SearchSpace:
    """Two batch sizes, sgd, two schedules; a small network on the digits, one epoch."""
    network = {"class_path": "models.nets.MLP", "init_args": {"features": 64, "hidden": [8], "classes": 10}}
    changed = {"batch_sizes": (64, 256), "optimizers": {"sgd": {}}, "schedules": {"constant": {}, "cosine": {}}}
    return SearchSpace(
        model=ClassConfig(class_path="models.task.Classifier", init_args=init_args or {"network": network}),
        data=DataConfig(class_path="models.data.Digits"),
        training=TrainingConfig(**{"epochs": 1, **(training or {})}),
        metrics=MetricsConfig(**(metrics or {})),
        search=SearchConfig(**{**changed, "trials": 4, "refine": 2, "extend": False, **search}),
    )


def changed(before: SearchSpace, **search: Any) -> SearchSpace:
    """The same space with other settings of the search."""
    return dataclasses.replace(before, search=dataclasses.replace(before.search, **search))


def bowl(trial: TrialConfig, *, best: float = 0.03) -> float:
    """An objective with one minimum in the learning rate."""
    rate = trial.params.get("learning_rate", best)
    return math.log(rate / best) ** 2


def result_of(trial: TrialConfig, value: float | None = None, **fields: Any) -> TrialResult:
    """A complete result, with the value given or that of the bowl."""
    known = {"status": "COMPLETE", "value": bowl(trial) if value is None else value, **fields}
    return TrialResult(number=trial.number, **known)


# Stand-ins for `models.train.train_segment`, found on workers through `paths=[HERE]`.


def _ended(segment: Segment, **fields: Any) -> SegmentResult:
    rate = segment.config.learning_rate or 0.1
    point: Point = {
        "step": 10.0,
        "examples": 640.0,
        "epoch": 1.0,
        "seconds": 0.1,
        "val_loss": math.log(rate / 0.03) ** 2,
    }
    known = {
        "from_step": segment.from_step,
        "to_step": 10,
        "total_steps": 10,
        "status": "COMPLETE",
        "curve": [point],
        "started": time.time(),
        "seconds": 0.1,
        "wall_seconds": 0.1,
        "examples": 640,
        "worker": str(os.getpid()),
        **fields,
    }
    return SegmentResult(trial=segment.trial, **known)


def at_once(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that ends at once."""
    return _ended(segment)


def raises(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trainer with a defect of its own."""
    raise ZeroDivisionError("nothing to divide by")


def until_stopped(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that goes on until the flag is raised, or for a minute."""
    Path(segment.folder, f"started-{segment.trial}").write_text(str(os.getpid()))
    end = time.monotonic() + 60
    while not stop() and time.monotonic() < end:
        time.sleep(0.01)
    return _ended(segment, to_step=5, status="PAUSED" if stop() else "COMPLETE", curve=())


def dies_once(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that kills its worker the first time."""
    mark = Path(segment.folder, f"died-{segment.trial}")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _ended(segment)


def dies(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that kills its worker every time; all others end."""
    if segment.trial == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return _ended(segment)


def fails(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial in which the user's code raises."""
    return _ended(segment, status="FAILED", reason="user_error: KeyError: 'label'", to_step=0, curve=())


def hung(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that has cost two workers by then."""
    return _ended(segment, status="TIMEOUT", reason="timeout: no step for 600 s", to_step=0, curve=())


def mistaken(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that shows a mistake in the recipe."""
    reason = "config: `metrics.objective` must be a metric that the module logs in validation, but got 'x'."
    return _ended(segment, status="FAILED", reason=reason, to_step=0, curve=())


def too_large(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """Batches of 128 and more do not fit."""
    if segment.config.batch_size >= 128:
        return _ended(segment, status="OOM", reason="out of memory", to_step=0, curve=())
    return _ended(segment)


def lost_once(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """Every trial's worker is lost the first time."""
    mark = Path(segment.folder, f"lost-{segment.trial}")
    if not mark.exists():
        mark.touch()
        return _ended(segment, status="FAILED", reason="lost_worker: gone", to_step=segment.from_step, curve=())
    return _ended(segment)


def double(payload: int) -> int:
    """Something to call on a worker."""
    return 2 * payload


def sigint_is_ignored(_: None) -> bool:
    """Whether Ctrl-C leaves this process alone."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def hangs(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that never takes a step; all others end."""
    while segment.trial == 0:
        time.sleep(0.05)
    return _ended(segment)


def steps(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that takes one step after the other, until the flag is raised."""
    Path(segment.folder, f"started-{segment.trial}").write_text(str(os.getpid()))
    while not stop():
        beat()
        time.sleep(0.01)
    return _ended(segment, to_step=5, status="PAUSED", curve=())


def keeps_the_lock(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial whose one step lets no other thread of its process run."""
    started = time.perf_counter()
    ctypes.PyDLL(None).sleep(12)
    return _ended(segment, wall_seconds=time.perf_counter() - started)


def two_seconds(segment: Segment, *, stop: Callable[[], bool]) -> SegmentResult:
    """A trial that ends by itself, in a moment."""
    Path(segment.folder, f"started-{segment.trial}").write_text(str(os.getpid()))
    time.sleep(2)
    return _ended(segment)


def gives_up_after(seconds: float, dask_scheduler: Any) -> None:
    """A scheduler gives up a worker without heartbeats after so many seconds, counted from now, not minutes."""
    dask_scheduler.worker_ttl = seconds
    for worker in dask_scheduler.workers.values():
        worker.last_seen = time.time()
    looks = dask_scheduler.periodic_callbacks["worker-ttl"]
    looks.stop()  # Its next look is minutes away.
    looks.callback_time = 500
    looks.start()
