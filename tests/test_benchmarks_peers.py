"""The searches that are compared: every contender trains the same problem, and what is printed is what was measured."""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from models import rng, schedules
from models.config import TrainConfig
from models.plan import plan_training
from models.prepared import prepare
from models.segment import Segment
from models.train import train_segment
from pipelines.recipe import Recipe, from_yaml_text
from pipelines.session import space_of

# Not as `benchmarks.peers`: mypy knows these files by their plain names.
peers: Any = importlib.import_module("benchmarks.peers")
searches: Any = importlib.import_module("benchmarks.peer_searches")

NO_RAY = importlib.util.find_spec("ray") is None
SMALL = ("--epochs", "1", "--batch-sizes", "256", "512", "--schedules", "constant", "cosine", "--workers", "2")
"""Four cells of trainings of a fraction of a second."""


def options(*given: str) -> Any:
    return peers.arguments(["--contenders", "regatta", *given])


def recipe(*given: str) -> Recipe:
    text = yaml.safe_dump(peers.recipe(options(*given), seed=0))
    return from_yaml_text(text, "peers.yaml")


def job(folder: Path, *given: str, kind: str = "optuna") -> Any:
    return searches.Job(**peers.jobs(kind, options(*given), str(folder), 0)[0])


def config(*, batch_size: int, schedule: str, rate: float) -> TrainConfig:
    """A trial of Regatta's with a rate of our choice."""
    space = space_of(recipe("--batch-sizes", str(batch_size), "--schedules", schedule, "--epochs", "3"))
    return space.train_config(space.cells()[0], {"learning_rate": rate}, index=0)


def test_regatta_gets_as_many_trials_as_asked_spread_evenly_over_the_cells() -> None:
    made = recipe()
    space = space_of(made)
    assert len(space.cells()) == 24 and made.search.trials * 24 == 96
    assert (made.search.refine, made.search.extend, made.tracking.mlflow) == (0, False, True)
    assert {(cell.batch_size, cell.schedule) for cell in space.cells()} == {
        (size, schedule) for size in peers.BATCH_SIZES for schedule in peers.SCHEDULES
    }


def test_all_contenders_look_in_the_same_space(tmp_path: Path) -> None:
    told, made = job(tmp_path), recipe()
    rate = made.search.learning_rate
    assert (rate.rule, rate.low, rate.high) == ("absolute", *told.rates)
    assert list(made.search.batch_sizes) == told.batch_sizes and list(made.search.schedules) == told.schedules
    assert (made.training.epochs, made.cluster.workers) == (told.epochs, told.workers)


@pytest.mark.parametrize("schedule", peers.SCHEDULES)
@pytest.mark.parametrize("batch_size", [16, 512])
def test_every_schedule_gives_the_peers_the_rates_that_it_gives_regatta(schedule: str, batch_size: int) -> None:
    trial = config(batch_size=batch_size, schedule=schedule, rate=0.5)
    plan = plan_training(trial, examples=prepare(trial).examples, drop_last=False)
    settings = {"learning_rate": 0.5, "schedule": schedule}
    steps = 3 * math.ceil(1437 / batch_size)
    assert plan.total_steps == steps
    made = searches.Plain(settings, momentum=0.9, steps=steps).configure_optimizers()
    optimizer, scheduler = (
        (made["optimizer"], made["lr_scheduler"]["scheduler"]) if isinstance(made, dict) else (made, None)
    )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    factors = schedules.factors(schedule, {}, steps=steps)
    assert rates == pytest.approx([0.5 * factor for factor in factors], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_from_the_same_start_a_peer_trains_to_the_same_curve(schedule: str, tmp_path: Path) -> None:
    # All examples in one batch: the contenders draw other orders, and here the order changes nothing but rounding.
    trial = config(batch_size=1437, schedule=schedule, rate=0.1)
    ours = train_segment(Segment(trial=0, config=trial, folder=str(tmp_path))).curve
    theirs: list[dict[str, float]] = []
    rng.seed_everything(trial.seed_init)
    searches.train(
        {"batch_size": 1437, "schedule": schedule, "learning_rate": 0.1}, job(tmp_path, "--epochs", "3"), theirs.append
    )
    assert [told["steps"] for told in theirs] == [point["step"] for point in ours] == [1, 2, 3]
    assert [told["val_loss"] for told in theirs] == pytest.approx([point["val_loss"] for point in ours], rel=1e-4)


def test_a_trainer_as_it_comes_tells_mlflow_what_it_tells_the_search(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri).search_experiments()
    told: list[dict[str, float]] = []
    settings = {"batch_size": 512, "schedule": "constant", "learning_rate": 0.1}
    try:
        searches.train(settings, job(tmp_path, "--epochs", "2", kind="optuna-mlflow"), told.append)
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # Lightning's logger sets it for the whole process.
    (run,) = MlflowClient(uri).search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.params["batch_size"] == "512"
    points = MlflowClient(uri).get_metric_history(run.info.run_id, "val_loss")
    assert [point.value for point in points] == [point["val_loss"] for point in told] and len(told) == 2


def test_a_process_of_optuna_trains_until_all_trials_are_there(tmp_path: Path) -> None:
    verbosity = searches.optuna.logging.get_verbosity()
    try:
        told = job(tmp_path, *SMALL, "--trials", "4", "--peer-trials", "5")
        first = searches.optuna_search(told)
        second = searches.optuna_search(told)
    finally:
        searches.optuna.logging.set_verbosity(verbosity)
    assert len(first.trials) == 5 and {trial["steps"] for trial in first.trials} <= {3, 6}
    assert all(0 < trial["val_loss"] <= searches.HOPELESS for trial in first.trials)
    assert first.race > 0 and first.trials == sorted(first.trials, key=lambda trial: trial["ended"])
    # Another process that comes late: its one trial was begun before it could know.
    assert len(second.trials) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "contender",
    [
        "regatta",
        pytest.param("ray", marks=pytest.mark.skipif(NO_RAY, reason="Ray is not installed")),
        "optuna",
        "optuna-mlflow",
    ],
)
def test_every_contender_does_its_trials_with_all_workers(contender: str) -> None:
    outcome = peers.race(contender, options(*SMALL, "--trials", "8", "--peer-trials", "8"), seed=0)
    # Optuna's processes each look at the count before they ask: the last of both may be one too many.
    assert outcome.trials in ((8, 9) if contender.startswith("optuna") else (8,)) and 3 <= outcome.steps <= 6
    assert 0 < outcome.race <= outcome.whole + 1 and outcome.rate > 0


