"""One segment of one trial, trained by one Lightning Trainer."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from models import lean, optimizers, rng
from models.attached import checkpoint_plugin, lightning_callback
from models.blame import told
from models.build import ConfigError, build, find_class, lightning_of
from models.checkpoint import CheckpointError
from models.conductor import Conductor
from models.config import OWN_OPTIMIZER, TrainConfig
from models.machine import machine_tags
from models.plan import Plan
from models.prepared import PreparedData, prepare
from models.process import subnormals_as_zero
from models.recorder import Recorder
from models.segment import Segment, SegmentResult, Status
from models.subset import SEED, TrainSubset, train_subset, why_not

CHATTERING = [
    f"{package}{part}"
    for package in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
    for part in ("", ".utilities.rank_zero")
]
"""Loggers to quiet. All of them: the two Lightnings share one, under the name of whichever was imported last."""


@subnormals_as_zero()
def train_segment(segment: Segment, *, stop: Callable[[], bool] = lambda: False) -> SegmentResult:
    """Train a trial from one checkpoint to the next.

    The result depends on the segment alone: run again, here or in another process, it is the same to the bit (CPU,
    float32), and a trial cut into segments anywhere (by `stop` or `max_seconds` too) is the same as one that never
    paused. Failures are values: see `SegmentResult.status` and `.reason`.
    """
    run = _Run(segment, stop)
    try:
        run.fit()
    except Exception as error:  # A user's code may raise anything: the trial ends, the worker goes on.
        run.failed(error)
    except SystemExit as error:
        take_back_interrupt(error)
        run.failed(RuntimeError(f"the code called sys.exit({error.code!r})").with_traceback(error.__traceback__))
    finally:
        run.release()
    return run.result()


def take_back_interrupt(error: SystemExit) -> None:
    """Raise the Ctrl-C that Lightning has turned into an exit, if it was one."""
    if isinstance(error.__context__, KeyboardInterrupt):
        # Lightning has made the process deaf to the next one, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise error.__context__ from None


def out_of_memory(error: Exception) -> str | None:
    """Whose memory is used up, `oom_gpu` or `oom_host`; None for any other error.

    What fails while memory is being used up may hide that: a Trainer that cleans up, say. It was there before.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if isinstance(cause, torch.OutOfMemoryError) or "CUDA out of memory" in text:
            return "oom_gpu"
        if isinstance(cause, MemoryError) or "can't allocate memory" in text:
            return "oom_host"
        cause = cause.__cause__ or cause.__context__
    return None


class _Run:
    """One call of `train_segment`: what it has got hold of so far, so that a failure can report it."""

    def __init__(self, segment: Segment, stop: Callable[[], bool]) -> None:
        self.segment = segment
        self.stop = stop
        self.started = time.time()
        self.clock = time.perf_counter()
        self.plan: Plan | None = None
        self.conductor: Conductor | None = None
        self.data: PreparedData | None = None
        self.status: Status = "FAILED"
        self.reason = ""

    def fit(self) -> None:
        """Build everything, train, and take over how it ended."""
        config = self.segment.config
        tree = module_tree(config)
        self.data = data = prepare(config)
        self.plan = plan = data.plan(config)
        loader = data.loader(config, plan)
        recorder = Recorder(
            config, examples_per_epoch=data.examples, warmup_steps=round(config.warmup * plan.total_steps)
        )
        self.conductor = conductor = Conductor(self.segment, plan, loader, recorder)
        conductor.stop = self.stop
        trainer = build_trainer(config, tree, conductor)
        data.datamodule.trainer = trainer  # Its transfer hooks may ask whether this is training.
        loader.current_epoch = lambda: trainer.current_epoch
        trainer.fit_loop.epoch_loop._should_check_val_fx = lambda _: conductor.evaluates(trainer)
        # Signals belong to whoever runs the segment: at SIGTERM, Lightning would break off where we pause.
        trainer._signal_connector.register_signal_handlers = lambda: None
        with warnings.catch_warnings():
            # Advice for people at a screen (number of DataLoader workers, tensor cores, ...), once per trial.
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\.")
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            module = build_module(config, data)
            lean.quicken(trainer, module, tree)
            trainer.fit(module, loader, data.val_loaders, ckpt_path=self.segment.checkpoint)
            recorder.stop_clock()
            if conductor.status == "COMPLETE":
                conductor.save(trainer)
                self.validate_fit(trainer, module)
        self.status, self.reason = conductor.status, conductor.reason

    def validate_fit(self, trainer: Any, module: Any) -> None:
        """Validate on training examples too; the training is over and saved, whatever becomes of this."""
        assert self.data is not None and self.conductor is not None, "they were there to train"
        try:
            self.conductor.fit = validated(trainer, module, train_subset(self.data))
        except Exception as error:  # A user's validation step may take validation batches only.
            self.conductor.gap_reason = why_not(error)

    def failed(self, error: Exception) -> None:
        """Tell what kind of failure an exception is."""
        text = str(error)
        if memory := out_of_memory(error):
            self.status, self.reason = "OOM", f"{memory}: {text or 'out of memory'}"
        elif isinstance(error, ConfigError):
            self.status, self.reason = "FAILED", f"config: {text}"
        elif isinstance(error, CheckpointError):
            self.status, self.reason = "FAILED", f"checkpoint: {text}"
        else:
            self.status, self.reason = "FAILED", f"user_error: {told(error)}"

    def release(self) -> None:
        """The data stay in memory for the next trial; the Trainer, its module and their memory do not."""
        if self.data:
            self.data.datamodule.trainer = None

    def result(self) -> SegmentResult:
        """Everything known at the end."""
        conductor, segment = self.conductor, self.segment
        recorder = conductor.recorder if conductor else None
        return SegmentResult(
            trial=segment.trial,
            from_step=segment.from_step,
            to_step=conductor.step if conductor else segment.from_step,
            total_steps=self.plan.total_steps if self.plan else 0,
            status=self.status,
            reason=self.reason,
            curve=recorder.curve if recorder else (),
            checkpoint=conductor.checkpoint if conductor else None,
            sha256=conductor.sha256 if conductor else None,
            started=self.started,
            seconds=recorder.segment_seconds if recorder else 0.0,
            wall_seconds=time.perf_counter() - self.clock,
            examples=recorder.segment_examples if recorder else 0,
            fit=conductor.fit if conductor else {},
            worker=f"{socket.gethostname()}:{os.getpid()}",
            tags={
                "tier": "solo",
                **machine_tags(segment.config.accelerator),
                **({"order": self.data.order} if self.data else {}),
                **(conductor.tags if conductor else {}),
            },
        )


