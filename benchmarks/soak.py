"""Does a search survive everything? Seeded kills, freezes, Ctrl-C and full disks; then the books to the last point."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlflow_server import Server
from soak_accounts import Books, Curves, Store, books, compared, expected, mistakes, store
from soak_course import REGATTA, Course
from soak_faults import plan

WORDS = {"alone": "alone", "the same arrays": "in the same arrays", "otherwise": "in other company"}
CELLS = 4
"""Two batch sizes by two schedules."""
RECIPE = """
name: {name}
model: {{class_path: paced.Paced, init_args: {{seconds: 0.01}}}}
data: {{class_path: paced.Mixed}}
training: {{epochs: 4, min_steps: 60, evaluations: 8}}
metrics: {{objective: val_loss}}
search:
  batch_sizes: [64, 256]
  optimizers: {{sgd: {{momentum: 0.9}}}}
  schedules: [constant, cosine]
  learning_rate: {{rule: absolute, low: 0.003, high: 0.1}}
  trials: {trials}
  refine: 0
  extend: false
  probes: []
  segment_seconds: 0.5
cluster: {{workers: 2, dashboard: false}}
tracking: {{uri: '{uri}'}}
"""
"""Batch size 64 trains in arrays, 256 alone. No proposal depends on a result: every course asks for the same trials."""


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="faults of all kinds")
    parser.add_argument("--seed", type=int, default=0, help="which faults, and when")
    parser.add_argument("--trials", type=int, default=200, help=f"a multiple of {CELLS}")
    parser.add_argument("--home", type=Path, help="state folder: a small file system of its own is really filled up")
    given = parser.parse_args(words)
    if given.trials < CELLS or given.trials % CELLS or given.kills < 1:
        parser.error(f"`--trials` must be a multiple of {CELLS} and `--kills` at least 1.")
    if given.home is not None and (not given.home.is_dir() or any(given.home.iterdir())):
        parser.error(f"`--home` must be an empty folder, but {given.home} is not.")
    return given


def search(name: str, folder: Path, server: Server, *, trials: int, home: Path | None = None) -> Course:
    """A search that has not begun."""
    recipe, logs = folder / f"{name}.yaml", folder / f"{name}-logs"
    recipe.write_text(RECIPE.format(name=name, trials=trials // CELLS, uri=server.uri))
    logs.mkdir()
    return Course(
        command=["search", "--config", str(recipe)], home=home or folder / f"{name}-home", logs=logs, server=server
    )


def soak(given: argparse.Namespace, folder: Path) -> list[str]:
    """Run the search twice, without and with faults, and print what came of it; returns what is wrong."""
    with Server(folder / "mlflow") as server:
        calm = search("calm", folder, server, trials=given.trials)
        quick = calm.run([])
        disturbed = search("disturbed", folder, server, trials=given.trials, home=given.home)
        disturbed.home.mkdir(exist_ok=True)
        print(f"undisturbed: {quick:.0f} s; now with {given.kills} faults (seed {given.seed}):", flush=True)
        slow = disturbed.run(plan(given.seed, kills=given.kills, trials=given.trials))
        server.wait()
        wrong = sync(disturbed)
        left = [*calm.left_over(), *disturbed.left_over()]
    now, before = books(disturbed.home / "disturbed"), books(calm.home / "calm")
    held, curves = store(server.database, now.key), compared(now, before)
    wrong += [*calm.complaints, *disturbed.complaints, *left, *mistakes(now, before, held), *curves.mistakes]
    for what, count in (
        *lines(now, before, held, curves),
        ("processes and ports left", str(len(left))),
        ("starts of the command", str(disturbed.starts)),
        ("seconds lost a fault", f"{(slow - quick) / max(1, len(disturbed.caused)):.1f} of {slow:.0f} in all"),
        *([("faults that came too late", f"{len(disturbed.missed)}")] if disturbed.missed else []),
        ("faults", ", ".join(f"{n} {kind}" for kind, n in Counter(f.kind for f in disturbed.caused).most_common())),
    ):
        print(f"{what:<54}{count}")
    return wrong


def sync(course: Course) -> list[str]:
    """Send what a server that was away at the very end has not got; returns what went wrong."""
    environment = {**os.environ, "REGATTA_HOME": str(course.home)}
    done = subprocess.run([REGATTA, "sync"], env=environment, capture_output=True, text=True, check=False)
    return [f"`regatta sync` says {done.stdout}{done.stderr}"] if done.returncode else []


def lines(now: Books, before: Books, held: Store, curves: Curves) -> Iterator[tuple[str, str]]:
    """The table: what was counted, and how often."""
    ended = [trial for trial in now.trials.values() if trial["result"]]
    configurations = {str(trial["config"]["train"]) for trial in now.trials.values()}
    runs = [key for key, _ in held.runs if key != "search"]
    has = sum(held.points.get(str(trial["number"]), Counter()).total() for trial in ended)
    should = sum(expected(trial).total() for trial in ended)
    yield "trials asked, ended", f"{len(now.trials)}, {len(ended)} (undisturbed: {len(before.trials)})"
    yield "configurations asked twice", str(len(now.trials) - len(configurations))
    running = sum(status == "RUNNING" for _, status in held.runs)
    yield "left RUNNING in the ledger, in MLflow", f"{len(now.trials) - len(ended)}, {running}"
    yield "runs in MLflow, of them twice", f"{len(runs)}, {len(runs) - len(set(runs))}"
    yield "metric points in MLflow, in the ledger", f"{has}, {should}"
    for kind, count in sorted(curves.compared.items()):
        yield f"curves equal to the bit, trained {WORDS[kind]}", f"{curves.equal[kind]} of {count}"


def main(words: list[str] | None = None) -> int:
    """Soak, say what is wrong, and keep the folder in which to look for why; returns the exit code."""
    given = parsed(words)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    wrong = soak(given, folder)
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong:
        print(f"everything is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
