"""`--search.seconds +600`: from now on, once more each time, on top of what the study has used."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.segment import SegmentResult
from pipelines.increments import SPENT
from pipelines.recipe import load_recipe, to_yaml
from search.config import SearchConfig
from tracking.ledger import Ledger

TUNE = ["--config", "tune", "--study", "mine"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder without a study."""
    monkeypatch.setenv("REGATTA_HOME", str(tmp_path))
    return tmp_path


def segment(trial: int, *, width: int = 1) -> dict[str, object]:
    tags = {"width": str(width)} if width > 1 else {}
    return SegmentResult(
        trial=trial, from_step=0, to_step=5, total_steps=10, status="PAUSED", examples=700, wall_seconds=12.0, tags=tags
    ).to_json()


def used(home: Path) -> None:
    """A study that was to have 40 trials: two of an array and one alone, and one of a verification."""
    folder = home / "mine"
    folder.mkdir()
    with Ledger.open(folder, create=True) as ledger:
        phases = ["explore", "explore", "propose", "confirm"]
        ledger.ask([{"number": n, "cell": "c", "index": n, "phase": phase} for n, phase in enumerate(phases)])
        for number, width in ((0, 2), (1, 2), (2, 1), (3, 1)):
            ledger.record(segment(number, width=width))
        ledger.set_meta(SPENT, 100.25)
        ledger.set_meta("recipe", to_yaml(load_recipe([*TUNE, "--search.trials", "40", "--search.seconds", "90"])))


def search(*words: str) -> SearchConfig:
    return load_recipe([*TUNE, *words]).search


@pytest.mark.parametrize(
    ("name", "text", "fresh", "continued"),
    [
        ("seconds", "+600", 600.0, 700.25),
        ("seconds", "+0.5", 0.5, 100.75),
        ("examples", "+5000", 5000, 7100),
        ("device_seconds", "+6", 6.0, 30.0),
        ("trials", "+8", 104, 48),  # The recipe `tune` has 96.
    ],
)
def test_more_is_on_top_of_what_was_used(name: str, text: str, fresh: float, continued: float, home: Path) -> None:
    assert getattr(search(f"--search.{name}", text), name) == fresh
    used(home)
    assert getattr(search(f"--search.{name}", text), name) == continued


def test_the_same_again_adds_again(home: Path) -> None:
    used(home)
    first = search("--search.seconds", "+600").seconds
    with Ledger.open(home / "mine", create=False) as ledger:
        ledger.set_meta(SPENT, first)
    assert search("--search.seconds", "+600").seconds == 1300.25


def test_without_a_sign_it_is_a_total(home: Path) -> None:
    used(home)
    assert search("--search.seconds", "600", "--search.trials", "8") == search(
        "--search.trials=8", "--search.seconds=600"
    )
    assert search("--search.seconds", "600").seconds == 600.0


def test_the_study_may_be_named_after_it(home: Path) -> None:
    used(home)
    words = ["--config", "tune", "--search.seconds", "+600", "--study", "mine"]
    assert load_recipe(words).search.seconds == 700.25


def test_gpus_that_workers_share_are_counted_once(home: Path) -> None:
    used(home)
    assert search("--search.device_seconds", "+6", "--cluster.per_gpu", "2").device_seconds == 18.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--search.examples", "+1.5"], "`search.examples` must be a whole number"),
        (["--search.seconds", "+0"], "`search.seconds` must be greater than 0"),
        (["--search.seconds", "+ten"], "`search.seconds` must be a number"),
    ],
)
def test_more_that_is_no_number_is_a_mistake(words: list[str], sentence: str, home: Path) -> None:
    with pytest.raises(ValueError) as raised:
        search(*words)
    assert sentence in str(raised.value)