def test_seconds_for_more_trials_than_were_run_go_on_at_the_steady_rate() -> None:
    outcome = peers.Outcome(trials=32, whole=50.0, race=40.0, rate=60.0, steps=100.0)
    assert outcome.seconds(32) == 50.0
    assert outcome.seconds(96) == 114.0


def test_the_steady_rate_leaves_out_each_workers_first_trial_and_the_idle_end() -> None:
    # Two workers, slow first trials, then a trial a second; at the end one is idle while the other trains on.
    ended = [10.0, 12.0, *(float(second) for second in range(13, 21)), 30.0]
    assert peers.steady(ended, 2) == pytest.approx(60.0)


def test_the_table_compares_within_rounds() -> None:
    def outcome(whole: float, rate: float) -> Any:
        return peers.Outcome(trials=96, whole=whole, race=whole, rate=rate, steps=100.0)

    # The machine is twice as slow in the second round: that cancels.
    rounds = [{"regatta": outcome(10 * slow, 600 / slow), "optuna": outcome(50 * slow, 100 / slow)} for slow in (1, 2)]
    _, _, first, second = (line.split(" | ") for line in peers.table(rounds, 96))
    assert first[-2:] == ["1.00x (1.00 to 1.00)", "1.00x (1.00 to 1.00) |"]
    assert second[-2:] == ["5.00x (5.00 to 5.00)", "6.00x (6.00 to 6.00) |"]
    assert second[3] == "75.0 (50.0 to 100.0)"


@pytest.mark.parametrize(
    ("printed", "seconds"),
    [("a\n96 trials in 0:14\nb", 14.0), ("1 trials in 2:05", 125.0), ("9 trials in 1:00:01", 3601.0)],
)
def test_the_seconds_of_a_race_are_read_as_they_are_printed(printed: str, seconds: float) -> None:
    assert peers.printed_race(printed) == seconds


def test_processes_that_did_not_train_are_not_overlooked() -> None:
    trials = [{"process": 1, "ended": float(second), "steps": 6} for second in range(5)]
    with pytest.raises(AssertionError, match="1 of 2 processes trained"):
        peers.of_results([{"race": 5.0, "trials": trials}], workers=2, whole=9.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--trials", "100"], "`--trials` must be a multiple of 24 (the cells), but got 100."),
        (
            ["--peer-trials", "4", "--workers", "2"],
            "`--peer-trials` must be at least 5 for 2 workers, but got 4.",
        ),
        pytest.param(
            ["--contenders", "ray"],
            "Ray is not installed. Run `pip install -e .[bench]`, or leave it out: `--contenders regatta optuna`.",
            marks=pytest.mark.skipif(not NO_RAY, reason="Ray is installed"),
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_one_sentence(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        options(*given)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{sentence}\n"
