"""What people search with: Ray Tune or Optuna around ordinary Lightning, in the processes that `peers.py` starts."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from pytorch_lightning.loggers import MLFlowLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, StepLR

from models.data import Digits
from models.nets import MLP, ConvNet
from models.task import Classifier

HOPELESS = 1e6
"""What a sampler is told where the validation loss is no number: it would take the trial for failed."""

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": functools.partial(MLP, features=64, hidden=(128, 128), classes=10),
    "conv": functools.partial(ConvNet, channels=1, width=8, classes=10),
}
"""What is trained."""

Told = dict[str, float]
"""What is known after an epoch, by the names below."""
NAMES = ("val_loss", "steps", "ended", "process")
"""Steps taken, Unix time, and the number of the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one process is told."""

    kind: str
    """`ray` or `optuna`."""
    batch_sizes: Sequence[int]
    schedules: Sequence[str]
    rates: Sequence[float]
    """Lowest and highest learning rate, uniform in the logarithm."""
    momentum: float
    split: Mapping[str, float]
    """Shares of the digits to validate and to test."""
    epochs: int
    workers: int
    """Processes that train; Ray starts them itself."""
    trials: int
    """Of all processes together."""
    sampler: str
    seed: int
    folder: str
    """Where the processes of one search meet."""
    result: str
    """The file in which this process leaves its `Result`, as JSON."""
    network: str = "mlp"
    """`mlp` or `conv`."""
    tracking: str | None = None
    """Where MLflow is told of every trial, by a Trainer as it comes; None: nowhere, and a Trainer without extras."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one process has to say."""

    race: float
    """Seconds of the search, without imports and without the start of what Ray needs."""
    trials: Sequence[Told]
    """Of each trial, what was told of its last epoch."""


