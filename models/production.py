"""One production training by Lightning's Trainer in full, in a process of its own: `python -m models.production JOB`.

In a process of its own, since Lightning starts those of further devices by running the same command again, and since
memory that a training ran out of is free again when its process has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from models.attached import lightning_callback
from models.build import ConfigError
from models.checkpoint import CheckpointError
from models.config import TrainConfig
from models.fingerprint import fingerprint
from models.job import LAST, Factors, Job, Outcome, factors
from models.layout import joined, layout
from models.leader import Leader
from models.loaders import ForeignLoader, OrderedLoader
from models.plan import Plan
from models.prepared import PreparedData, prepare
from models.process import subnormals_as_zero
from models.recorder import Recorder
from models.segment import Segment
from models.shares import ShareLoader
from models.train import build_module, module_tree, out_of_memory
from models.trainer import build_trainer
from models.user_code import changes, sources

NO_NEWS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    # Every device sees the whole validation set, and so has its metrics already.
    ".*sync_dist=True.*",
    # `--fit all` has said so.
    ".*val_dataloader.*",
    # Ours goes on exactly, by other means.
    ".*resuming from a checkpoint that ended before the epoch ended.*",
    ".*Checkpoint directory.*exists and is not empty.*",
)
"""Warnings of Lightning and torch about what is meant to be so."""


class _Training:
    """One call: what it has got hold of so far, so that a failure can report it."""

    def __init__(self, job: Job, folder: Path, asked_to_stop: Callable[[], bool]) -> None:
        self.job, self.folder = job, folder
        self.asked_to_stop = asked_to_stop
        self.config = replace(job.config, accumulate=job.accumulate or job.config.accumulate)
        self.leader: Leader | None = None
        self.factors: Factors | None = None
        self.total = 0
        self.trainer: Any = None

    def fit(self) -> None:
        """Build everything, and train from the last checkpoint, if there is one."""
        job, config = self.job, self.config
        tree = module_tree(config)
        data = prepare(job.config)
        refuse_changes(job, data)
        if data.source is None:  # such a loader gives batches for one forward pass
            data = prepare(config)
        data = joined(data) if job.fit == "all" else data
        plan = layout(job, data, accumulate=config.accumulate)
        self.total = plan.total_steps
        self.trainer = trainer = build_trainer(job, tree, plan, self.folder)
        self.factors = self._factors(trainer.world_size, data)
        trainer.accumulate_grad_batches = self.factors.accumulate
        self.config = config = replace(config, accumulate=self.factors.accumulate)
        if trainer.is_global_zero:
            told = "" if job.fit == "train" else ", on training and validation set together: no validation"
            print(f"{self.factors}; {plan.total_steps:,} steps, {len(plan.steps_of_epoch)} epochs{told}", flush=True)
        self._run(trainer, tree, data, plan)

    def _factors(self, devices: int, data: PreparedData) -> Factors:
        config = self.job.config
        if data.source is None and devices > 1:
            raise ConfigError(
                f"`trainer.devices` must be 1 with a train loader that cannot be rebuilt, but got {devices}: only a "
                "plain DataLoader over a map-style data set with default sampler and batches can be shared out."
            )
        try:
            per_device = config.batch_size // config.accumulate
            return factors(config.batch_size, devices=devices, per_device=per_device, accumulate=self.job.accumulate)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _run(self, trainer: Any, tree: ModuleType, data: PreparedData, plan: Plan) -> None:
        config, last = self.config, self.folder / LAST
        start = str(last) if last.exists() else None
        loader = self._loader(trainer, data, plan)
        warmup_steps = round(config.warmup * plan.total_steps)
        recorder = Recorder(config, examples_per_epoch=data.examples, warmup_steps=warmup_steps)
        segment = Segment(trial=0, config=config, checkpoint=start, folder=str(self.folder))
        self.leader = leader = Leader(segment, plan, loader, recorder)
        leader.asked_to_stop, leader.validates = self.asked_to_stop, data.val_loaders is not None
        # Before ModelCheckpoint: it is told what an evaluation gave, and whether it has the objective at all.
        trainer.callbacks.insert(0, lightning_callback(leader, tree))
        data.datamodule.trainer = trainer
        loader.current_epoch = lambda: trainer.current_epoch
        trainer.fit_loop.epoch_loop._should_check_val_fx = lambda _: leader.evaluates(trainer)
        trainer._signal_connector.register_signal_handlers = lambda: None
        module = build_module(config, data)
        with warnings.catch_warnings():
            for message in NO_NEWS:
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(module, loader, data.val_loaders, ckpt_path=start)
        recorder.stop_clock()

    def _loader(self, trainer: Any, data: PreparedData, plan: Plan) -> OrderedLoader | ForeignLoader:
        found, asked = self.factors, self.job.config
        assert found is not None, "the batch is divided before it is loaded"
        if data.source is None or (found.devices == 1 and found.accumulate == asked.accumulate):
            return data.loader(self.config, plan)
        return ShareLoader(
            data,
            plan,
            found,
            seed=self.config.seed_order,
            rank=trainer.global_rank,
            unit=asked.batch_size // asked.accumulate,
        )

    def release(self) -> None:
        """End the processes of other devices: they would wait for this one's gradients."""
        launcher = self.trainer.strategy.launcher if self.trainer is not None else None
        for process in getattr(launcher, "procs", ()):
            process.kill()

    def outcome(self, error: BaseException | None) -> Outcome:
        """How it ended."""
        leader = self.leader
        step = leader.step if leader else 0
        known: dict[str, Any] = {"step": step, "factors": self.factors, "numbers": self._numbers()}
        known["best"] = best_of(leader.curve, self.config) if leader else {}
        if error is None:
            assert leader is not None, "without an error, it has been trained"
            return Outcome(status=leader.status, reason=self._reason(leader), **known)
        if isinstance(error, ConfigError):
            return Outcome(status="MISTAKE", reason=str(error), **known)
        if isinstance(error, CheckpointError):
            why = f"{error}. Remove it to begin anew, or call again with --force"
            return Outcome(status="MISTAKE", reason=why, **known)
        if isinstance(error, Exception) and out_of_memory(error):
            return Outcome(status="OOM", reason=str(error), **known)
        told = "".join(traceback.format_exception(error))
        return Outcome(status="FAILED", reason=told, **known)

    def _reason(self, leader: Leader) -> str:
        if leader.status == "COMPLETE" and leader.step < self.total:
            return f"early stopping after {leader.step:,} of {self.total:,} steps"
        return leader.reason

    def _numbers(self) -> dict[str, float]:
        if self.leader is None or not self.leader.recorder.seconds or not self.leader.step:
            return {}
        recorder, seconds = self.leader.recorder, self.leader.communication.seconds
        steps = self.leader.step
        numbers = {"speed/seconds": recorder.seconds, "speed/step_seconds": recorder.seconds / steps}
        if seconds and recorder.segment_seconds:
            share = seconds / recorder.segment_seconds
            numbers |= {
                "communication/share": share,
                "communication/step_seconds": share * recorder.seconds / steps,
            }
        return numbers


