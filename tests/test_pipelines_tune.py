"""`regatta search` with the strategy `tune`: rungs, limits, and what follows a search takes it as it comes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

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
    assert "--search.examples 120000" in printed
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
def test_a_sampler_that_cannot_be_made_is_told_before_anything_is_written(tmp_path: Path) -> None:
    words = [REGATTA, "search", *TINY, "--search.sampler", "optuna.samplers.Tpe"]
    environment = {**os.environ, "REGATTA_HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'optuna.samplers.Tpe' cannot be imported" in done.stderr
    assert not (tmp_path / "home").exists()
