"""Two curves are equal to the bit, within a tolerance, or differ at a place that is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tracking_rows import trial

from tracking import projection
from tracking.reproduction import Pair, to_the_bit, within_tolerance

CONFIG: dict[str, Any] = trial(0)["train"]
Change = Callable[[dict[str, float]], dict[str, float]]


def curve(**changes: Callable[[float, float], float]) -> list[dict[str, float]]:
    """Eight evaluations; each change takes a metric and its step, and gives what it is instead."""
    points = []
    for step in range(20, 180, 20):
        point = {
            "step": float(step),
            "examples": 32.0 * step,
            "epoch": step / 20,
            "seconds": step / 7,
            "learning_rate": 0.1 - step / 2000,
            "batch_size": 32.0,
            "train_loss": 4 / (step + 1),
            "val_loss": 5 / (step + 1) + 0.01 * math.sin(step),
        }
        points.append({name: changes[name](value, step) if name in changes else value for name, value in point.items()})
    return points


def recorded(points: list[dict[str, float]]) -> Mapping[int, Mapping[str, float]]:
    """The same as MLflow has it."""
    found: dict[int, dict[str, float]] = {}
    segment = {"curve": points, "started": 0.0, "seconds": 0.0}
    for metric in projection.points({"train": CONFIG}, [segment], after=-1):
        found.setdefault(metric.step, {})[metric.key] = metric.value
    return found


def test_equal_curves_are_equal_to_the_bit_whatever_the_clock_says() -> None:
    verdict = to_the_bit(recorded(curve()), curve(seconds=lambda value, _: value * 3))
    # The batch size never changes, and is no metric then.
    assert (verdict.holds, verdict.sentence) == (True, "equal to the bit: 8 evaluations, 5 metrics")


def test_the_last_bit_of_one_number_is_found() -> None:
    now = curve(val_loss=lambda value, step: math.nextafter(value, 1) if step == 60 else value)
    verdict = to_the_bit(recorded(curve()), now)
    assert not verdict.holds
    assert verdict.sentence.startswith("differs at evaluation 3 of 8: val_loss at step 60 was 0.0789")
    assert verdict.sentence.endswith("e-16 of its value apart)")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_the_same_because_mlflow_cannot_tell(value: float) -> None:
    gone = curve(val_loss=lambda loss, step: value if step == 160 else loss)
    assert to_the_bit(recorded(gone), gone).holds
    assert within_tolerance(recorded(gone), gone, CONFIG).holds
    assert not to_the_bit(recorded(gone), curve()).holds
    assert Pair(name="a", step=1, before=value, now=1.0).relative == math.inf


@pytest.mark.parametrize("judge", [to_the_bit, lambda before, now: within_tolerance(before, now, CONFIG)])
def test_an_evaluation_too_many_or_too_few_is_named(judge: Any) -> None:
    verdict = judge(recorded(curve()), curve()[:6])
    assert (verdict.holds, verdict.sentence) == (
        False,
        "differs: at step 140 there was an evaluation, and there is none",
    )
    verdict = judge(recorded(curve()[:6]), curve())
    assert (verdict.holds, verdict.sentence) == (
        False,
        "differs: at step 140 there was no evaluation, and there is one",
    )


def test_a_metric_that_only_one_of_them_has_is_not_compared() -> None:
    now = [{**point, "val_accuracy": 0.5} for point in curve()]
    assert to_the_bit(recorded(curve()), now).sentence.endswith("8 evaluations, 5 metrics")
    assert to_the_bit(recorded(now), curve()).sentence.endswith("8 evaluations, 5 metrics")


WITHIN: list[tuple[str, dict[str, Any], bool, str]] = [
    ("rounding", {"train_loss": lambda v, s: v * (1 + 1e-7 * s)}, True, "within the tolerance: train_loss"),
    ("another beginning", {"train_loss": lambda v, s: v * 1.002}, False, "differs at the first evaluation: train_loss"),
    ("another rate", {"learning_rate": lambda v, s: v * 1.00001}, False, "differs: learning_rate at step 20 was 0.09"),
    ("the best 1 % worse", {"val_loss": lambda v, s: v * 1.01}, True, "(at most 0.02, or 2 standard deviations"),
    ("the best 15 % worse, within the noise", {"val_loss": lambda v, s: v * 1.15}, True, "within the tolerance"),
    ("another best", {"val_loss": lambda v, s: v + 0.1 * (s > 20)}, False, "begins the same, but comes to another"),
    (
        "one evaluation far off",
        {"val_loss": lambda v, s: v * (9 if s == 40 else 1)},
        True,
        "was 0.03325 and is 0.03325",
    ),
]


@pytest.mark.parametrize(("changes", "holds", "told"), [row[1:] for row in WITHIN], ids=[row[0] for row in WITHIN])
def test_a_tolerance_holds_for_the_beginning_and_the_best(changes: dict[str, Any], holds: bool, told: str) -> None:
    verdict = within_tolerance(recorded(curve()), curve(**changes), CONFIG)
    assert verdict.holds is holds, verdict.sentence
    assert told in verdict.sentence


def test_the_best_is_the_largest_where_more_is_better() -> None:
    config = {**CONFIG, "direction": "max"}
    # The smallest value is another one, the largest is not.
    now = curve(val_loss=lambda value, step: value / 10 if step > 20 else value)
    assert within_tolerance(recorded(curve()), now, config).holds
    assert not within_tolerance(recorded(curve()), now, CONFIG).holds


@pytest.mark.parametrize("own", [{"schedule": "plateau"}, {"optimizer": "own"}], ids=str)
def test_a_rate_that_follows_the_training_may_part_with_it(own: dict[str, str]) -> None:
    now = curve(learning_rate=lambda value, step: value / 2 if step > 100 else value)
    assert not within_tolerance(recorded(curve()), now, CONFIG).holds
    assert within_tolerance(recorded(curve()), now, {**CONFIG, **own}).holds


def test_a_pair_of_zeros_is_equal() -> None:
    pair = Pair(name="a", step=1, before=0.0, now=-0.0)
    assert (pair.equal, pair.relative) == (True, 0.0)
    assert dataclasses.replace(pair, now=1.0).relative == 1.0


def test_without_a_training_loss_the_objective_tells_how_it_begins() -> None:
    def bare(points: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{name: value for name, value in point.items() if name != "train_loss"} for point in points]

    now = bare(curve(val_loss=lambda value, step: value * 1.002))
    verdict = within_tolerance(recorded(bare(curve())), now, CONFIG)
    assert verdict.sentence.startswith("differs at the first evaluation: val_loss at step 20")


def test_without_any_evaluation_there_is_nothing_to_compare() -> None:
    assert within_tolerance({}, [], CONFIG).sentence == "no evaluation to compare"
    assert to_the_bit({}, []).sentence == "equal to the bit: 0 evaluations, 0 metrics"
