"""Searches over `faulty.Faulty`, as a user starts them: the tiniest recipe, processes of their own, what they leave."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from models.config import TrainConfig
from models.segment import Segment
from models.train import train_segment
from tracking.ledger import Ledger

REGATTA = str(Path(sys.executable).with_name("regatta"))
HERE = Path(__file__).parent
PATIENCE = 120.0
RECIPE = """
name: faulty
model: {class_path: faulty.Faulty}
data: {class_path: models.data.Digits}
training: {epochs: 3}
metrics: {objective: val_loss}
search:
  batch_sizes: [64]
  optimizers: [sgd]
  schedules: [constant]
  trials: 1
  refine: 0
  extend: false
  probes: []
  arrays: "off"
cluster: {workers: 1, dashboard: false}
tracking: {mlflow: false, report: false}
"""
FAULTS, ONCE, SECONDS = (f"--model.init_args.{name}" for name in ("faults", "once", "seconds"))


def started(
    home: Path,
    *words: str,
    limits: dict[int, int] | None = None,
    command: str = "search",
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """The command in a process group of its own, where Python finds `faulty`.

    Args:
        home: the state folder.
        words: more of the command line.
        limits: of resources, in bytes.
        command: what `regatta` is to do.
        environment: variables beside those of this process.
    """
    home.mkdir(parents=True, exist_ok=True)
    recipe = home / "faulty.yaml"
    recipe.write_text(RECIPE)
    given = ["--config", str(recipe)] if command == "search" else ["--study", "faulty"]

    def limit() -> None:
        for which, most in (limits or {}).items():
            resource.setrlimit(which, (most, most))

    return subprocess.Popen(
        [REGATTA, command, *given, *words],
        cwd=HERE,
        env={**os.environ, **(environment or {}), "REGATTA_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, waited for."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def search(home: Path, *words: str, limits: dict[int, int] | None = None) -> tuple[int, str, str]:
    """A search from its start to its end."""
    return ended(started(home, *words, limits=limits))


def trials(home: Path) -> list[dict[str, Any]]:
    """What the ledger has of every trial, with its segments; nothing while there is no ledger."""
    if not (home / "faulty" / "study.db").exists():
        return []
    with Ledger.open(home / "faulty", create=False) as ledger:
        return [{**row, "segments": ledger.segments(row["number"])} for row in ledger.trials()]


def outcome(home: Path) -> dict[str, tuple[str, str]]:
    """Status and kind of reason of every ended trial, by the batch size in the name of its cell."""
    ends = {row["cell"].split("-")[0]: row["result"] for row in trials(home) if row["result"]}
    return {size: (result["status"], result["reason"].partition(":")[0]) for size, result in ends.items()}


def curve(segments: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Evaluations without the seconds, which are never the same twice."""
    return [{k: v for k, v in point.items() if k != "seconds"} for part in segments for point in part["curve"]]


def undisturbed(row: dict[str, Any], folder: Path) -> list[dict[str, float]]:
    """The curve of the same training in one piece and without its faults, in this process.

    It takes as many threads as the worker took: on some processors the last bit of a sum depends on them.
    """
    train = row["config"]["train"]
    train = {**train, "model": {**train["model"], "init_args": {}}}
    whole = Segment(trial=row["number"], config=TrainConfig.from_json(train), folder=str(folder))
    before = torch.get_num_threads()
    torch.set_num_threads(int(row["segments"][0]["tags"]["threads"]))
    try:
        return curve([train_segment(whole).to_json()])
    finally:
        torch.set_num_threads(before)


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Return as soon as a condition holds; fail if the process ends before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "what was waited for has not come"
        time.sleep(0.05)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that a command has started."""
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a command, forked from the process that has imported torch for all of them."""
    found: list[psutil.Process] = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if any("forkserver" in word for word in child.cmdline()):
                found += child.children()
    return found


def left_over(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there ten seconds later."""
    alive: list[psutil.Process] = psutil.wait_procs(processes, timeout=10)[1]
    return alive


def send(process: subprocess.Popen[str], which: signal.Signals) -> None:
    """A signal as it comes: Ctrl-C to every process of the terminal, others to the command alone."""
    if which is signal.SIGINT:
        os.killpg(process.pid, which)
    else:
        process.send_signal(which)
