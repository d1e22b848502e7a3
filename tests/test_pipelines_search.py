"""`regatta search` as a user runs it, in processes of its own: what it leaves, what it says, and how it goes on."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from commands import PATIENCE, regatta, started

from pipelines.recipe import load_recipe
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.sending import Projection

TINY = [
    "search", "--config", "smoke", "--search.batch_sizes", "[64]", "--search.schedules", "[constant, cosine]",
    "--search.trials", "2", "--training.epochs", "2", "--cluster.workers", "1",
    "--search.arrays", "off",  # Alone, trials are equal to the bit.
]  # fmt: skip
UNTRACKED = ["--tracking.mlflow", "false", "--tracking.report", "false"]


def succeeded(*words: str, home: Path, cwd: Path | None = None) -> str:
    """What the command says when all goes well."""
    done = regatta(*words, home=home, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(folder: Path) -> list[dict[str, Any]]:
    with Ledger.open(folder, create=False) as ledger:
        return ledger.trials()


def explored(folder: Path) -> list[Any]:
    """The quasi-random configurations, whatever the order in which they were asked."""
    configs = [row["config"] for row in rows(folder)]
    return sorted(
        ([c["cell"], c["index"], c["params"], c["train"]] for c in configs if c["phase"] == "explore"), key=repr
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The state folder that a search has left, and what the search said; the last line names what it imported."""
    home = tmp_path_factory.mktemp("searched") / "home"
    script = f"""
import sys
from pipelines.cli import main
code = main({TINY!r})
print(sorted({{"torch", "pytorch_lightning", "lightning"}} & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "REGATTA_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    yield home, done.stdout


def test_the_driver_needs_neither_torch_nor_lightning(searched: tuple[Path, str]) -> None:
    assert searched[1].splitlines()[-1] == "[]"


def test_a_search_writes_its_files(searched: tuple[Path, str]) -> None:
    folder = searched[0] / "smoke"
    asked = rows(folder)
    assert len(asked) == 4
    trials = table(folder / "trials.csv")
    assert [row["number"] for row in trials] == ["0", "1", "2", "3"]
    assert {row["status"] for row in trials} == {"COMPLETE"}
    curves = table(folder / "curves.csv")
    assert Counter(row["trial"] for row in curves) == Counter({"0": 2, "1": 2, "2": 2, "3": 2})
    assert all(float(row["val_loss"]) > 0 and float(row["seconds"]) > 0 for row in curves)
    best: dict[str, Any] = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["figures"]["value"] == min(float(row["value"]) for row in trials)
    assert Path(best["figures"]["checkpoint"]).is_file()
    assert len(list((folder / "checkpoints").iterdir())) == 3


def test_the_recipe_that_is_kept_is_the_one_that_ran(searched: tuple[Path, str]) -> None:
    kept = load_recipe(["--config", str(searched[0] / "smoke" / "recipe.yaml")])
    assert kept == load_recipe(TINY[1:])


def test_optuna_has_a_study_for_every_cell(searched: tuple[Path, str]) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{searched[0] / 'smoke' / 'optuna.db'}")
    try:
        names = optuna.get_all_study_names(storage)
        assert sorted(names) == ["smoke/b64-sgd-constant", "smoke/b64-sgd-cosine"]
        assert [len(optuna.load_study(study_name=name, storage=storage).trials) for name in names] == [2, 2]
    finally:
        storage.engine.dispose()


def _mlflow(home: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(home / "mlflow.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_mlflow_has_a_run_for_the_search_and_one_for_every_trial(searched: tuple[Path, str]) -> None:
    home = searched[0]
    parents = _mlflow(home, "SELECT value FROM tags WHERE key = 'mlflow.parentRunId'")
    assert len(parents) == 4 and len(set(parents)) == 1
    runs = dict(_mlflow(home, "SELECT run_uuid, status FROM runs"))
    assert len(runs) == 5 and set(runs.values()) == {"FINISHED"}
    (parent,) = set(parents)
    measured = _mlflow(home, "SELECT run_uuid, count(*) FROM metrics WHERE key = 'validation/loss' GROUP BY run_uuid")
    assert sorted(measured) == sorted((run, 2) for run in runs if run != parent[0])


def test_a_short_trial_takes_at_most_four_requests_to_mlflow(searched: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(searched[0] / "smoke", tmp_path / "copy")
    connection = sqlite3.connect(tmp_path / "copy" / "study.db")
    connection.execute("DELETE FROM runs")
    connection.commit()
    connection.close()
    with Ledger.open(tmp_path / "copy", create=False) as ledger:
        writer = MemoryWriter()
        before = 0

        def requests() -> int:
            nonlocal before
            before, made = writer.calls, writer.calls - before
            return made

        work = Projection(ledger, writer).steps()
        each = [requests() for _ in work]
    # The search's own run twice, the trials, then its end and its files.
    assert len(each) == 2 + 4 + 2
    assert max(each[2:6]) <= 4


def test_what_a_search_says_is_plain_text(searched: tuple[Path, str]) -> None:
    said = searched[1]
    assert not [character for character in said if not character.isprintable() and character != "\n"]
    assert "smoke: 1,437 training examples" in said
    assert "best trial of each cell" in said
    assert "4 trials in " in said
    assert f"regatta search --config {searched[0] / 'smoke' / 'recipe.yaml'} --search.trials 4" in said
    # Dask's pages are served on this machine alone.
    assert "Dask: http://127.0.0.1:" in said


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_shows_the_same(searched: tuple[Path, str]) -> None:
    home, said = searched
    before = rows(home / "smoke")
    again = succeeded(*TINY, home=home)
    assert rows(home / "smoke") == before
    assert "smoke: 4 trials, all done before" in again
    title = "best trial of each cell"
    assert again.partition(title)[2].splitlines()[:4] == said.partition(title)[2].splitlines()[:4]
    assert len(_mlflow(home, "SELECT run_uuid FROM runs")) == 5


@pytest.mark.slow
def test_more_trials_go_on_where_the_search_ended(searched: tuple[Path, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(searched[0], home)
    before = rows(home / "smoke")
    said = succeeded(*TINY, "--search.trials", "3", "--search.refine", "1", home=home)
    assert "8 trials (4 done before)" in said
    after = rows(home / "smoke")
    assert after[:4] == before
    assert Counter(row["cell"] for row in after) == Counter({"b64-sgd-constant": 4, "b64-sgd-cosine": 4})
    # The whole sequence is that of a search which had as many from the start.
    at_once = tmp_path / "at_once"
    succeeded(*TINY, *UNTRACKED, "--search.trials", "3", "--search.refine", "1", home=at_once)
    assert explored(home / "smoke") == explored(at_once / "smoke")
    values = [[row["result"]["value"] for row in rows(h / "smoke") if row["index"] < 3] for h in (home, at_once)]
    assert sorted(values[0]) == sorted(values[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_driver_killed_again_and_again_ends_with_exact_counts(tmp_path: Path, seed: int) -> None:
    home, moments = tmp_path / "home", random.Random(seed)
    words = [*TINY, "--search.trials", "12", "--search.refine", "1", "--training.epochs", "6", "--cluster.workers", "2"]
    for _ in range(3):
        process = started(*words, home=home)
        end = time.monotonic() + moments.uniform(2, 11)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        gone, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, [child.cmdline() for child in alive]
    succeeded(*words, home=home)
    asked = rows(home / "smoke")
    assert Counter((row["cell"], row["status"]) for row in asked) == Counter(
        {("b64-sgd-constant", "COMPLETE"): 13, ("b64-sgd-cosine", "COMPLETE"): 13}
    )
    assert len({(row["cell"], row["index"]) for row in asked}) == 26
    assert len(table(home / "smoke" / "trials.csv")) == 26
    assert len(table(home / "smoke" / "curves.csv")) == 26 * 6
    assert len(list((home / "smoke" / "checkpoints").iterdir())) == 3
    keys = _mlflow(home, "SELECT value FROM tags WHERE key = 'regatta.key'")
    assert len(keys) == len(set(keys)) == 27
    assert {status for (status,) in _mlflow(home, "SELECT status FROM runs")} == {"FINISHED"}


LONG = [*TINY, "--training.epochs", "100", "--search.segment_seconds", "60"]


def _running(process: subprocess.Popen[str], home: Path) -> list[psutil.Process]:
    """Wait until one trial has ended, and so the next is under way; returns the worker processes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        asked = rows(home / "smoke") if (home / "smoke" / "study.db").exists() else []
        if any(row["status"] == "COMPLETE" for row in asked):
            time.sleep(0.3)
            workers: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
            return workers
        time.sleep(0.1)
    raise AssertionError(process.communicate())


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_search_ends_soon_and_the_command_it_prints_goes_on(
    which: signal.Signals, code: int, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    process = started(*LONG, home=home)
    family = _running(process, home)
    asked = time.monotonic()
    if which is signal.SIGINT:
        os.killpg(process.pid, which)  # A terminal sends Ctrl-C to the workers too.
    else:
        process.send_signal(which)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 12
    assert (process.returncode, err) == (code, "")
    assert not psutil.wait_procs(family, timeout=10)[1]
    before = rows(home / "smoke")
    with Ledger.open(home / "smoke", create=False) as ledger:
        paused = [row["number"] for row in before if ledger.segments(row["number"]) and row["status"] == "RUNNING"]
    assert paused
    line = next(line for line in out.splitlines() if line.startswith("to go on: regatta "))
    succeeded(*line.removeprefix("to go on: regatta ").split(), home=home)
    after = rows(home / "smoke")
    assert [row["config"] for row in after][: len(before)] == [row["config"] for row in before]
    assert Counter(row["status"] for row in after) == Counter({"COMPLETE": 4})


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("moment", [0.3, 1.0, 2.0, 3.0, 4.0])
def test_an_interrupt_while_the_workers_start_leaves_nothing_behind(moment: float, tmp_path: Path) -> None:
    process = started(*TINY, *UNTRACKED, home=tmp_path / "home")
    time.sleep(moment)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), out + err
    # Before the command itself runs, it is Python that ends.
    assert "Traceback" not in err or moment < 2.0
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.slow
def test_another_space_under_the_same_name_is_told_setting_by_setting(searched: tuple[Path, str]) -> None:
    changes = ["--search.batch_sizes", "[32]", "--training.epochs", "5", "--metrics.direction", "max"]
    before = rows(searched[0] / "smoke")
    done = regatta(*TINY, *changes, home=searched[0])
    assert (done.returncode, done.stdout) == (2, "")
    told = done.stderr.splitlines()
    assert [line.partition(" must stay ")[0] for line in told] == [
        "regatta: `training.epochs`",
        "regatta: `metrics.direction`",
        "regatta: `search.batch_sizes`",
    ]
    assert all(line.endswith("Give another `--study` name for a new study.") for line in told)
    assert rows(searched[0] / "smoke") == before


