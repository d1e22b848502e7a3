"""`regatta search` with the strategy `tune`: rungs, limits, and what follows a search takes it as it comes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tracking.client import tracking_uri
from tracking.remote import fetch

REGATTA = str(Path(sys.executable).with_name("regatta"))
TINY = (
    *("--config", "tune", "--study", "tiny", "--training.epochs", "9", "--training.evaluations", "9"),
    *("--training.min_steps", "0", "--search.batch_sizes", "[128, 256]", "--search.schedules", "[constant, cosine]"),
    *("--search.promotion.rungs", "1", "--search.trials", "18", "--search.probes", "[]"),
)


def regatta(*words: str, home: Path) -> str:
    """What a command prints; it must succeed."""
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    done = subprocess.run([REGATTA, *words], env=environment, cwd=home.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def statuses(home: Path) -> Counter[str]:
    with (home / "tiny" / "trials.csv").open(newline="") as file:
        return Counter(row["status"] for row in csv.DictReader(file))


@pytest.mark.slow
def test_a_search_for_the_best_ends_by_its_limit_and_goes_on_to_its_last_trial(tmp_path: Path) -> None:
    home = tmp_path / "home"
    printed = regatta("search", *TINY, "--search.examples", "60000", home=home)
    assert "Ended by `search.examples` after 60,000 examples" in printed
    assert "--search.examples +60000" in printed
    assert statuses(home)["RUNNING"] or statuses(home).total() < 18
    printed = regatta("search", *TINY, "--search.examples", "null", home=home)
    assert "Ended by" not in printed
    found = statuses(home)
    assert found.total() == 18 and set(found) <= {"COMPLETE", "PRUNED", "DIVERGED"}
    assert found["PRUNED"] >= 6 and found["COMPLETE"] >= 4
    page = (home / "tiny" / "report.html").read_text()
    assert "where a sampler expected the best" in page
    assert "fresh seeds" in regatta("verify", "--study", "tiny", "--top", "1", "--seeds", "2", home=home)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--search.sampler", "optuna.samplers.Tpe"], "'optuna.samplers.Tpe' cannot be imported"),
        (["--search.enqueue", "[{}, {learning_rate: 99}]"], "`search.enqueue.1.learning_rate` must be from "),
        (
            ["--search.enqueue", "[{momentm: 0.9}]"],
            "`search.enqueue.0.momentm` must be searched there, but at batch size",
        ),
        (["--search.from_study", "other"], "`search.from_study` is 'other', but there must be a study in "),
        (["--search.law", "../other"], "`search.law` is '../other', but there must be a study in "),
    ],
)
def test_what_a_search_could_not_begin_with_is_told_before_anything_is_written(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "REGATTA_HOME": str(tmp_path / "home")}
    done = subprocess.run([REGATTA, "search", *TINY, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_search_with_several_objectives_shows_its_front_everywhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("--search.objectives", "[val_loss, examples_to_target]", "--metrics.target", "0.3")
    printed = regatta("search", *TINY, *words, home=home)
    assert "the front: " in printed and "on the front, the best in val_loss: " in printed
    with (home / "tiny" / "trials.csv").open(newline="") as file:
        lying = {row["number"] for row in csv.DictReader(file) if row["front"] == "True"}
    assert lying and (home / "tiny" / "report" / "front-examples_to_target.png").exists()
    assert {row["number"] for row in fetch("tiny", uri=None, home=home).trials if row["front"]} == set(map(int, lying))
    client = MlflowClient(tracking_uri(None, home))
    experiments = [found.experiment_id for found in client.search_experiments()]
    tagged = client.search_runs(experiments, "tags.front = 'true'")
    assert {run.data.tags["trial"] for run in tagged} == lying
    again = regatta("search", *TINY, *words, "--search.choose", "knee", home=home)
    assert "all done before" in again and "nearest to the ideal: " in again
