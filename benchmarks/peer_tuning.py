"""Searches for the best configuration with what people use: Ray Tune with ASHA, Optuna with its median pruner."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from peer_searches import Job, Told, propose, sampler, silence, train

ETA = 3
"""Of Ray's successive halving, as of Regatta's: one of three goes on from a rung, at 1/9 and 1/3 of the training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When a search ends, and whether it gives trials up before."""

    until: float
    """Unix time."""
    pruning: bool
    """Whether trials that look poor are stopped."""


class Notebook:
    """Writes down every evaluation of one trial, as it comes, for the curves of the search."""

    def __init__(self, folder: str, trial: str, settings: Mapping[str, Any]) -> None:
        self.path = Path(folder) / f"told-{os.getpid()}.jsonl"
        self.about = {"trial": trial, "settings": settings}
        self.epoch = 0

    def __call__(self, told: Told) -> None:
        """Append one line."""
        self.epoch += 1
        line = {**self.about, "epoch": self.epoch, "at": told["ended"], "value": told["val_loss"]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def optuna_search(job: Job, limits: Limits) -> None:
    """One of several processes that share a study."""
    study = optuna.create_study(
        study_name="peers",
        storage=JournalStorage(JournalFileBackend(f"{job.folder}/journal.log")),
        sampler=sampler(job),
        pruner=optuna.pruners.MedianPruner() if limits.pruning else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )

    def objective(trial: optuna.Trial) -> float:
        settings = propose(trial, job)
        note = Notebook(job.folder, str(trial.number), settings)
        values: list[float] = []

        def report(told: Told) -> None:
            note(told)
            values.append(told["val_loss"])
            trial.report(values[-1], step=len(values))
            if time.time() > limits.until or trial.should_prune():
                raise optuna.TrialPruned

        train(settings, job, report)
        return values[-1]

    study.optimize(objective, timeout=limits.until - time.time())


def ray_search(job: Job, limits: Limits) -> None:
    """All trials, one processor each, in as many actors as there are workers."""
    ray, tune = importlib.import_module("ray"), importlib.import_module("ray.tune")
    search, schedulers = (
        importlib.import_module("ray.tune.search.optuna"),
        importlib.import_module("ray.tune.schedulers"),
    )
    ray.init(num_cpus=job.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def trainable(settings: dict[str, Any]) -> None:
        note = Notebook(job.folder, tune.get_context().get_trial_id(), settings)

        def report(told: Told) -> None:
            note(told)
            tune.report(told)

        train(settings, job, report)

    space = functools.partial(propose, job=job)
    halving = schedulers.ASHAScheduler(
        metric="val_loss",
        mode="min",
        time_attr="training_iteration",
        max_t=job.epochs,
        grace_period=max(1, round(job.epochs / ETA**2)),
        reduction_factor=ETA,
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=search.OptunaSearch(space, metric="val_loss", mode="min", sampler=sampler(job)),
            scheduler=halving if limits.pruning else None,
            num_samples=-1,
            time_budget_s=limits.until - time.time(),
            max_concurrent_trials=job.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=job.folder, verbose=0),
    )
    tuner.fit()


SEARCHES: Mapping[str, Callable[[Job, Limits], None]] = {"ray": ray_search, "optuna": optuna_search}


def main(job: str, limits: str) -> None:
    """Do one job, both given as JSON."""
    silence()
    told = Job(**json.loads(job))
    SEARCHES[told.kind](told, Limits(**json.loads(limits)))


if __name__ == "__main__":
    main(*sys.argv[1:])