def refuse_changes(job: Job, data: PreparedData) -> None:
    """Raise `ConfigError` if data or code are not those of the search, or the steps come out others.

    A call with `force` accepts them.
    """
    if job.force:
        return
    now, wrong = fingerprint(data), list(changes(job.code or {}, sources([job.config.model, job.config.data])))
    for name, before in (job.fingerprint or {}).items():
        if before is not None and now[name] != before:
            wrong.append(f"the data have changed since the search: `{name}` was {before}, and is {now[name]} now.")
    plan = data.plan(job.config)
    if plan.total_steps != job.steps and not wrong:
        wrong.append(f"`budget.steps` must be {plan.total_steps}, as epochs and batch size say, but got {job.steps}.")
    if wrong:
        raise ConfigError("\n".join([*wrong, "Give `--force` to train all the same."]))


def best_of(curve: list[dict[str, float]], config: TrainConfig) -> Mapping[str, float]:
    """The evaluation with the best objective; empty if there is none."""
    sign = 1.0 if config.direction == "min" else -1.0
    points = [point for point in curve if config.objective in point]
    return min(points, key=lambda point: sign * point[config.objective], default={})


@subnormals_as_zero()
def train(job: Job, folder: Path, *, asked_to_stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Train, or go on from `last.ckpt` in `folder`; leaves best.ckpt, last.ckpt and metrics.csv there."""
    training = _Training(job, folder, asked_to_stop)
    error: BaseException | None = None
    try:
        training.fit()
    except (Exception, SystemExit) as caught:  # a user's code may raise anything
        error = caught
        training.release()
    return training.outcome(error)


def main(path: Path) -> int:
    """Train the job in a file, and write its outcome beside it."""
    signals: list[int] = []
    for which in (signal.SIGINT, signal.SIGTERM):
        # Only noted: the training ends at its next step, with a checkpoint.
        signal.signal(which, lambda number, _: signals.append(number))
    # Where the user stands is where their modules are found.
    sys.path.append(os.getcwd())
    job, parent = Job.read(path), os.getppid()
    # Whoever started it is gone: it ends with a checkpoint, from which the same command goes on.
    outcome = train(job, path.parent, asked_to_stop=lambda: bool(signals) or os.getppid() != parent)
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0":
        outcome.write(path.parent)
    elif outcome.reason:
        print(outcome.reason, file=sys.stderr)
    return 0 if outcome.status in ("COMPLETE", "PAUSED") else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
