"""The best validation loss against wall seconds: `strategy: tune` beside what people use, from the same start."""

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml
from peer_searches import Job
from peer_tuning import Limits
from peers import MOMENTUM, QUIET, RATES, ROOT, SCHEDULES, SPLIT, machine, spread

from tracking.ledger import Ledger

WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "network": "mlp",
        "class_path": "models.nets.MLP",
        "init_args": {"features": 64, "hidden": [128, 128], "classes": 10},
        "batch_sizes": [16, 32, 64, 128, 256, 512],
        "epochs": 20,
        "targets": [0.2, 0.1, 0.08, 0.07, 0.06],
    },
    "conv": {
        "network": "conv",
        "class_path": "models.nets.ConvNet",
        "init_args": {"channels": 1, "width": 8, "classes": 10},
        "batch_sizes": [16, 64, 256],
        "epochs": 10,
        "targets": [0.2, 0.1, 0.08, 0.07, 0.06],
    },
}
"""Model, data, space and targets: the same for all."""


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
COLORS = {"regatta": "#0b6e4f", "ray": "#c8553d", "optuna": "#3d5a98", "qmc": "#8a8a8a"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One search: when it came to what."""

    best: Sequence[tuple[float, float]]
    """Seconds since its first process started, and the best validation loss by then; only where it falls."""
    trials: int
    """Trials that had been evaluated at least once when its time was up."""
    seconds: float
    """Its time."""

    def at(self, seconds: float) -> float:
        """The best loss by then; infinity before the first."""
        return min((value for when, value in self.best if when <= seconds), default=math.inf)

    def until(self, target: float) -> float:
        """Seconds to a target; infinity if it was not reached."""
        return next((when for when, value in self.best if value <= target), math.inf)


def run_of(told: Sequence[Mapping[str, Any]], *, started: float, seconds: float) -> Run:
    """A run from its evaluations: `at` (Unix time), `value`, `trial`."""
    best: list[tuple[float, float]] = []
    within = sorted((one["at"] - started, one["value"], one["trial"]) for one in told)
    within = [one for one in within if one[0] <= seconds]
    for when, value, _ in within:
        if value < (best[-1][1] if best else math.inf):
            best.append((when, value))
    return Run(best=best, trials=len({trial for *_, trial in within}), seconds=seconds)


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
        "metrics": {"objective": "val_loss", "direction": "min", "target": workload["targets"][-1]},
        "search": {
            "strategy": "tune",
            "batch_sizes": workload["batch_sizes"],
            "optimizers": {"sgd": {"momentum": MOMENTUM}},
            "schedules": SCHEDULES,
            "learning_rate": {"rule": "absolute", "low": RATES[0], "high": RATES[1]},
            "trials": options.trials,
            "seconds": options.seconds,
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
    command = [sys.executable, "-m", "pipelines.cli", "search", "--config", str(path)]
    started = time.time()
    called = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert called.returncode == 0, called.stdout + called.stderr
    with Ledger.open(home / "tuning", create=False) as ledger:
        told = [
            {"trial": trial["number"], "at": segment["started"] + segment["wall_seconds"], "value": point["val_loss"]}
            for trial in ledger.trials()
            for segment in ledger.segments(trial["number"])
            for point in segment["curve"]
            if math.isfinite(point.get("val_loss", math.nan))
        ]
    return run_of(told, started=started, seconds=options.seconds)


def peer(
    contender: Contender, workload: Mapping[str, Any], options: argparse.Namespace, folder: Path, seed: int
) -> Run:
    """Start the processes of a peer together, and wait for all of them."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    started = time.time()
    seconds = contender.budget * options.seconds
    limits = json.dumps(asdict(Limits(until=started + seconds, pruning=contender.pruning)))
    processes = options.workers if contender.kind == "optuna" else 1
    jobs = [
        Job(
            kind=contender.kind,
            batch_sizes=workload["batch_sizes"],
            schedules=SCHEDULES,
            rates=RATES,
            momentum=MOMENTUM,
            split=SPLIT,
            epochs=workload["epochs"],
            workers=options.workers,
            trials=options.trials,
            sampler=contender.sampler,
            seed=seed * processes + index,
            folder=str(folder),
            result="",
            network=workload["network"],
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
    lines = [line for file in folder.glob("told-*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    return run_of([json.loads(line) for line in lines], started=started, seconds=seconds)


def race(key: str, workload: Mapping[str, Any], options: argparse.Namespace, seed: int) -> Run:
    """One search of one contender, from nothing."""
    with tempfile.TemporaryDirectory(prefix="tuning-") as folder:
        if CONTENDERS[key].kind == "regatta":
            return regatta(workload, options, Path(folder), seed)
        return peer(CONTENDERS[key], workload, options, Path(folder), seed)


def table(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A line for each contender: medians and ranges over the seeds."""
    yield "| contender | seconds | best loss at half | at the end | trials/min |"
    yield "|---|---|---|---|---|"
    for key, found in runs.items():
        line = [
            CONTENDERS[key].name,
            f"{found[0].seconds:.0f}",
            spread([run.at(run.seconds / 2) for run in found], ".4f"),
            spread([run.at(run.seconds) for run in found], ".4f"),
            spread([run.trials * 60 / run.seconds for run in found], ".0f"),
        ]
        yield f"| {' | '.join(line)} |"


def times_as_long(runs: Mapping[str, Sequence[Run]], targets: Sequence[float]) -> Iterator[str]:
    """A line for each contender: seconds to each target, as a multiple of the first one's with the same seed.

    A search that ended without the target counts with its whole time, and the median is then marked as a lower bound.
    """
    yield f"| contender | {' | '.join(f'seconds to {target}' for target in targets)} |"
    yield "|---|" + "---|" * len(targets)
    first = next(iter(runs))
    for key, found in runs.items():
        line = [CONTENDERS[key].name]
        for target in targets:
            reached = [run.until(target) for run in found]
            pairs = [(run, own.until(target)) for run, own in zip(found, runs[first], strict=True)]
            ratios = [min(run.until(target), run.seconds) / own for run, own in pairs if math.isfinite(own)]
            missed = any(math.isinf(run.until(target)) for run, own in pairs if math.isfinite(own))
            text = f"{spread(reached, '.1f')}, {sum(map(math.isfinite, reached))} of {len(reached)}"
            if key != first and ratios:
                text += f": {'at least ' if missed else ''}{statistics.median(ratios):.1f}x"
            line.append(text)
        yield f"| {' | '.join(line)} |"


def draw(found: Mapping[str, Mapping[str, Sequence[Run]]], path: Path) -> None:
    """One panel for each workload: the median over the seeds, and their range."""
    figure, panels = plt.subplots(1, len(found), figsize=(6 * len(found), 4), squeeze=False)
    for panel, (name, runs) in zip(panels[0], found.items(), strict=True):
        for key, several in runs.items():
            times = [several[0].seconds * step / 400 for step in range(1, 401)]
            values = [[run.at(when) for run in several] for when in times]
            seen = [(when, each) for when, each in zip(times, values, strict=True) if max(each) < math.inf]
            whens = [when for when, _ in seen]
            middle = [statistics.median(each) for _, each in seen]
            panel.step(whens, middle, where="post", color=COLORS[key], label=CONTENDERS[key].name)
            low, high = [min(each) for _, each in seen], [max(each) for _, each in seen]
            panel.fill_between(whens, low, high, step="post", color=COLORS[key], alpha=0.15, linewidth=0)
        for target in WORKLOADS[name]["targets"]:
            panel.axhline(target, color="#444444", linewidth=0.6, linestyle=":")
        panel.set(yscale="log", xlabel="wall seconds from the command", title=name)
        panel.set_ylim(top=1.0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("best validation loss")
    panels[0][0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=60.0, help="wall-clock time of each search (default: 60)")
    parser.add_argument("--trials", type=int, default=2000, help="more than time allows (default: 2000)")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each contender (default: 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that train (default: the cores)")
    parser.add_argument("--picture", type=Path, help="where to draw the curves (PNG)")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; nothing else should run meanwhile."""
    options = arguments(given)
    print(f"{machine()}\n{options.workers} workers, {options.seconds:.0f} s each, {options.seeds} seeds")
    found: dict[str, dict[str, list[Run]]] = {}
    for name in options.workloads:
        found[name] = {key: [] for key in options.contenders}
        for seed in range(options.seeds):
            for key in options.contenders:
                run = race(key, WORKLOADS[name], options, seed)
                found[name][key].append(run)
                print(f"{name}, seed {seed}: {key} {run.trials} trials, {run.best[-1:]}", file=sys.stderr, flush=True)
        print("\n".join(["", f"{name}:", "", *table(found[name])]))
        print("\n".join(["", *times_as_long(found[name], WORKLOADS[name]["targets"])]), flush=True)
    if options.picture is not None:
        draw(found, options.picture)


if __name__ == "__main__":
    main()
