"""What happens around a segment's steps, by Lightning's hooks: rates, evaluations, divergence, pauses, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from models import checkpoint, pulse, rng, schedules
from models.build import ConfigError, nearest
from models.config import OWN_OPTIMIZER
from models.loaders import ForeignLoader, OrderedLoader
from models.plan import Plan
from models.plateau import Plateau
from models.recorder import CHECK_STEPS, Recorder
from models.segment import RESCALED, Segment, Status

STATE_KEY = "Regatta"
"""Under which the conductor's state stands in a checkpoint's `callbacks`."""


class Conductor:
    """Leads one segment of one trial. `state_dict` travels in the checkpoint; the rest belongs to this segment."""

    def __init__(self, segment: Segment, plan: Plan, loader: OrderedLoader | ForeignLoader, recorder: Recorder) -> None:
        self.segment = segment
        self.config = segment.config
        self.plan = plan
        self.loader = loader
        self.recorder = recorder
        self.stop: Callable[[], bool] = lambda: False
        self.status: Status = "COMPLETE"
        self.reason = ""
        self.step = segment.from_step
        self.checkpoint: str | None = None
        self.sha256: str | None = None
        self.fit: Mapping[str, float] = {}
        self.gap_reason = ""
        self._until = plan.end_of(segment.until)
        self._points = frozenset(plan.evaluations)
        self._evaluated = segment.from_step
        self._factors: list[float] = plan.factors.tolist()
        if segment.rescale:
            name, args, warmup = self.config.schedule, self.config.schedule_args, self.config.warmup
            stretched = schedules.factors(name, args, steps=self._until, warmup=warmup).tolist()
            # In mid-epoch it cannot pause at an evaluation, and takes another step.
            self._factors = [*stretched, *stretched[-1:] * (plan.total_steps - self._until)]
        self._plateau = Plateau(**self.config.schedule_args) if self.config.schedule == "plateau" else None
        self._plateau_factor = 1.0
        self.random: dict[str, Any] | None = None
        self._save_after_step = False
        self._save_after_epoch = False
        self._batches_done = 0

    # What goes on in the next segment

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and tensors."""
        return {
            "step": self.step,
            "recorder": self.recorder.state_dict(),
            "batches_done": self._batches_done,
            "plateau": self._plateau.state() if self._plateau else {},
            "plateau_factor": self._plateau_factor,
            "random": rng.capture(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step = self._evaluated = state["step"]
        self.recorder.load_state_dict(state["recorder"])
        self._batches_done = state["batches_done"]
        if isinstance(self.loader, OrderedLoader):
            self.loader.skip(self._batches_done)
        if self._plateau:
            self._plateau.load(state["plateau"])
        self._plateau_factor = state["plateau_factor"]
        self.random = state["random"]

    # Lightning's hooks, in the order in which they come

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Put the random generators where the checkpoint left them: building the module has moved them."""
        if self.random is not None:
            rng.restore(self.random)
        self.recorder.start_clock()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Set the rate for this step."""
        if self.config.optimizer != OWN_OPTIMIZER:
            rate = self.learning_rate(self.step)
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = rate

    def learning_rate(self, step: int) -> float:
        """The rate used for a step, counted from 0."""
        assert self.config.learning_rate is not None, "only the module's own optimizer comes without a rate"
        return self.config.learning_rate * self._factors[step] * self._plateau_factor

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Take the gradient's norm, before clipping, at the steps that are evaluated."""
        if self.step + 1 in self._points:
            gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            self.recorder.gradient_norm = float(torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch; look for divergence; end the segment where it should and may end."""
        pulse.beat()
        self.recorder.take(self._loss(trainer, outputs), self.loader.examples_in(batch, batch_idx))
        batches_left = trainer.num_training_batches - batch_idx - 1
        if batches_left and (batch_idx + 1) % self.config.accumulate:
            return  # Gradients are still being accumulated.
        # Not Lightning's `global_step`: it counts what manual optimization does, several steps in a batch or none.
        self.step += 1
        self.look()
        if self.step >= self.plan.total_steps or self.status == "DIVERGED":
            trainer.should_stop = True
        elif not trainer.should_stop and self.should_pause(batches_left) and self.may_pause(batches_left):
            self._save_after_step, self._save_after_epoch = bool(batches_left), not batches_left
            self.pause(trainer.num_training_batches - batches_left if batches_left else 0)
            trainer.should_stop = True

    def evaluates(self, trainer: Any) -> bool:
        """Whether to evaluate after this step; stands in for Lightning's rule, which knows fixed intervals only.

        Lightning asks when all hooks of the step are behind it, the module's too: the place for a checkpoint in
        mid-epoch. Later there is none, since Lightning counts an epoch that was broken off as done.
        """
        if self._save_after_step:
            self._save_after_step = False
            self.save(trainer)
        if self.step not in self._points or self._evaluated >= self.step or self.status == "DIVERGED":
            return False
        # Here and not in a hook of the validation: making the iterators of its loaders takes time and random numbers.
        self.recorder.stop_clock()
        self.random = rng.capture()
        return True

    def on_validation_batch_end(self, *details: Any) -> None:
        """A long validation is no training that hangs."""
        pulse.beat()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Note the evaluation."""
        self.evaluated(trainer.callback_metrics, rate=float(trainer.optimizers[0].param_groups[0]["lr"]))
        if self.status == "DIVERGED":
            trainer.should_stop = True
        assert self.random is not None, "validation ends after it has started"
        rng.restore(self.random)
        self.recorder.start_clock()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Write the checkpoint of a pause between two epochs: behind the validation, where resuming is exact."""
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached() and (self._save_after_epoch or self._batches_done):
            # In an epoch that it has resumed, Lightning leaves out this update of the module's own scheduler.
            trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        self._batches_done = 0
        if self._save_after_epoch:
            self.save(trainer)

    # What the hooks are made of

    def _loss(self, trainer: Any, outputs: Any) -> Any:
        if self.config.train_loss is not None:
            return trainer.callback_metrics.get(self.config.train_loss)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        return loss.detach() if isinstance(loss, torch.Tensor) else None

    def _batch_size(self) -> float:
        sizes = self.plan.batch_sizes
        return float(sizes[min(self.loader.current_epoch(), len(sizes) - 1)])

    def _check_names(self, metrics: Mapping[str, Any]) -> None:
        known = sorted(metrics)
        for key, name in (("objective", self.config.objective), ("target_metric", self.config.target_metric)):
            if name not in metrics:
                logged = ", ".join(f"`{n}`" for n in known) or "nothing"
                raise ConfigError(
                    f"`metrics.{key}` must be a metric that the module logs in validation, but got {name!r}; "
                    f"it logs {logged}.{nearest(name, known)}"
                )

    # What a trial in an array of trials needs too: nothing below knows of a Trainer, up to `save`

    def is_point(self, step: int) -> bool:
        """Whether there is an evaluation after this step."""
        return step in self._points

    @property
    def rates(self) -> list[float]:
        """The rate of every step, as far as it is known beforehand."""
        assert self.config.learning_rate is not None, "only the module's own optimizer comes without a rate"
        return [self.config.learning_rate * factor for factor in self._factors]

    @property
    def tags(self) -> dict[str, str]:
        """What is worth a tag on the run, whether the trial trained alone or not."""
        stretched = {RESCALED: "true"} if self.segment.rescale else {}
        return stretched | ({"gap_reason": self.gap_reason} if self.gap_reason else {})

    @property
    def plateau_factor(self) -> float:
        """What `plateau` multiplies the rate by from here on; 1 under every other schedule."""
        return self._plateau_factor

    @property
    def looks(self) -> bool:
        """Whether to see, after this step, if the training has diverged: every few steps, and before evaluations."""
        return self.step % CHECK_STEPS == 0 or self.step in self._points

    def look(self) -> None:
        """See whether the training has diverged, where it is time to."""
        if self.looks:
            self._end_if_diverged(self.recorder.diverged(self.step))

    def evaluated(self, metrics: Mapping[str, Any], *, rate: float) -> None:
        """Take in what validation gave; `rate` is the one used for this step."""
        self._check_names(metrics)
        self._evaluated = self.step
        value = float(metrics[self.config.objective])
        self.recorder.point(self.step, metrics, learning_rate=rate, batch_size=self._batch_size())
        if not math.isfinite(value):
            self._end_if_diverged(f"`{self.config.objective}` is {value} at step {self.step}")
        elif self._plateau:
            self._plateau_factor = self._plateau.update(value, self.config.direction)

    def should_pause(self, batches_left: int) -> bool:
        """Whether the segment ends as soon as it may."""
        return self.is_over or self.stop() or self.out_of_time(batches_left)

    @property
    def end(self) -> int:
        """The step after which the segment has come as far as it was to go."""
        return self._until

    @property
    def is_over(self) -> bool:
        """Whether it has."""
        return self.step >= self._until

    def out_of_time(self, batches_left: int) -> bool:
        """Whether `max_seconds` are over, or would be before the end of the epoch."""
        if self.segment.max_seconds is None or self.step % CHECK_STEPS and batches_left:
            return False
        self.recorder.stop_clock()
        taken = self.recorder.segment_seconds
        steps = self.step - self.segment.from_step
        # The end of an epoch is the better place, if it comes soon.
        return taken + (taken / steps * batches_left if batches_left else 0.0) > self.segment.max_seconds * (
            1.5 if batches_left else 1.0
        )

    def may_pause(self, batches_left: int) -> bool:
        """In mid-epoch only with our own order, never at an evaluation: the checkpoint would not know its outcome."""
        return not batches_left or (isinstance(self.loader, OrderedLoader) and self.step not in self._points)

    def pause(self, batches_done: int) -> None:
        """End the segment here, behind so many batches of an epoch that goes on in the next."""
        self.status = "PAUSED"
        self._batches_done = batches_done

    def path(self) -> str:
        """Where the checkpoint of this step lies."""
        return f"{self.segment.folder}/{self.segment.trial:05d}-{self.step:09d}.ckpt"

    def _end_if_diverged(self, reason: str | None) -> None:
        if reason is not None:
            self.status, self.reason = "DIVERGED", f"diverged: {reason}"

    def save(self, trainer: Any) -> None:
        """Write the checkpoint of this step; the clock stands still meanwhile."""
        if not self.segment.folder:
            return
        self.recorder.stop_clock()
        path = self.path()
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            # A full disk is no fault of the user's code: such a trial is tried again.
            raise checkpoint.CheckpointError(f"checkpoint {path} cannot be written: {error}") from error
        self.checkpoint = path
        self.recorder.start_clock()
