"""What a search costs on top of its training: start-up, trials a second, efficiency, MLflow calls, whole recipes."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, Future

from models.config import ClassConfig, DataConfig, MetricsConfig, TrainingConfig
from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.config import SearchConfig
from search.dask_executor import IN_FLIGHT, DaskExecutor
from search.race import Race
from search.space import SearchSpace
from search.study import Study
from search.work import TRAIN
from tracking.direct_runs import DirectWriter
from tracking.ledger import Ledger
from tracking.sending import push

ROOT = Path(__file__).resolve().parent.parent
NETWORK = {"class_path": "models.nets.MLP", "init_args": {"features": 64, "hidden": [128, 128], "classes": 10}}
WORKERS = 2


def space(trials: int) -> SearchSpace:
    """One cell of many trials; trained for real, each is a single step on all of digits."""
    return SearchSpace(
        model=ClassConfig(class_path="models.task.Classifier", init_args={"network": NETWORK}),
        data=DataConfig(class_path="models.data.Digits"),
        training=TrainingConfig(epochs=1),
        metrics=MetricsConfig(),
        search=SearchConfig(
            trials=trials, refine=0, extend=False, batch_sizes=[1437], schedules={"constant": {}}, seed=trials
        ),
    )


@contextmanager
def raced(client: Client, function: str, trials: int) -> Iterator[tuple[Ledger, float]]:
    """Race so many trials of a function; gives the ledger and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder), create=True) as ledger:
        race = Race(Study(space(trials)), ledger, f"{folder}/checkpoints")
        started = time.perf_counter()
        race.run(DaskExecutor(client, function), stopping=lambda: False, watch=lambda _: None)
        yield ledger, time.perf_counter() - started


def report(what: str, values: list[float], unit: str, goal: str) -> None:
    """One line: median, range and goal."""
    spread = f"({min(values):.3g} to {max(values):.3g}, {len(values)} runs)" if len(values) > 1 else ""
    print(f"{what:<58} {statistics.median(values):8.3g} {unit:<10} {spread:<28} goal {goal}", flush=True)


def rates(client: Client, repeats: int) -> None:
    """Trials a second, of three kinds, beside what Dask alone does."""
    bare, nothing, one_step, efficiency = [], [], [], []
    for _ in range(repeats):
        bare.append(empty_tasks(client))
        with raced(client, "benchmarks.stand_ins.nothing", 500) as (_, seconds):
            nothing.append(500 / seconds)
        with raced(client, TRAIN, 100) as (_, seconds):
            one_step.append(100 / seconds)
        with raced(client, "benchmarks.stand_ins.one_second", 100) as (_, seconds):
            efficiency.append(100 * 100 / WORKERS / seconds)
    report("bare Dask, empty tasks, two in flight per worker", bare, "tasks/s", "(204)")
    report("trials that return at once: ask, ledger, submit, tell", nothing, "trials/s", "100")
    report("trials of one Trainer step, MLflow off", one_step, "trials/s", "50")
    report("100 one-second trials on 2 workers, of the ideal", efficiency, "%", "96")


def empty_tasks(client: Client, count: int = 500) -> float:
    """Empty tasks a second, submitted as the race does it."""
    started = time.perf_counter()
    running: deque[Future[int]] = deque()
    for _ in range(count):
        running.append(client.submit(os.getpid, pure=False))
        if len(running) >= IN_FLIGHT * WORKERS:
            running.popleft().result()
    client.gather(list(running))
    return count / (time.perf_counter() - started)


def mlflow_rates(client: Client, repeats: int) -> None:
    """The same trials with MLflow behind them, in the same process, one after the other."""
    with_mlflow, calls = [], []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(repeats):
            with raced(client, "benchmarks.stand_ins.nothing", 100) as (ledger, seconds):
                writer = DirectWriter(f"sqlite:///{home}/mlflow.db", Path(home))
                before, started = writer.calls, time.perf_counter()
                push(ledger, writer)
                with_mlflow.append(100 / (seconds + time.perf_counter() - started))
                calls.append((writer.calls - before) / 100)
    report("trials that return at once, MLflow included", with_mlflow, "trials/s", "15")
    report("MLflow client calls and transactions a trial", calls, "calls", "at most 4")


def searches(repeats: int, recipes: list[str]) -> None:
    """`regatta search` as a user calls it: seconds to the first training step, and in all."""
    for recipe in recipes:
        first, total = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as home:
                began = time.time()
                command = [sys.executable, "-m", "pipelines.cli", "search", "--config", recipe]
                environment = {**os.environ, "REGATTA_HOME": home}
                subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                total.append(time.time() - began)
                with Ledger.open(Path(home) / recipe, create=False) as ledger:
                    first.append(min(ledger.segments(row["number"])[0]["started"] for row in ledger.trials()) - began)
        report(f"`regatta search --config {recipe}`, to the first training", first, "s", "10")
        report(f"`regatta search --config {recipe}`, in all", total, "s", {"smoke": "20", "digits": "240"}[recipe])


def main() -> None:
    """Measure and print; nothing else should run meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median is printed (default: 3)")
    parser.add_argument("--digits", action="store_true", help="also time the default recipe, minutes each")
    arguments = parser.parse_args()
    searches(arguments.repeats, ["smoke", *(["digits"] if arguments.digits else [])])
    with connected(ClusterConfig(workers=WORKERS), paths=[str(ROOT)]) as client:
        rates(client, arguments.repeats)
        mlflow_rates(client, arguments.repeats)


if __name__ == "__main__":
    main()
