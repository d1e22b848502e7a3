"""One search for the best configuration: from the command on, by Regatta or by what people use."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from choices import Chosen, of_peer, of_regatta
from fresh_seeds import Settings, losses
from peer_searches import Job
from peer_tuning import Limits
from peers import MOMENTUM, QUIET, RATES, ROOT, SCHEDULES, SPLIT

from tracking.ledger import Ledger

WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "network": "mlp",
        "class_path": "models.nets.MLP",
        "init_args": {"features": 64, "hidden": [128, 128], "classes": 10},
        "batch_sizes": [16, 32, 64, 128, 256, 512],
        "epochs": 20,
        "seconds": 180.0,
        "targets": [0.2, 0.1, 0.08, 0.07, 0.06, 0.05],
    },
    "conv": {
        "network": "conv",
        "class_path": "models.nets.ConvNet",
        "init_args": {"channels": 1, "width": 8, "classes": 10},
        "batch_sizes": [16, 64, 256],
        "epochs": 10,
        "seconds": 60.0,
        "targets": [0.2, 0.1, 0.06, 0.04, 0.03],
    },
}
"""Model, data, space, seconds and targets: the same for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """Who searches, and how."""

    name: str
    kind: str
    """`regatta`, `ray` or `optuna`."""
    sampler: str = "tpe"
    pruning: bool = True
    budget: float = 1.0
    """Wall-clock time, as a share of the others'."""


