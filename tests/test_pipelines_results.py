"""What a search came to, in a table, in sentences and in a file: nothing is claimed that was not measured."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from search_parts import result_of, space

from pipelines import results
from search.expected import Expectation
from search.space import SearchSpace
from search.study import Study

TARGET = {"target": 0.5}


def study(made: SearchSpace, *outcomes: dict[str, Any]) -> Study:
    """A study in which the first trials ended so; `hit` may be (epoch, examples, step)."""
    new = Study(made)
    for outcome in outcomes:
        trial = new.ask()
        assert trial is not None
        fields = dict(outcome)
        if isinstance(fields.get("hit"), tuple):
            fields["hit"] = dict(zip(("epoch", "examples", "step"), fields["hit"], strict=True)) | {"seconds": 1.5}
        new.tell(trial, result_of(trial, **fields))
    return new


def lines(new: Study) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(results.table(new))
    return [line.split() for line in out.getvalue().splitlines()]


def one_cell(**changes: Any) -> SearchSpace:
    return space(**{"batch_sizes": (64,), "schedules": {"constant": {}}, **changes})


def test_the_table_ranks_the_best_of_every_cell() -> None:
    new = study(space(), {"value": 0.5}, {"value": 0.25}, {"value": 0.75}, {"value": 1.0}, {"value": 0.125})
    table = lines(new)
    assert table[0] == ["best", "trial", "of", "each", "cell"]
    assert table[1] == ["batch", "size", "schedule", "learning", "rate", "val_loss", "trial"]
    rates = {trial.number: f"{trial.params['learning_rate']:.3g}" for trial in new.trials()}
    assert table[2:] == [
        ["1", "64", "constant", rates[4], "0.125", "4"],
        ["2", "64", "cosine", rates[1], "0.25", "1"],
        ["3", "256", "constant", rates[2], "0.75", "2"],
        ["4", "256", "cosine", rates[3], "1", "3"],
    ]


def test_what_is_expected_of_fresh_seeds_stands_in_the_table_and_decides() -> None:
    new = study(space(), {"value": 0.5}, {"value": 0.25}, {"value": 0.75}, {"value": 1.0}, {"value": 0.125})
    values = {0: 0.4, 1: 0.6, 2: 0.8, 3: 0.9, 4: 0.7}
    new.expected = {number: Expectation(value, value + 0.1) for number, value in values.items()}
    table = lines(new)
    assert table[1] == ["batch", "size", "schedule", "learning", "rate", "val_loss", "expected", "trial"]
    assert [row[-3:] for row in table[2:]] == [
        ["0.5", "0.4", "0"],
        ["0.25", "0.6", "1"],
        ["0.75", "0.8", "2"],
        ["1", "0.9", "3"],
    ]
    said = results.sentences(new)[0]
    assert "(val_loss 0.4 expected on a fresh seed; trial 0 came to 0.5)" in said
    assert "The best value, 0.125 of trial 4, is partly luck: 0.7 is expected there." in said
    assert results.figures(new)["result/expected"] == 0.4
    new.expected = {**new.expected, 4: Expectation(0.1, 0.2)}
    assert "luck" not in results.sentences(new)[0]


def test_the_table_has_what_else_was_measured_and_when_the_target_was_reached() -> None:
    made = space(batch_sizes=(64,), metrics=TARGET)
    best = {"val_loss": 0.25, "val_accuracy": 0.875, "train_loss": 0.1}
    new = study(made, {"value": 0.25, "best": best, "hit": (2.0, 128, 2)}, {"value": 0.75})
    table = lines(new)
    assert table[1][-8:] == ["val_accuracy", "trial", "epochs", "to", "val_loss", "≤", "0.5", "seconds"]
    assert table[2][-4:] == ["0.875", "0", "2", "1.50"]
    assert table[3][-2:] == ["1", "never"]


def test_the_modules_own_optimizer_has_no_rate() -> None:
    new = study(one_cell(optimizers={"own": {}, "sgd": {}}), {"value": 0.5}, {"value": 0.25})
    assert lines(new)[3] == ["2", "64", "own", "constant", "own", "0.5", "0"]
    assert results._named(new.trials()[0]) == "batch size 64 with own, constant"


def test_without_a_complete_trial_nothing_is_compared() -> None:
    new = study(space(), {"status": "DIVERGED"}, {"status": "FAILED"})
    assert results.sentences(new) == [
        "No trial has completed, so there is nothing to compare; `trials.csv` has the reason of each."
    ]
    assert results.figures(new) == {
        "trials/diverged": 1.0,
        "trials/failed": 1.0,
        "trials/all": 2.0,
        "progress/examples": 0.0,
    }
    assert "|---|" in results.description(new, results.sentences(new))


def test_one_cell_has_a_best_and_nothing_that_it_is_ahead_of() -> None:
    new = study(one_cell(), {"value": 0.5}, {"value": 0.25})
    rate = new.trials()[1].params["learning_rate"]
    assert results.sentences(new) == [
        f"Best: batch size 64 with sgd, constant at learning rate {rate:.3g} (val_loss 0.25, trial 1).",
        "No target was set (`metrics.target`), so speed of convergence is not compared.",
    ]


@pytest.mark.parametrize(("direction", "values", "first"), [("min", (0.5, 0.25), 1), ("max", (0.5, 0.25), 0)])
def test_the_best_is_ahead_by_the_distance_to_the_second(direction: str, values: Any, first: int) -> None:
    new = study(space(batch_sizes=(64,), metrics={"direction": direction}), *({"value": v} for v in values))
    sentence = results.sentences(new)[0]
    assert f"trial {first}), 0.25 ahead of batch size 64 with sgd" in sentence
    assert sentence.endswith("each is a single run, and other seeds may rank them otherwise.")


def test_a_target_that_nobody_reached_is_said_to_be_so() -> None:
    new = study(space(metrics=TARGET), {"value": 0.75}, {"status": "DIVERGED"})
    assert results.sentences(new)[1] == (
        "None of 2 trials reached val_loss ≤ 0.5: set `metrics.target` within reach, or train longer."
    )


def test_fewest_examples_and_fewest_steps_may_be_two_trials() -> None:
    hits: list[dict[str, Any]] = [
        {"value": 0.1, "hit": (1.0, 640, 10)},
        {"value": 0.2},
        {"value": 0.3, "hit": (2.0, 1280, 5)},
    ]
    new = study(space(metrics=TARGET), *hits)
    assert [trial.train.batch_size for trial in new.trials()] == [64, 64, 256]
    sentence = results.sentences(new)[1]
    assert sentence.startswith("2 of 3 trials reached val_loss ≤ 0.5: on the fewest examples batch size 64")
    assert "in the fewest steps batch size 256" in sentence and sentence.endswith("(5 steps).")


def test_of_as_many_steps_those_on_fewer_examples_are_named() -> None:
    hits: list[dict[str, Any]] = [
        {"value": 0.1, "hit": (2.0, 640, 10)},
        {"value": 0.2, "hit": (2.0, 1280, 5)},
        {"value": 0.3, "hit": (2.0, 1270, 5)},
    ]
    new = study(space(metrics=TARGET), *hits)
    assert [trial.train.batch_size for trial in new.trials()] == [64, 64, 256]
    assert "in the fewest steps batch size 256" in results.sentences(new)[1]


def test_one_trial_may_be_the_fastest_in_both() -> None:
    new = study(space(metrics=TARGET), {"value": 0.1, "hit": (1.0, 640, 4)}, {"value": 0.3, "hit": (2.0, 1280, 5)})
    assert results.sentences(new)[1].endswith("(1 epoch), which also took the fewest steps (4).")


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"target": 0.5}, "val_loss ≤ 0.5"),
        ({"target": 0.9, "direction": "max", "objective": "val_accuracy"}, "val_accuracy ≥ 0.9"),
        ({"target": 0.9, "target_metric": "val_accuracy", "target_direction": "max"}, "val_accuracy ≥ 0.9"),
    ],
)
def test_a_target_is_told_with_its_metric_and_direction(metrics: dict[str, Any], words: str) -> None:
    assert results.target(space(metrics=metrics).metrics) == words


def test_the_figures_of_a_search_are_numbers_for_mlflow() -> None:
    new = study(space(), {"value": 0.5, "examples": 10}, {"status": "DIVERGED", "examples": 5})
    assert results.figures(new) == {
        "trials/complete": 1.0,
        "trials/diverged": 1.0,
        "trials/all": 2.0,
        "progress/examples": 15.0,
        "result/value": 0.5,
    }
