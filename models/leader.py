"""Leads a production training by Lightning's hooks: as a trial is led, on several devices too, its curve in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import rng
from models.communication import Communication
from models.conductor import Conductor
from models.job import LAST, METRICS, read_curve, write_curve
from models.loaders import ForeignLoader, OrderedLoader
from models.plan import Plan
from models.recorder import CHECK_STEPS, Recorder
from models.seeds import derive
from models.segment import Segment

SAVE_SECONDS = 600.0
"""Within an epoch, seconds from one `last.ckpt` to the next; there is one at the end of every epoch anyway."""


class Leader(Conductor):
    """Leads a production training as a `Conductor` leads a segment, on several devices too, and publishes its curve."""

    def __init__(self, segment: Segment, plan: Plan, loader: OrderedLoader | ForeignLoader, recorder: Recorder) -> None:
        super().__init__(segment, plan, loader, recorder)
        self.communication = Communication()
        self.validates = True
        self.asked_to_stop: Callable[[], bool] = lambda: False
        self.stop = lambda: self._agreed_to_stop
        self.curve = read_curve(Path(segment.folder, METRICS)) if segment.checkpoint else []
        self._agreed_to_stop = False
        self._trainer: Any = None
        self._saved_at = time.monotonic()
        self._save_due = False
        self._batches_behind = 0

    def path(self) -> str:
        """One checkpoint, replaced again and again."""
        return str(Path(self.segment.folder, LAST))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Dropout differs between devices, and gradients on their way are timed."""
        super().on_train_start(trainer, module)
        self._trainer = trainer
        if trainer.global_rank:
            rng.seed_everything(derive(self.config.seed_dropout, trainer.global_rank, self.step))
        self.communication.watch(trainer.strategy.model)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note how far the epoch is, for a checkpoint within it."""
        self._batches_behind = batch_idx + 1
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def look(self) -> None:
        """See whether the training has diverged, is to stop or to be saved: what one device sees holds for all."""
        super().look()
        if self._trainer.world_size > 1 and not self.looks:
            return
        diverged = self._any(self.status == "DIVERGED")
        if diverged and self.status != "DIVERGED":
            self._end_if_diverged(f"the training loss of another device at step {self.step}")
        self._agreed_to_stop = self._any(self.asked_to_stop())
        if self.step % CHECK_STEPS == 0:
            self._save_due = self._any(time.monotonic() - self._saved_at > SAVE_SECONDS)

    def evaluates(self, trainer: Any) -> bool:
        """Save within long epochs; without a validation set, an evaluation is the training loss alone."""
        if self._save_due and not trainer.should_stop and self.may_pause(batches_left=1):
            self._save_within_epoch(trainer)
        wanted = super().evaluates(trainer)
        if wanted and not self.validates:
            self._evaluated = self.step
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self.recorder.point(self.step, {}, learning_rate=rate, batch_size=self._batch_size())
            self.publish(trainer)
            self.recorder.start_clock()
            return False
        return wanted

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Publish the evaluation."""
        super().on_validation_end(trainer, module)
        self.publish(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Save at the end of every epoch, where resuming is exact; a diverged training keeps what was before."""
        super().on_train_epoch_end(trainer, module)
        if self.status == "COMPLETE":
            self.save(trainer)

    def save(self, trainer: Any) -> None:
        """Write `last.ckpt`."""
        super().save(trainer)
        self._saved_at, self._save_due = time.monotonic(), False

    def publish(self, trainer: Any) -> None:
        """Add the last point of the curve to its file, unless an earlier call of this training has got there."""
        point = self.recorder.curve[-1]
        if trainer.is_global_zero and point["step"] > max((row["step"] for row in self.curve), default=0):
            self.curve.append(point)
            write_curve(Path(self.segment.folder, METRICS), self.curve)

    def _save_within_epoch(self, trainer: Any) -> None:
        # What is left in `_batches_done` tells of an epoch that was resumed: it is wanted again at its end.
        before, self._batches_done = self._batches_done, self._batches_behind
        self.save(trainer)
        self._batches_done = before
        self._save_due = False

    def _any(self, decision: bool) -> bool:
        if self._trainer.world_size == 1:
            return decision
        return bool(self._trainer.strategy.reduce_boolean_decision(decision, all=False))
