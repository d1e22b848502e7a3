"""Many trials of one shape trained side by side in one Lightning Trainer: each as it would be alone, up to rounding.

What holds, and is tested: with the same data order, rates, evaluations and, on the CPU, the same dropout, a member
computes what its trial alone computes. In float64 they agree to 1e-10 after hundreds of steps; in float32 only as two
machines would, since training amplifies rounding (a last bit of the rate does the same to a trial alone). A parameter
whose gradient is nothing but rounding (a bias before batch norm, a bias of attention's keys) may differ under Adam,
where it changes nothing. On a GPU, dropout draws from each member's own generator, but other numbers than alone. What
one member does never changes another, to the bit; nor does its place in the array, up to rounding.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl

from models.fusion import Verdict, examine
from models.lean import silent_profiler
from models.lockstep import TrialArray
from models.members import Member
from models.prepared import prepare
from models.process import subnormals_as_zero
from models.segment import Segment, SegmentResult
from models.train import one_process, out_of_memory, silence, take_back_interrupt, train_segment


@subnormals_as_zero()
def train_array(segments: Sequence[Segment], *, stop: Callable[[], bool] = lambda: False) -> list[SegmentResult]:
    """Train several trials from one checkpoint to the next; one result for each segment, in their order.

    Their configurations have one `array_key`, and they stand at the same place of an epoch (as those of one `from_step`
    do). What cannot train side by side trains alone, one after the other, with the reason as the tag
    `fallback_reason`; where memory is short, half of them train at a time. Checkpoints are those of `train_segment`,
    and may come from there and go there. A single one is an array where it is `fused`, and trains alone otherwise.
    """
    if len(segments) == 1 and not segments[0].fused:
        return [train_segment(segments[0], stop=stop)]
    try:
        verdict = examine([segment.config for segment in segments])
        if verdict.reason is None:
            return _together(segments, verdict, stop)
        reason = verdict.reason
    except Exception as error:  # A user's code may raise anything: alone, each trial meets its own failure.
        reason = "" if out_of_memory(error) else f"side by side: {type(error).__name__}: {error}".splitlines()[0]
    except SystemExit as error:
        take_back_interrupt(error)
        reason = f"side by side: the code called sys.exit({error.code!r})"
    if reason or len(segments) == 1:
        return [_alone(segment, stop, reason) for segment in segments]
    # Outside the handler, whose traceback holds on to the memory that was too small.
    middle = len(segments) // 2
    return [*train_array(segments[:middle], stop=stop), *train_array(segments[middle:], stop=stop)]


def _alone(segment: Segment, stop: Callable[[], bool], reason: str) -> SegmentResult:
    result = train_segment(segment, stop=stop)
    return dataclasses.replace(
        result, tags={**result.tags, "fallback_reason": reason or "its array took too much memory"}
    )


def _together(segments: Sequence[Segment], verdict: Verdict, stop: Callable[[], bool]) -> list[SegmentResult]:
    started, clock = time.time(), time.perf_counter()
    config = segments[0].config
    data = prepare(config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\.")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        trainer = build_array_trainer(config.accelerator, config.precision)
        members = [Member(segment, data, trainer.strategy.root_device) for segment in segments]
        places = {(m.batch_size, m.batches_done) for m in members}
        assert len(places) == 1, "the members of an array stand at one place of an epoch"
        array = TrialArray(members, data, verdict=verdict, stop=stop)
        trainer.fit(array, range(max(len(m.plan.steps_of_epoch) - m.epoch for m in members)))
    wall = time.perf_counter() - clock
    return [member.result(width=len(members), started=started, wall_seconds=wall) for member in members]


def build_array_trainer(accelerator: str, precision: Any) -> pl.Trainer:
    """A Trainer of one epoch, whose batches are the epochs of an array."""
    silence()
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=1,
        plugins=[one_process(pl)],
        profiler=silent_profiler(pl),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=tempfile.gettempdir(),
    )
    # As in a solo training: signals belong to whoever runs the segments.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
