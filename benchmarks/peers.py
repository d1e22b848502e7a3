"""Trials per minute of whole searches, MLflow included, beside Ray Tune with Lightning and Optuna with Lightning."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from tracking.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZES = [16, 32, 64, 128, 256, 512]
SCHEDULES = ["constant", "step", "exponential", "cosine"]
RATES = (1e-4, 1.0)
"""Lowest and highest learning rate, uniform in the logarithm."""
MOMENTUM = 0.9
SPLIT = {"validation": 0.2, "test": 0.0}
"""Shares of the digits: 1,437 to train on, 360 to validate."""
CONTENDERS = {
    "regatta": "Regatta",
    "ray": "Ray Tune + Lightning, extras off",
    "optuna": "Optuna + Lightning, extras off",
    "ray-mlflow": "Ray Tune + Lightning, with MLflow",
    "optuna-mlflow": "Optuna + Lightning, with MLflow",
}
"""Regatta writes checkpoints and to MLflow, as the last two do; the others have neither."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
"""Ray without what takes time and was not asked for: statistics sent home, three log files a trial, tables."""
COLUMNS = (
    "contender",
    "trials",
    "steps a trial",
    "whole, s",
    "race, s",
    "trials/min, whole",
    "trials/min, steady",
    "steps/s, steady",
)
"""Of the table, before those that compare. The last one depends less on which batch sizes a sampler likes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one search of one contender came to."""

    trials: int
    whole: float
    """Seconds from the start of its first process to the end of its last."""
    race: float
    """Seconds of the search itself: as `regatta search` prints them, of `tuner.fit()`, of `study.optimize()`."""
    rate: float
    """Trials a minute while all processes train."""
    steps: float
    """Optimizer steps of a trial, on average: a search that likes small batches takes more of them."""

    def seconds(self, trials: int) -> float:
        """How long so many trials take in all: what was measured, and the others at the steady rate."""
        return self.whole + (trials - self.trials) * 60 / self.rate


def recipe(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The workload for Regatta: as many quasi-random trials in every cell, and no others."""
    network = {"class_path": "models.nets.MLP", "init_args": {"features": 64, "hidden": [128, 128], "classes": 10}}
    return {
        "name": "peers",
        "model": {"class_path": "models.task.Classifier", "init_args": {"network": network}},
        "data": {"class_path": "models.data.Digits", "init_args": SPLIT},
        "training": {"epochs": options.epochs, "accelerator": "cpu", "seed": seed},
        "metrics": {"objective": "val_loss", "direction": "min"},
        "search": {
            "batch_sizes": options.batch_sizes,
            "optimizers": {"sgd": {"momentum": MOMENTUM}},
            "schedules": options.schedules,
            "learning_rate": {"rule": "absolute", "low": RATES[0], "high": RATES[1]},
            "trials": options.trials // cells(options),
            "refine": 0,
            "probes": [],
            "extend": False,
            "seed": seed,
        },
        "cluster": {"workers": options.workers},
        "tracking": {"mlflow": True, "report": False},
    }


def regatta(options: argparse.Namespace, folder: Path, seed: int) -> Outcome:
    """`regatta search` from an empty state folder, until every trial is in MLflow."""
    path, home = folder / "peers.yaml", folder / "home"
    path.write_text(yaml.safe_dump(recipe(options, seed)), encoding="utf-8")
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "pipelines.cli", "search", "--config", str(path)]
    started = time.perf_counter()
    called = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - started
    assert called.returncode == 0, called.stdout + called.stderr
    return of_ledger(home / "peers", options.trials, whole=whole, race=printed_race(called.stdout))


def printed_race(output: str) -> float:
    """Seconds of the race, as the search prints them: "96 trials in 0:14"."""
    found = re.search(r"^\d+ trials in (?:(\d+):)?(\d+):(\d\d)$", output, re.MULTILINE)
    assert found, output
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600.0 + minutes * 60.0 + seconds


def of_ledger(folder: Path, trials: int, *, whole: float, race: float) -> Outcome:
    """What a ledger tells of a search; its steady rate counts from the start of the first training to the last's end.

    Raises:
        AssertionError: if a trial is missing, has failed, or is not in MLflow.
    """
    with Ledger.open(folder, create=False) as ledger:
        statuses = [trial["status"] for trial in ledger.trials()]
        segments = [segment for number in range(len(statuses)) for segment in ledger.segments(number)]
        assert len(statuses) == trials and set(statuses) <= {"COMPLETE", "DIVERGED"}, statuses
        assert ledger.unsent_count() == 0, "every trial must be in MLflow"
    first = min(segment["started"] for segment in segments)
    last = max(segment["started"] + segment["wall_seconds"] for segment in segments)
    steps = sum(segment["to_step"] - segment["from_step"] for segment in segments)
    return Outcome(trials=trials, whole=whole, race=race, rate=trials * 60 / (last - first), steps=steps / trials)


def jobs(contender: str, options: argparse.Namespace, folder: str, seed: int) -> list[dict[str, Any]]:
    """The workload for a peer: what each of its processes is told (`peer_searches.Job`)."""
    kind, _, tracking = contender.partition("-")
    processes = options.workers if kind == "optuna" else 1
    return [
        {
            "kind": kind,
            "tracking": f"sqlite:///{folder}/mlflow.db" if tracking else None,
            "batch_sizes": options.batch_sizes,
            "schedules": options.schedules,
            "rates": RATES,
            "momentum": MOMENTUM,
            "split": SPLIT,
            "epochs": options.epochs,
            "workers": options.workers,
            "trials": options.peer_trials,
            "sampler": options.sampler,
            "seed": seed * processes + index,
            "folder": folder,
            "result": f"{folder}/result-{index}.json",
        }
        for index in range(processes)
    ]


def peer(told: Sequence[Mapping[str, Any]]) -> Outcome:
    """Start the processes of a peer together, and wait for all of them."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.peer_searches"]
    if uri := told[0]["tracking"]:
        # Not on its clock: two processes that make the same database at once would be in each other's way.
        MlflowClient(uri).search_experiments()
    started = time.perf_counter()
    running = [
        subprocess.Popen([*command, json.dumps(job)], env=environment, cwd=job["folder"], stdout=subprocess.DEVNULL)
        for job in told
    ]
    codes = [process.wait() for process in running]
    whole = time.perf_counter() - started
    assert not any(codes), f"the processes of {told[0]['kind']} ended with {codes}"
    results = [json.loads(Path(job["result"]).read_text(encoding="utf-8")) for job in told]
    return of_results(results, workers=told[0]["workers"], whole=whole)


