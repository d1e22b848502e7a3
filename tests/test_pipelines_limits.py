"""A search ends by the first limit that it reaches, says which, and goes on only when asked for more."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from models.segment import Segment, SegmentResult
from pipelines.increments import SPENT
from pipelines.interrupts import Interrupts
from pipelines.limits import ENDED, Limits
from pipelines.recipe import load_recipe
from pipelines.session import Session, space_of
from search.objectives import study_of
from search.race import Race
from search.resuming import restore
from tracking.analysis.data import load
from tracking.ledger import Ledger
from tracking.rows import trials as trials_of

REGATTA = str(Path(sys.executable).with_name("regatta"))
TINY = (
    *("--config", "tune", "--study", "tiny", "--training.epochs", "1", "--training.evaluations", "1"),
    *("--training.min_steps", "0", "--search.batch_sizes", "[256]", "--search.schedules", "[constant]"),
    *("--search.promotion.rule", "none", "--search.trials", "12", "--search.probes", "[]", "--search.sampler", "qmc"),
    *("--tracking.mlflow", "false", "--search.arrays", "off", "--cluster.workers", "1"),
)


@contextmanager
def session(folder: Path, *words: str) -> Iterator[tuple[Session, Race]]:
    """A call on a study, without workers."""
    recipe = load_recipe([*TINY, *words])
    with Ledger.open(folder, create=True) as ledger, Interrupts() as interrupts:
        study = study_of(space_of(recipe))
        race = Race(study, ledger, str(folder / "checkpoints"))
        made = Session(
            recipe=recipe,
            folder=folder,
            study=study,
            ledger=ledger,
            sync=None,
            console=Console(),
            interrupts=interrupts,
        )
        restore(race)
        yield made, race


def train(race: Race, count: int, *, width: int = 1, seconds: float = 10.0, steps: int = 5) -> None:
    """So many trials, asked and ended, or paused after fewer of their 5 steps: the first is the best."""
    for _ in range(count):
        trial = race.study.ask()
        assert trial is not None
        race.ledger.ask([trial.to_json()])
        race.trials[trial.number] = trial
        race.running[trial.number] = Segment(trial=trial.number, config=trial.train, folder=race.folder)
        point = {
            "step": float(steps),
            "examples": 100.0,
            "epoch": 1.0,
            "seconds": 1.0,
            "val_loss": 1.0 + trial.number % 2,
        }
        race.take(
            SegmentResult(
                trial=trial.number,
                from_step=0,
                to_step=steps,
                total_steps=5,
                status="COMPLETE" if steps == 5 else "PAUSED",
                curve=[point],
                examples=100,
                wall_seconds=seconds,
                started=float(trial.number),
                tags={"width": str(width)} if width > 1 else {},
            )
        )


@pytest.mark.parametrize(
    ("words", "enough", "why", "goes_on"),
    [
        (["--search.examples", "500"], 5, "after 500 examples", "--search.examples +500"),
        (
            ["--search.device_seconds", "40"],
            4,
            "after 0:40 of training, summed over devices",
            "--search.device_seconds +40",
        ),
        (
            ["--search.device_seconds", "20", "--cluster.per_gpu", "2"],
            4,
            "after 0:20 of training, summed over devices",
            "--search.device_seconds +20",
        ),
        (
            ["--search.stop", "{patience: 3}"],
            4,
            "it no longer pays: the last 3 complete trials have improved 1 by nothing",
            "--search.stop null",
        ),
    ],
)
def test_a_limit_ends_a_search_when_it_is_reached(
    words: list[str], enough: int, why: str, goes_on: str, tmp_path: Path
) -> None:
    with session(tmp_path, *words) as (made, race):
        limits = Limits(made)
        train(race, enough - 1)
        assert not limits.over(race)
        train(race, 1)
        assert limits.over(race) and limits.why == why
        assert why in limits.sentence(race) and limits.sentence(race).endswith(goes_on)
        limits.note(race)
    assert load(tmp_path).ended == why
    # The same command again: over before anything starts.
    with session(tmp_path, *words) as (made, race):
        assert Limits(made).over(race)
    with session(tmp_path, words[0], "null") as (made, race):
        assert not Limits(made).over(race)


@pytest.mark.parametrize(
    ("name", "first", "train_on", "total"), [("examples", "500", 5, "1100"), ("device_seconds", "40", 4, "90")]
)
def test_what_is_offered_to_go_on_is_once_more_what_was_granted(
    name: str, first: str, train_on: int, total: str, tmp_path: Path
) -> None:
    """After one trial too many, so much more is counted from there."""
    with session(tmp_path, f"--search.{name}", first) as (made, race):
        train(race, train_on + 1)
        assert Limits(made).over(race) is True
    with session(tmp_path, f"--search.{name}", total) as (made, race):
        limits = Limits(made)
        train(race, train_on)
        assert limits.over(race) and limits.sentence(race).endswith(f"--search.{name} +{first}")


def test_what_a_limit_or_a_signal_left_paused_says_so_until_it_goes_on(tmp_path: Path) -> None:
    for words, why in (([], "interrupted"), (["--search.examples", "1"], "after 1 examples")):
        with session(tmp_path, *words) as (made, race):
            train(race, 1)
            left = race.study.ask()
            assert left is not None
            race.ledger.ask([left.to_json()])
            race.waiting.append(race.first_segment(left))
            limits = Limits(made)
            limits.over(race)
            limits.note(race)
        found = {row["number"]: row["reason"] for row in trials_of(tmp_path)}
        assert found[left.number] == why and found[left.number - 1] is None
    with session(tmp_path) as (made, race):
        race.waiting.clear()
        Limits(made).note(race)
    assert {row["reason"] for row in trials_of(tmp_path)} == {None}


def test_a_trial_that_waits_at_a_rung_is_paused_too_where_a_limit_ends_the_search(tmp_path: Path) -> None:
    with session(tmp_path, "--search.seconds", "5", "--search.promotion.rule", "halving") as (made, race):
        train(race, 1, steps=1)
        assert race.study.resting == 1 and not race.waiting and not race.running
        limits = Limits(made)
        assert 0 < limits.seconds_left <= 5
        made.ledger.set_meta(SPENT, 5.0)
        limits = Limits(made)
        assert limits.seconds_left <= 0 and limits.over(race)
        limits.note(race)
    assert [row["reason"] for row in trials_of(tmp_path)] == ["after 0:05 of search"]


def test_an_array_takes_its_seconds_once_and_earlier_calls_count(tmp_path: Path) -> None:
    with session(tmp_path) as (_, race):
        train(race, 8, width=4)
    with session(tmp_path, "--search.device_seconds", "30") as (made, race):
        assert made.ledger.spent() == (800, 20.0)
        limits = Limits(made)
        train(race, 3, width=4)
        assert not limits.over(race)
        train(race, 1, width=4)
        assert limits.over(race)


def test_seconds_of_all_calls_count(tmp_path: Path) -> None:
    with session(tmp_path, "--search.seconds", "1000") as (made, race):
        made.ledger.set_meta(SPENT, 100.0)
        assert not Limits(made).over(race)
        made.ledger.set_meta(SPENT, 1000.0)
        limits = Limits(made)
        assert limits.over(race) and limits.why == "after 16:40 of search"
        limits.note(race)
        assert made.ledger.meta(SPENT) >= 1000.0


def test_without_limits_it_ends_with_its_last_trial(tmp_path: Path) -> None:
    with session(tmp_path, "--search.trials", "2") as (made, race):
        limits = Limits(made)
        train(race, 1)
        assert not limits.over(race)
        limits.note(race)
        assert made.ledger.meta(ENDED) == "interrupted"
        train(race, 1)
        limits.note(race)
        assert not limits.over(race) and made.ledger.meta(ENDED) == "2 of 2 trials"


def regatta(*words: str, home: Path) -> str:
    """What a command prints; it must succeed."""
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    done = subprocess.run([REGATTA, *words], env=environment, cwd=home.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def trials(home: Path) -> int:
    with (home / "tiny" / "trials.csv").open(newline="") as file:
        return len([row for row in csv.DictReader(file) if row["status"] != "RUNNING"])


@pytest.mark.slow
def test_a_search_that_no_longer_pays_ends_and_goes_on_only_without_the_rule(tmp_path: Path) -> None:
    home, rule = tmp_path / "home", ["--search.stop", "{improvement: 0.9, patience: 2}"]
    printed = regatta("search", *TINY, *rule, home=home)
    assert "Ended by `search.stop`: it no longer pays: the last 2 complete trials have improved" in printed
    assert "--search.stop null" in printed
    ended = trials(home)
    assert ended < 12
    assert "it no longer pays" in (home / "tiny" / "report.html").read_text()
    again = regatta("search", *TINY, *rule, home=home)
    assert "Ended by `search.stop`" in again and "Dask:" not in again and trials(home) == ended
    assert (
        "ended: 12 of 12 trials" in regatta("search", *TINY, "--tracking.report", "false", home=home)
        and trials(home) == 12
    )