MISTAKES = [
    (["--model.class_path", "models.task.Clasifier"], ["`model.class_path` must name a class", "`Classifier`"]),
    (["--model.class_path", "no.such.Thing"], ["`model.class_path` must be importable, but 'no.such.Thing' is not"]),
    (["--model.init_args.widht", "3"], ["`model.init_args.widht` is not an argument of Classifier"]),
    (["--search.batch_sizes", "[64, 5000]"], ["`batch_size` must be at most 1437 (the training set), but got 5000."]),
    (["--metrics.objective", "val_los"], ["`metrics.objective` must be a metric that the module logs", "`val_loss`"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_that_only_the_classes_show_is_a_sentence_and_not_a_study(
    words: list[str], parts: list[str], tmp_path: Path
) -> None:
    done = regatta(*TINY, *UNTRACKED, *words, home=tmp_path / "home")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in ["regatta: ", *parts])
    assert "Traceback" not in done.stdout
    if words[0] == "--metrics.objective":
        # Nothing has come of it, so the recipe may be put right under the same name.
        succeeded(*TINY, *UNTRACKED, home=tmp_path / "home")
        assert [row["status"] for row in rows(tmp_path / "home" / "smoke")] == ["COMPLETE"] * 4


USERS = """
import LIGHTNING as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Model(pl.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    def training_step(self, batch, index):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch, index):
        x, y = batch
        self.log("error", torch.nn.functional.mse_loss(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Data(pl.LightningDataModule):
    def __init__(self, bs):
        super().__init__()
        self.bs = bs

    def setup(self, stage):
        x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
        self.sets = [TensorDataset(part, part.sum(1, keepdim=True)) for part in (x[:64], x[64:])]

    def train_dataloader(self):
        return DataLoader(self.sets[0], batch_size=self.bs, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.sets[1], batch_size=32)
"""
RECIPE = """
name: mine
model: {class_path: mine.code.Model}
data: {class_path: mine.code.Data, batch_size_arg: bs}
training: {epochs: 2}
metrics: {objective: error}
search:
  batch_sizes: [8, 32]
  optimizers: [adamw, own]
  schedules: [constant]
  parameters: {model.init_args.width: {low: 2, high: 64, log: true}}
  trials: 2
  refine: 0
  extend: false
cluster: {workers: 1}
tracking: {mlflow: false}
"""


@pytest.mark.slow
@pytest.mark.parametrize("lightning", ["pytorch_lightning", "lightning.pytorch"])
def test_a_users_own_classes_are_found_where_the_user_stands(lightning: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "code.py").write_text(USERS.replace("LIGHTNING", lightning))
    (project / "mine.yaml").write_text(RECIPE)
    said = succeeded("search", "--config", "mine.yaml", home=tmp_path / "home", cwd=project)
    trials = table(tmp_path / "home" / "mine" / "trials.csv")
    assert Counter(row["cell"] for row in trials) == Counter(
        {f"b{size}-{optimizer}-constant": 2 for size in (8, 32) for optimizer in ("adamw", "own")}
    )
    assert {row["status"] for row in trials} == {"COMPLETE"}
    assert all(2 <= int(row["model.init_args.width"]) <= 64 for row in trials)
    assert "own" in said


@pytest.mark.slow
def test_the_configurations_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    found, values = [], []
    for workers in ("1", "2", "4"):
        home = tmp_path / workers
        succeeded(*TINY, *UNTRACKED, "--search.trials", "4", "--cluster.workers", workers, home=home)
        found.append(explored(home / "smoke"))
        values.append(sorted(row["result"]["value"] for row in rows(home / "smoke")))
    assert found[0] == found[1] == found[2]
    # A worker alone takes all cores, and adds in another order: its losses are the same up to rounding.
    assert values[1] == values[2] and values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.slow
def test_required_arrays_train_every_trial_side_by_side_and_an_audit_says_how_far_they_are_off(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ["search", "--config", "smoke", *UNTRACKED, "--search.arrays", "require", "--search.audit", "0.5"]
    said = succeeded(*words, home=home)
    # How many is measured.
    assert re.search(r"trials train side by side \(how many\) at batch size 64 \(\d\), 256 \(\d\)", said), said
    assert "audit: 6 trials trained again alone; val_loss at the end differs by" in said
    trials = table(home / "smoke" / "trials.csv")
    assert {(row["tier"], row["time_mode"]) for row in trials} == {("array", "steps x step time alone")}
    assert all(int(row["width"]) > 1 for row in trials)


READY = [
    ("cnn", ["--training.min_steps", "0", "--training.epochs", "1"]),
    ("regimes", ["--training.epochs", "1", "--search.batch_sizes", "[16, 1437]"]),
    ("text", ["--training.min_steps", "20", "--training.evaluations", "2", "--search.batch_sizes", "[16]"]),
    # Not extended: beyond the edge of a range that is explored once lie rates at which a training may well diverge.
    (
        "digits",
        ["--training.min_steps", "0", "--training.epochs", "1", "--search.batch_sizes", "[64]"]
        + ["--search.extend", "false"],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), READY, ids=[name for name, _ in READY])
def test_every_ready_recipe_runs(name: str, words: list[str], tmp_path: Path) -> None:
    if name == "text":
        text = tmp_path / "text.txt"
        text.write_text("".join(random.Random(0).choices("to be or not to be, that is the question\n", k=24_000)))
        words = [*words, "--data.init_args.path", str(text)]
    home = tmp_path / "home"
    succeeded("search", "--config", name, *words, *UNTRACKED, "--search.trials", "1", "--search.refine", "0", home=home)
    trials = table(home / name / "trials.csv")
    assert trials
    assert {row["status"] for row in trials} == {"COMPLETE"}


@pytest.mark.slow
def test_without_mlflow_there_is_no_store(tmp_path: Path) -> None:
    succeeded(*TINY, *UNTRACKED, home=tmp_path / "home")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["smoke"]


@pytest.mark.slow
def test_a_study_is_searched_by_one_driver_at_a_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = started(*LONG, *UNTRACKED, home=home)
    _running(first, home)
    second = regatta(*LONG, *UNTRACKED, home=home)
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