CONTENDERS = {
    "regatta": Contender(name="Regatta, tune", kind="regatta"),
    "ray": Contender(name="Ray Tune, OptunaSearch + ASHA", kind="ray"),
    "optuna": Contender(name="Optuna, TPE + median pruner", kind="optuna"),
    "qmc": Contender(name="quasi-random, twice the time", kind="optuna", sampler="qmc", pruning=False, budget=2.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A configuration that somebody would train for production now."""

    settings: Settings
    seconds: float
    """From the command to the choice."""
    fresh: Sequence[float]
    """Validation losses at the end of its training, on seeds that no search has seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One search: when it came to what."""

    best: Sequence[tuple[float, float]]
    """Seconds since its first process started, and the best validation loss by then; only where it falls."""
    trials: int
    """Trials that had been evaluated at least once when its time was up."""
    seconds: float
    """Its time."""
    choices: Mapping[str, Choice]
    """The configuration that it came to, and for Regatta the one that `regatta verify` chose; by name."""
    course: Mapping[float, Choice]
    """By the second at which it is asked, what it would have chosen at earlier times, and at last did."""

    def at(self, seconds: float) -> float:
        """The best loss by then; infinity before the first."""
        return min((value for when, value in self.best if when <= seconds), default=math.inf)

    def chosen_at(self, when: float) -> float:
        """The mean loss on fresh seeds of what it would have chosen then; infinity before the first."""
        return statistics.fmean(self.course[when].fresh) if when in self.course else math.inf

    def until(self, target: float) -> float:
        """Seconds to a target; infinity if it was not reached."""
        return next((when for when, value in self.best if value <= target), math.inf)


def run_of(
    told: Sequence[Mapping[str, Any]],
    *,
    started: float,
    seconds: float,
    choices: Mapping[str, Choice],
    course: Mapping[float, Choice],
) -> Run:
    """A run from its evaluations: `at` (Unix time), `value`, `trial`."""
    best: list[tuple[float, float]] = []
    within = sorted((one["at"] - started, one["value"], one["trial"]) for one in told)
    within = [one for one in within if one[0] <= seconds]
    for when, value, _ in within:
        if value < (best[-1][1] if best else math.inf):
            best.append((when, value))
    return Run(best=best, trials=len({trial for *_, trial in within}), seconds=seconds, choices=choices, course=course)


def course_of(asked: Iterable[Chosen], job: Job, *, fresh: int) -> dict[float, Choice]:
    """Every choice, trained on fresh seeds once."""
    trained: dict[str, list[float]] = {}
    course = {}
    for one in asked:
        key = repr(sorted(one.settings.items()))
        if key not in trained:
            trained[key] = losses(one.settings, job, seeds=fresh)
        course[one.when] = Choice(settings=one.settings, seconds=one.when + one.took, fresh=trained[key])
    return course


def job_of(workload: Mapping[str, Any], options: argparse.Namespace, **more: Any) -> Job:
    """What a process that trains the workload is told."""
    return Job(
        batch_sizes=workload["batch_sizes"],
        schedules=SCHEDULES,
        rates=RATES,
        momentum=MOMENTUM,
        split=SPLIT,
        epochs=workload["epochs"],
        network=workload["network"],
        workers=options.workers,
        trials=options.trials,
        result="",
        **{"kind": "", "sampler": "", "seed": 0, "folder": "", **more},
    )


def seconds_of(workload: Mapping[str, Any], options: argparse.Namespace) -> float:
    """Wall-clock time of one search."""
    return float(options.seconds or workload["seconds"])


def recipe(workload: Mapping[str, Any], options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The workload for Regatta; no more trials are ever asked than time allows."""
    network = {"class_path": workload["class_path"], "init_args": workload["init_args"]}
    return {
        "name": "tuning",
        "model": {"class_path": "models.task.Classifier", "init_args": {"network": network}},
        "data": {
            "class_path": "models.data.Digits",
            "init_args": {**SPLIT, "image": workload["network"] == "conv"},
        },
        "training": {"epochs": workload["epochs"], "accelerator": "cpu", "seed": seed},
        # By the loss at the end of a training, as the others choose.
        "metrics": {"objective": "val_loss", "direction": "min", "select": "final", "target": workload["targets"][-1]},
        "search": {
            "strategy": "tune",
            "batch_sizes": workload["batch_sizes"],
            "optimizers": {"sgd": {"momentum": MOMENTUM}},
            "schedules": SCHEDULES,
            "learning_rate": {"rule": "absolute", "low": RATES[0], "high": RATES[1]},
            "trials": options.trials,
            "seconds": seconds_of(workload, options),
            "probes": [],
            "seed": seed,
        },
        "cluster": {"workers": options.workers},
        "tracking": {"mlflow": True, "report": False},
    }


def regatta(workload: Mapping[str, Any], options: argparse.Namespace, folder: Path, seed: int) -> Run:
    """`regatta search` from an empty state folder; what a segment came to counts from when it had ended."""
    path, home = folder / "tuning.yaml", folder / "home"
    path.write_text(yaml.safe_dump(recipe(workload, options, seed)), encoding="utf-8")
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    choices: dict[str, Choice] = {}
    spent, started = 0.0, time.time()
    for name, words in {
        CONTENDERS["regatta"].name: ("search", "--config", str(path)),
        "the same, then verified": ("verify", "--study", "tuning"),
    }.items():
        begun = time.monotonic()
        command = [sys.executable, "-m", "pipelines.cli", *words]
        called = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert called.returncode == 0, called.stdout + called.stderr
        spent += time.monotonic() - begun
        bundle = yaml.safe_load((home / "tuning" / "best.yaml").read_text(encoding="utf-8"))
        settings = {
            "batch_size": bundle["batch"]["size"],
            "schedule": bundle["schedule"]["name"],
            "learning_rate": bundle["optimizer"]["learning_rate"],
        }
        fresh = losses(settings, job_of(workload, options), seeds=options.fresh)
        choices[name] = Choice(settings=settings, seconds=spent, fresh=fresh)
    with Ledger.open(home / "tuning", create=False) as ledger:
        told = [
            {"trial": trial["number"], "at": segment["started"] + segment["wall_seconds"], "value": point["val_loss"]}
            for trial in ledger.trials()
            for segment in ledger.segments(trial["number"])
            for point in segment["curve"]
            if math.isfinite(point.get("val_loss", math.nan))
        ]
    seconds, job = seconds_of(workload, options), job_of(workload, options)
    asked = of_regatta(home / "tuning", started=started, seconds=seconds)
    course = course_of(asked, job, fresh=options.fresh)
    return run_of(told, started=started, seconds=seconds, choices=choices, course=course)


def peer(
    contender: Contender, workload: Mapping[str, Any], options: argparse.Namespace, folder: Path, seed: int
) -> Run:
    """Start the processes of a peer together, and wait for all of them."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    started = time.time()
    seconds = contender.budget * seconds_of(workload, options)
    limits = json.dumps(asdict(Limits(until=started + seconds, pruning=contender.pruning)))
    processes = options.workers if contender.kind == "optuna" else 1
    jobs = [
        job_of(
            workload,
            options,
            kind=contender.kind,
            sampler=contender.sampler,
            seed=seed * processes + index,
            folder=str(folder),
        )
        for index in range(processes)
    ]
    command = [sys.executable, str(ROOT / "benchmarks" / "peer_tuning.py")]
    running = [
        subprocess.Popen(
            [*command, json.dumps(asdict(job)), limits], env=environment, cwd=folder, stdout=subprocess.DEVNULL
        )
        for job in jobs
    ]
    codes = [process.wait() for process in running]
    assert not any(codes), f"the processes of {contender.name} ended with {codes}"
    spent = time.time() - started
    lines = [line for file in folder.glob("told-*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    told = [json.loads(line) for line in lines]
    asked = of_peer(told, epochs=workload["epochs"], started=started, seconds=seconds)
    course = course_of(asked, job_of(workload, options), fresh=options.fresh)
    choices = {contender.name: replace(course[seconds], seconds=spent)}
    return run_of(told, started=started, seconds=seconds, choices=choices, course=course)


def race(key: str, workload: Mapping[str, Any], options: argparse.Namespace, seed: int) -> Run:
    """One search of one contender, from nothing."""
    with tempfile.TemporaryDirectory(prefix="tuning-") as folder:
        if CONTENDERS[key].kind == "regatta":
            return regatta(workload, options, Path(folder), seed)
        return peer(CONTENDERS[key], workload, options, Path(folder), seed)