def module_tree(config: TrainConfig) -> ModuleType:
    """The Lightning package whose Trainer a trial needs: that of its module. Quiet from then on."""
    cls = find_class(config.model["class_path"], where="model.class_path")
    tree = lightning_of(cls, base="LightningModule", where="model.class_path")
    silence()
    return tree


def silence() -> None:
    """Keep both Lightnings from telling, once per trial, what they find and do."""
    for name in CHATTERING:
        logging.getLogger(name).setLevel(logging.ERROR)


def build_module(config: TrainConfig, data: PreparedData) -> Any:
    """The LightningModule of a trial, initialized from its seed, with the recipe's optimizer in place of its own."""
    rng.seed_everything(config.seed_init)
    module = build({"class_path": config.model["class_path"], "init_args": config.model["init_args"]}, where="model")
    rng.seed_everything(config.seed_dropout)
    if config.precision == "64-true":
        # Lightning turns the module into one of 64 bits only after it has loaded a checkpoint into its 32.
        module = module.double()
    for name, hook in data.hooks.items():
        setattr(module, name, hook)
    if config.optimizer != OWN_OPTIMIZER:
        module.configure_optimizers = lambda: build_optimizer(config, module)
    return module


def build_optimizer(config: TrainConfig, module: Any) -> torch.optim.Optimizer:
    """The recipe's optimizer over a module's trainable parameters."""
    assert config.learning_rate is not None, "only the module's own optimizer comes without a rate"
    return optimizers.build(
        config.optimizer,
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        fused="mixed" not in config.precision,  # Lightning refuses to clip where a fused optimizer unscales gradients.
        **config.optimizer_args,
    )


def build_trainer(config: TrainConfig, tree: ModuleType, conductor: Conductor) -> Any:
    """A Trainer without all that costs time: no sanity check, bar, summary or logger; the only checkpoints are ours."""
    return tree.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        # Modules with their own schedule ask for this. `max_steps` would make Lightning resume by steps, not by epochs.
        max_epochs=len(conductor.plan.steps_of_epoch),
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
        reload_dataloaders_every_n_epochs=1 if config.schedule == "batch_growth" else 0,
        callbacks=[lightning_callback(conductor, tree)],
        plugins=[checkpoint_plugin(conductor, tree), one_process(tree)],
        profiler=lean.silent_profiler(tree),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,  # As in the validation of a training: a step may ask for gradients.
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=tempfile.gettempdir(),
    )


def validated(trainer: Any, module: Any, batches: TrainSubset) -> dict[str, float]:
    """What a trained module logs of other batches in Lightning's own validation, by name."""
    # The conductor's part is over: this is no evaluation of the training.
    trainer.callbacks.clear()
    # Some modules make their layers in it: called again, it would undo the training.
    module.setup = lambda stage: None
    rng.seed_everything(SEED)
    trainer.validate(module, batches, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def one_process(tree: ModuleType) -> Any:
    """The environment of a process on its own: from Slurm's variables, Lightning would think that there are others."""
    fabric = "lightning_fabric" if tree.__name__ == "pytorch_lightning" else "lightning.fabric"
    return importlib.import_module(f"{fabric}.plugins.environments").LightningEnvironment()