class Plain(Classifier):
    """The same network and losses as Regatta's trials, with optimizer and schedule as Lightning's users write them."""

    def __init__(
        self, settings: Mapping[str, Any], *, momentum: float, steps: int, network: nn.Module | None = None
    ) -> None:
        """`settings`: `learning_rate` and `schedule`; `steps`: those of the whole training; no `network`: the MLP."""
        super().__init__(network or NETWORKS["mlp"]())
        self.settings = settings
        self.momentum = momentum
        self.steps = steps

    def configure_optimizers(self) -> Any:
        """SGD, and torch's schedule of that name, moved on at every step."""
        optimizer = torch.optim.SGD(self.parameters(), lr=self.settings["learning_rate"], momentum=self.momentum)
        schedule = scheduler(self.settings["schedule"], optimizer, steps=self.steps)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def scheduler(name: str, optimizer: torch.optim.Optimizer, *, steps: int) -> LRScheduler | None:
    """torch's form of one of Regatta's schedules, with the same arguments; None for a constant rate."""
    match name:
        case "step":
            return StepLR(optimizer, step_size=-(-3 * steps // 10), gamma=0.1)
        case "exponential":
            return ExponentialLR(optimizer, gamma=0.01 ** (1 / steps))
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
    assert name == "constant", f"the peers have no form of {name}"
    return None


class ReportEachEpoch(pl.Callback):
    """Tells the search what came of every epoch; less work than Ray's own callback, which takes part in all hooks."""

    def __init__(self, report: Callable[[Told], None]) -> None:
        self.report = report

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report one evaluation, except of weights that have not been trained."""
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val_loss"])
        told = loss if math.isfinite(loss) else HOPELESS
        self.report({"val_loss": told, "steps": trainer.global_step, "ended": time.time(), "process": os.getpid()})


def train(settings: Mapping[str, Any], job: Job, report: Callable[[Told], None]) -> None:
    """Train one trial, with a Trainer as it comes or with what Lightning offers for speed (`trainer_options`)."""
    silence()
    torch.set_num_threads(1)
    validation, test = job.split["validation"], job.split["test"]
    data = Digits(settings["batch_size"], validation=validation, test=test, image=job.network == "conv")
    data.setup()
    steps = job.epochs * len(data.train_dataloader())
    module = Plain(settings, momentum=job.momentum, steps=steps, network=NETWORKS[job.network]())
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=job.epochs,
        callbacks=[ReportEachEpoch(report)],
        **trainer_options(settings, job),
    )
    trainer.fit(module, datamodule=data)


def trainer_options(settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """No logger, checkpoint, bar, summary or sanity check; or all of them, and the logger MLflow's."""
    if job.tracking is None:
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        return {**dict.fromkeys(off, False), "num_sanity_val_steps": 0}
    logger = MLFlowLogger("Default", tracking_uri=job.tracking)
    logger.log_hyperparams(dict(settings))
    return {"logger": logger, "default_root_dir": job.folder}


def silence() -> None:
    """Keep Lightning and Optuna from telling at every trial what they find."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\.")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(trial: Any, job: Job) -> dict[str, Any]:
    """One point of the space, from an Optuna trial or from what Ray makes of one."""
    low, high = job.rates
    return {
        "batch_size": trial.suggest_categorical("batch_size", list(job.batch_sizes)),
        "schedule": trial.suggest_categorical("schedule", list(job.schedules)),
        "learning_rate": trial.suggest_float("learning_rate", low, high, log=True),
    }


def sampler(job: Job) -> optuna.samplers.BaseSampler:
    """Optuna's default, or the one whose trials are spread over the batch sizes as Regatta's are."""
    if job.sampler == "qmc":
        # One sequence for all processes: the study's storage keeps the place in it.
        return optuna.samplers.QMCSampler(scramble=True, seed=job.seed // job.workers, warn_independent_sampling=False)
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    made: optuna.samplers.BaseSampler = kinds[job.sampler](seed=job.seed)
    return made


def optuna_search(job: Job) -> Result:
    """The trials of one of several processes that share a study, each going on until all have had all trials."""
    started = time.time()
    mine: list[Told] = []

    def objective(trial: optuna.Trial) -> float:
        curve: list[Told] = []
        train(propose(trial, job), job, curve.append)
        mine.append(curve[-1])
        return curve[-1]["val_loss"]

    study = optuna.create_study(
        study_name="peers",
        storage=JournalStorage(JournalFileBackend(f"{job.folder}/journal.log")),
        sampler=sampler(job),
        load_if_exists=True,
    )
    # All states: what another process is training counts, so that no process begins one too many.
    study.optimize(objective, callbacks=[MaxTrialsCallback(job.trials, states=None)])
    return Result(race=time.time() - started, trials=mine)


def ray_search(job: Job) -> Result:
    """All trials, one processor each, in as many actors as there are workers, which stay for the next trial."""
    ray, tune = importlib.import_module("ray"), importlib.import_module("ray.tune")
    search = importlib.import_module("ray.tune.search.optuna")
    ray.init(num_cpus=job.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def trainable(settings: dict[str, Any]) -> None:
        train(settings, job, tune.report)

    # Not a function in this one: Ray keeps the state of its search with pickle.
    space = functools.partial(propose, job=job)
    algorithm = search.OptunaSearch(space, metric="val_loss", mode="min", sampler=sampler(job))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            num_samples=job.trials,
            # Without it, one trial at most waits for an actor, and all may end up in a single one.
            max_concurrent_trials=job.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=job.folder, verbose=0),
    )
    started = time.time()
    results = tuner.fit()
    race = time.time() - started
    assert results.num_errors == 0, results.errors
    return Result(race=race, trials=[{name: result.metrics[name] for name in NAMES} for result in results])


SEARCHES: Mapping[str, Callable[[Job], Result]] = {"ray": ray_search, "optuna": optuna_search}


def main(text: str) -> None:
    """Do one job, given as JSON."""
    job = Job(**json.loads(text))
    silence()
    result = SEARCHES[job.kind](job)
    Path(job.result).write_text(json.dumps(asdict(result)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
