"""What an MLflow that is away, slow, refusing or locked costs the training: pairs of searches, without and with it."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from soak_accounts import books, misfits, store

HERE = Path(__file__).resolve().parent
REGATTA = str(Path(sys.executable).with_name("regatta"))
# The server behind a door that tests cause the same outages with.
sys.path.append(str(HERE.parent / "tests"))
faulty_server: Any = importlib.import_module("faulty_server")

OUTAGES = {"away": "drop", "slow": "slow", "500": "500", "429": "429", "locked": ""}
"""Each with what then becomes of every request; `locked` is a database of one's own without a server."""
WORKERS = 2
WARNING = "MLflow is behind"
WAITING = re.compile(r"(\d+) trials with (\d+) evaluations wait for MLflow")
RECIPE = """
name: {name}
model: {{class_path: paced.Paced, init_args: {{seconds: 0.02}}}}
data: {{class_path: models.data.Digits}}
training: {{epochs: 8, min_steps: 48, evaluations: 8}}
metrics: {{objective: val_loss}}
search:
  batch_sizes: [256]
  optimizers: {{sgd: {{momentum: 0.9}}}}
  schedules: [constant]
  trials: {trials}
  refine: 0
  extend: false
  probes: []
  arrays: "off"
cluster: {{workers: {workers}, dashboard: false}}
tracking: {{report: false{uri}}}
"""
"""Every step rests, as while a GPU works: what the clock says is then how long anything waits, not what else runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One search."""

    throughput: float
    """Examples a second, from the beginning of the first segment to the end of the last."""
    waited: float
    """Of the workers' time from their first segments to their last, the share between segments."""
    processor: float
    """Seconds of processor time of the driver until then."""
    said: str
    """What it printed."""


def searched(name: str, home: Path, *, trials: int, uri: str | None) -> Run:
    """Run a search to its end."""
    recipe = home / f"{name}.yaml"
    where = "" if uri is None else f", uri: '{uri}'"
    recipe.write_text(RECIPE.format(name=name, trials=trials, workers=WORKERS, uri=where))
    with (home / f"{name}.log").open("w+") as log:
        driver = psutil.Popen(
            [REGATTA, "search", "--config", str(recipe)],
            cwd=HERE,
            env={**os.environ, "REGATTA_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        used = 0.0
        while driver.poll() is None:
            # The last look before the end of the race: what follows it is no training.
            used = _processor(driver) if not _is_over(home / name, trials) else used
            time.sleep(0.2)
        log.seek(0)
        said = log.read()
    if driver.returncode:
        raise RuntimeError(f"the search {name} ended with {driver.returncode}: {said}")
    parts = [segment for trial in books(home / name).trials.values() for segment in trial["segments"]]
    began, ended = min(part["started"] for part in parts), max(part["started"] + part["wall_seconds"] for part in parts)
    throughput = sum(part["examples"] for part in parts) / (ended - began)
    return Run(throughput=throughput, waited=waited(parts), processor=used, said=said)


def waited(parts: Sequence[Mapping[str, Any]]) -> float:
    """The share of the workers' time in which they had nothing to train, between their first segment and their last."""
    by_worker: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for part in parts:
        by_worker[part["worker"]].append((part["started"], part["started"] + part["wall_seconds"]))
    spans = [sorted(times) for times in by_worker.values()]
    between = sum(later[0] - earlier[1] for times in spans for earlier, later in pairwise(times))
    return between / sum(times[-1][1] - times[0][0] for times in spans)


def _processor(driver: psutil.Popen) -> float:
    times = driver.cpu_times()
    return float(times.user + times.system)


def _is_over(folder: Path, trials: int) -> bool:
    if not (folder / "study.db").exists():
        return False
    with closing(sqlite3.connect(folder / "study.db", timeout=30)) as connection:
        tables = connection.execute("SELECT count(*) FROM trials WHERE status != 'RUNNING'").fetchone()
    return bool(tables[0] >= trials)


@contextmanager
def outage(kind: str, door: Any, home: Path) -> Iterator[None]:
    """MLflow is out of order, as `kind` says."""
    if kind != "locked":
        door.let(lambda number: OUTAGES[kind])
        yield
        door.let(lambda number: "pass")
        return
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def wrong_after(kind: str, name: str, home: Path, database: Path, run: Run) -> Iterator[str]:
    """Send what is lacking; one line for everything that is not as it should be."""
    warnings = run.said.count(WARNING)
    if warnings > 1 or (warnings == 0 and kind != "slow"):
        yield f"{kind}: {warnings} warnings instead of one"
    if not WAITING.search(run.said):
        yield f"{kind}: the display never said what waits"
    for _ in range(2):  # The second time there must be nothing left to send twice.
        environment = {**os.environ, "REGATTA_HOME": str(home)}
        sync = subprocess.run([REGATTA, "sync", "--study", name], env=environment, capture_output=True, text=True)
        if sync.returncode:
            yield f"{kind}: `regatta sync` says {sync.stdout}{sync.stderr}"
    kept = books(home / name)
    yield from (f"{kind}: {line}" for line in misfits(kept, store(database, kept.key)))


def most_waiting(said: str) -> str:
    """The largest number of points that the display said to wait."""
    found = [(int(points), int(trials)) for trials, points in WAITING.findall(said)]
    return "{} of {} trials".format(*max(found)) if found else "none"


def main() -> int:
    """Print a line for each pair and each kind of outage; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of each kind")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", choices=OUTAGES, default=list(OUTAGES))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outages-"))
    ratios: dict[str, list[float]] = {kind: [] for kind in given.kinds}
    extra: dict[str, list[float]] = {kind: [] for kind in given.kinds}
    waits: dict[str, list[float]] = {kind: [] for kind in given.kinds}
    wrong: list[str] = []
    with faulty_server.faulty_server(folder) as door:
        door.handle_error = lambda request, client: None  # A search that ends leaves its last request half made.
        for number in range(given.repeats):
            for kind in given.kinds:
                uri, database = (None, folder / "mlflow.db") if kind == "locked" else (door.uri, folder / "server.db")
                runs = {}
                # One time this way round, one time the other: what else the machine does may change between the two.
                for out in (False, True) if number % 2 == 0 else (True, False):
                    with outage(kind, door, folder) if out else nullcontext():
                        name = f"{kind}-{number}" if out else f"calm-{kind}-{number}"
                        runs[out] = searched(name, folder, trials=given.trials, uri=uri)
                calm, run = runs[False], runs[True]
                wrong += wrong_after(kind, f"{kind}-{number}", folder, database, run)
                ratios[kind].append(run.throughput / calm.throughput)
                waits[kind].append(run.waited - calm.waited)
                extra[kind].append(run.processor - calm.processor)
                print(
                    f"{kind:<7}{calm.throughput:8.0f} to {run.throughput:8.0f} examples/s, driver {calm.processor:.1f} "
                    f"to {run.processor:.1f} s of processor time, workers waited {calm.waited:.2%} to "
                    f"{run.waited:.2%}, waiting for MLflow at most {most_waiting(run.said)}",
                    flush=True,
                )
    print(f"\n{'MLflow':<10}{'throughput, of normal':<32}{'workers waited more':<32}seconds of processor time more")
    for kind in given.kinds:
        more = f"{_spread(waits[kind], '.2%'):<32}{_spread(extra[kind], '.2f')}"
        print(f"{kind:<10}{_spread(ratios[kind], '.4f'):<32}{more}")
    for line in wrong:
        print(f"WRONG: {line}")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    sys.exit(main())