def of_results(results: Sequence[Mapping[str, Any]], *, workers: int, whole: float) -> Outcome:
    """What the processes of a peer tell of their search.

    Raises:
        AssertionError: if it had fewer processes at work than Regatta had: they would not compare.
    """
    trials = [trial for result in results for trial in result["trials"]]
    processes = {trial["process"] for trial in trials}
    assert len(processes) >= workers, f"{len(processes)} of {workers} processes trained"
    return Outcome(
        trials=len(trials),
        whole=whole,
        race=max(result["race"] for result in results),
        rate=steady([trial["ended"] for trial in trials], workers),
        steps=statistics.mean(trial["steps"] for trial in trials),
    )


def steady(ended: Sequence[float], workers: int) -> float:
    """Trials a minute while all workers train: from the end of each one's first trial to when the first may be idle."""
    times = sorted(ended)
    return (len(times) - 2 * workers + 1) * 60 / (times[-workers] - times[workers - 1])


def race(contender: str, options: argparse.Namespace, seed: int) -> Outcome:
    """One search of one contender, from nothing."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        if contender == "regatta":
            return regatta(options, Path(folder), seed)
        return peer(jobs(contender, options, folder, seed))


def table(rounds: Sequence[Mapping[str, Outcome]], trials: int) -> Iterator[str]:
    """A line for each contender: medians and ranges, and against the first one ratios within each round."""
    first = next(iter(rounds[0]))
    name = CONTENDERS[first]
    compared = (f"{trials} trials, s", f"time for them, over {name}'s", f"{name}'s steady rate, over its")
    yield f"| {' | '.join((*COLUMNS, *compared))} |"
    yield "|" + "---|" * (len(COLUMNS) + len(compared))
    for contender in rounds[0]:
        runs = [outcomes[contender] for outcomes in rounds]
        line = [
            CONTENDERS[contender],
            str(runs[0].trials),
            spread([run.steps for run in runs], ".0f"),
            spread([run.whole for run in runs], ".1f"),
            spread([run.race for run in runs], ".1f"),
            spread([run.trials * 60 / run.whole for run in runs], ".1f"),
            spread([run.rate for run in runs], ".1f"),
            spread([run.rate * run.steps / 60 for run in runs], ".0f"),
            spread([run.seconds(trials) for run in runs], ".1f"),
            spread([out[contender].seconds(trials) / out[first].seconds(trials) for out in rounds], ".2f", "x"),
            spread([out[first].rate / out[contender].rate for out in rounds], ".2f", "x"),
        ]
        yield f"| {' | '.join(line)} |"


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Median and, of several, the range."""
    middle = f"{statistics.median(values):{form}}{unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def machine() -> str:
    """What it runs on: processor, cores, versions."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpu.read_text(encoding="utf-8") if cpu.exists() else "", re.MULTILINE)
    packages = ["torch", "pytorch-lightning", "optuna", "mlflow", *(["ray"] if importlib.util.find_spec("ray") else [])]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {versions}"


def cells(options: argparse.Namespace) -> int:
    """Combinations of batch size and schedule."""
    return len(options.batch_sizes) * len(options.schedules)


def mistakes(options: argparse.Namespace) -> Iterator[str]:
    """Yield one sentence for every rule broken."""
    least = 2 * options.workers + 1
    if options.trials < 1 or options.trials % cells(options):
        yield f"`--trials` must be a multiple of {cells(options)} (the cells), but got {options.trials}."
    if options.peer_trials < least:
        yield f"`--peer-trials` must be at least {least} for {options.workers} workers, but got {options.peer_trials}."
    if {"ray", "ray-mlflow"} & {*options.contenders} and importlib.util.find_spec("ray") is None:
        yield "Ray is not installed. Run `pip install -e .[bench]`, or leave it out: `--contenders regatta optuna`."


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The options; all mistakes at once, and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--trials", type=int, default=96, help="Regatta's, and those that all are compared at")
    parser.add_argument("--peer-trials", type=int, default=32, help="of each other contender; the rest is computed")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that train (default: the cores)")
    parser.add_argument("--sampler", choices=["tpe", "random"], default="tpe", help="of the others (default: tpe)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median is printed (default: 3)")
    options = parser.parse_args(given)
    if found := list(mistakes(options)):
        print("\n".join(found), file=sys.stderr)
        raise SystemExit(2)
    return options


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; nothing else should run meanwhile."""
    options = arguments(given)
    print(
        f"{machine()}\n{options.epochs} epochs, {options.workers} workers, sampler of the others: {options.sampler}\n"
    )
    rounds: list[dict[str, Outcome]] = []
    for seed in range(options.repeats):
        rounds.append({})
        for contender in options.contenders:
            rounds[-1][contender] = race(contender, options, seed)
            print(f"round {seed + 1}: {contender} {rounds[-1][contender]}", file=sys.stderr, flush=True)
    print("\n".join(table(rounds, options.trials)))


if __name__ == "__main__":
    main()
