"""Convergence of trials and cells: hits, brackets, censoring, areas, and steps to target with the search's luck."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tracking.analysis.convergence import (
    FIGURES,
    Convergence,
    Hit,
    cell_speed,
    convergence,
    figures,
    first_hit,
    gaps,
    minimum_distribution,
    selection_interval,
)
from tracking.analysis.curves import area

INF, NAN = math.inf, math.nan
METRICS = {"objective": "val_loss", "direction": "min", "target": 0.5, "target_metric": None, "target_direction": None}


def curve(*values: float | None, metric: str = "val_loss", every: int = 10) -> list[dict[str, Any]]:
    """Evaluations every ten steps of four examples; an epoch has 40 examples and takes two seconds."""
    steps = range(every, every * (len(values) + 1), every)
    return [
        {"trial": 0, "step": s, "examples": 4 * s, "epoch": s / 10, "seconds": s / 5, "train_loss": 0.0, metric: value}
        for s, value in zip(steps, values, strict=True)
    ]


def trial(status: str = "COMPLETE", steps: int | None = 50, **more: Any) -> dict[str, Any]:
    return {"number": 7, "cell": "b4", "status": status, "steps": steps, "seconds": 10.0, "time_mode": None, **more}


def converge(points: list[dict[str, Any]], status: str = "COMPLETE", **more: Any) -> Convergence:
    return convergence(trial(status, **more), points, metrics=METRICS, target=0.5)


def record(number: int, step: float | None, status: str = "COMPLETE", *, seconds: float = NAN) -> Convergence:
    """A trial that arrived at a step, or was watched for 100 steps and did not."""
    hit = None
    if step is not None:
        hit = Hit(step=step, examples=4 * step, seconds=seconds, value=0.5, after=0, sustained=step, interpolated=step)
    endings = {"COMPLETE": "budget", "PRUNED": "pruned", "DIVERGED": "diverged", "OOM": "oom", "FAILED": "failed"}
    censoring: Any = "" if hit else endings[status]
    return Convergence(number=number, status=status, hit=hit, censored_at=100.0, censoring=censoring)


@pytest.mark.parametrize(
    ("values", "direction", "step", "after"),
    [
        pytest.param([0.9, 0.5, 0.4], "min", 20, 10, id="exact equality is a hit"),
        pytest.param([0.4, 0.3], "min", 10, 0, id="the first evaluation"),
        pytest.param([0.9, 0.4, 0.9, 0.4], "min", 20, 10, id="the first of several"),
        pytest.param([0.1, 0.5, 0.9], "max", 20, 10, id="maximized, exact equality"),
        pytest.param([0.9, NAN, 0.4], "min", 30, 20, id="NaN is an evaluation that did not arrive"),
        pytest.param([0.9, None, 0.4], "min", 30, 10, id="a row without the metric is no evaluation"),
        pytest.param([-INF, 0.4], "min", 20, 10, id="an infinitely good value is no hit"),
        pytest.param([0.1, INF, 0.6], "max", 30, 20, id="nor is one when maximized"),
    ],
)
def test_the_first_hit_is_inclusive_and_knows_its_bracket(
    values: list[float | None], direction: str, step: float, after: float
) -> None:
    hit = first_hit(curve(*values), metric="val_loss", target=0.5, direction=direction)
    assert hit is not None
    assert (hit.step, hit.after, hit.value) == (step, after, values[int(step) // 10 - 1])
    assert (hit.examples, hit.seconds) == (4 * step, step / 5)


@pytest.mark.parametrize("values", [[], [0.9, 0.6], [NAN, NAN], [None], [0.500001]])
def test_a_curve_that_never_arrives_has_no_hit(values: list[float | None]) -> None:
    assert first_hit(curve(*values), metric="val_loss", target=0.5, direction="min") is None
    assert first_hit(curve(*values), metric="val_accuracy", target=0.5, direction="min") is None


@pytest.mark.parametrize(
    ("values", "interpolated", "sustained"),
    [
        ([0.9, 0.4, 0.4, 0.4], 18.0, 30),
        ([0.9, 0.4, 0.9, 0.4, 0.4], 18.0, 40),
        ([0.9, 0.4, 0.9, 0.9], 18.0, INF),
        ([0.9, 0.5, 0.5], 20.0, 30),
        ([0.4, 0.4, 0.9], 10.0, 30),
        ([NAN, 0.4, 0.4], 20.0, 30),
        ([0.9, 0.4], 18.0, INF),
    ],
)
def test_a_hit_is_interpolated_in_its_bracket_and_sustained_by_a_median_of_three(
    values: list[float], interpolated: float, sustained: float
) -> None:
    hit = first_hit(curve(*values), metric="val_loss", target=0.5, direction="min")
    assert hit is not None
    assert hit.interpolated == pytest.approx(interpolated) and hit.sustained == sustained


def test_maximizing_is_minimizing_upside_down() -> None:
    values = np.random.default_rng(0).uniform(size=(50, 12))
    for row in values:
        low = first_hit(curve(*row.tolist()), metric="val_loss", target=0.2, direction="min")
        high = first_hit(curve(*(1.0 - row).tolist()), metric="val_loss", target=0.8, direction="max")
        assert (low is None) == (high is None)
        if low is not None and high is not None:
            assert (low.step, low.after, low.sustained) == (high.step, high.after, high.sustained)
            assert low.interpolated == pytest.approx(high.interpolated)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="`direction` must be min or max, but got 'up'"):
        first_hit(curve(0.4), metric="val_loss", target=0.5, direction="up")


@pytest.mark.parametrize(
    ("status", "censoring"),
    [
        ("COMPLETE", "budget"),
        ("PRUNED", "pruned"),
        ("DIVERGED", "diverged"),
        ("OOM", "oom"),
        ("TIMEOUT", "failed"),
        ("FAILED", "failed"),
        ("RUNNING", "running"),
    ],
)
def test_every_status_says_why_a_trial_did_not_arrive(status: str, censoring: str) -> None:
    missed = converge(curve(0.9, 0.8), status)
    assert (missed.hit, missed.censoring, missed.censored_at, missed.arrival) == (None, censoring, 50.0, INF)
    arrived = converge(curve(0.9, 0.4), status)
    assert arrived.hit is not None and arrived.censoring == ""
    assert arrived.arrival == (INF if status in ("DIVERGED", "OOM") else 20.0)


def test_without_a_target_nothing_is_censored() -> None:
    found = convergence(trial(), curve(0.9, 0.4), metrics=METRICS, target=None)
    assert (found.hit, found.censoring, found.best) == (None, "", 0.4)


def test_a_trial_without_any_evaluation_has_no_numbers() -> None:
    found = converge([], "RUNNING", steps=None)
    assert (found.censored_at, found.censoring) == (0.0, "running")
    assert {found.best, found.best_progress, found.final, found.last_mean, found.last_sd, found.area, found.gap} == {
        None
    }


def test_the_target_may_be_another_metric_in_another_direction() -> None:
    points = curve(0.9, 0.4, 0.3)
    for point, accuracy in zip(points, (0.2, 0.7, 0.9), strict=True):
        point["val_accuracy"] = accuracy
    metrics = {**METRICS, "target_metric": "val_accuracy", "target_direction": "max"}
    found = convergence(trial(), points, metrics=metrics, target=0.8)
    assert found.hit is not None and (found.hit.step, found.hit.value, found.best) == (30.0, 0.9, 0.3)


@pytest.mark.parametrize(("mode", "seconds"), [("measured", 4.0), ("steps x step time alone", 16.0), ("array", NAN)])
def test_seconds_to_a_hit_are_those_of_the_trial_alone(mode: str, seconds: float) -> None:
    found = converge(curve(0.9, 0.4), seconds=40.0, time_mode=mode)
    assert found.hit is not None and found.hit.seconds == pytest.approx(seconds, nan_ok=True)


def test_best_final_and_the_noise_at_the_end_are_told_apart() -> None:
    found = converge(curve(0.9, 0.2, 0.3, 0.5, NAN, 0.4, 0.5), steps=70)
    assert (found.best, found.best_progress, found.best_examples, found.final) == (0.2, 20 / 70, 80.0, 0.5)
    assert found.last_mean == pytest.approx(np.mean([0.2, 0.3, 0.5, 0.4, 0.5]))
    assert found.last_sd == pytest.approx(np.std([0.2, 0.3, 0.5, 0.4, 0.5], ddof=1))


def test_progress_is_unknown_unless_the_whole_budget_was_used() -> None:
    assert converge(curve(0.9, 0.2), "PRUNED").best_progress is None


def test_the_best_of_equals_is_the_earliest() -> None:
    assert converge(curve(0.9, 0.2, 0.2), steps=30).best_examples == 80.0


def test_the_gap_is_that_of_every_metric_measured_on_both() -> None:
    final = {"step": 50, "val_loss": 0.4, "val_accuracy": 0.75, "train_loss": 0.1}
    assert gaps(final, {"val_loss": 0.15, "val_accuracy": 1.0, "val_other": 3.0}) == {
        "val_loss": 0.25,
        "val_accuracy": -0.25,
    }
    assert gaps(final, {}) == {}


def test_a_record_has_the_gap_of_its_row_and_none_from_the_running_training_loss() -> None:
    assert converge(curve(0.9, 0.4), gap_val_loss=0.1, gap_val_accuracy=-0.2).gap == 0.1
    assert converge(curve(0.9, 0.4)).gap is None


def test_figures_are_the_columns_that_are_known() -> None:
    lasting, touched, missed = (converge(curve(*values)) for values in ((0.9, 0.4, 0.4), (0.9, 0.4, 0.9), (0.9,)))
    assert tuple(figures(lasting)) == ("last_mean", "last_sd", "area", "area_raw", "area_linear", *FIGURES[:2])
    assert (figures(lasting)["sustained_steps_to_target"], figures(lasting)["interpolated_steps_to_target"]) == (30, 18)
    assert set(FIGURES) - figures(touched).keys() == {"sustained_steps_to_target"}
    assert set(FIGURES) - figures(missed).keys() == {*FIGURES[:2], "last_sd"}
    assert figures(converge([])) == {}


# Evaluations after one epoch, two and three, ...
FALLING = curve(0.8, 0.2, 0.4)


@pytest.mark.parametrize(
    ("logarithmic", "best_so_far", "expected"),
    [
        # Flat at 0.8 for the first epoch, then two trapezoids.
        (False, True, (0.8 + 0.5 + 0.2) / 3),
        (False, False, (0.8 + 0.5 + 0.3) / 3),
        (True, True, (0.8 * math.log(2) + 0.5 * math.log(3 / 2) + 0.2 * math.log(4 / 3)) / math.log(4)),
        (True, False, (0.8 * math.log(2) + 0.5 * math.log(3 / 2) + 0.3 * math.log(4 / 3)) / math.log(4)),
    ],
)
def test_an_area_is_the_mean_over_epochs_or_their_logarithm(
    logarithmic: bool, best_so_far: bool, expected: float
) -> None:
    found = area(FALLING, metric="val_loss", direction="min", logarithmic=logarithmic, best_so_far=best_so_far)
    assert found == pytest.approx(expected, rel=1e-14)


def test_areas_stay_within_the_values_and_know_no_direction() -> None:
    for row in np.random.default_rng(1).normal(size=(50, 8)).tolist():
        for smooth in (True, False):
            low = area(curve(*row), metric="val_loss", direction="min", best_so_far=smooth)
            high = area(curve(*(-x for x in row)), metric="val_loss", direction="max", best_so_far=smooth)
            assert low is not None and high == -low and min(row) <= low + 1e-12 and low - 1e-12 <= max(row)


def test_an_area_on_a_scale_is_the_normalized_one_of_the_share_learned() -> None:
    start, best = 0.9, 0.1
    shares = curve(*[(start - point["val_loss"]) / (start - best) for point in FALLING])
    plain = area(FALLING, metric="val_loss", direction="min")
    learned = area(shares, metric="val_loss", direction="max")
    assert plain is not None and learned == pytest.approx((start - plain) / (start - best), rel=1e-14)


def test_a_faster_trial_has_the_smaller_area_with_the_same_end() -> None:
    fast, slow = (converge(curve(*values)).area for values in ((0.2, 0.15, 0.1), (0.9, 0.5, 0.1)))
    assert fast is not None and slow is not None and fast < slow


@pytest.mark.parametrize("points", [[], curve(NAN), curve(None), [{"step": 1, "val_loss": 0.5}]])
def test_without_a_finite_evaluation_or_its_epoch_there_is_no_area(points: list[dict[str, Any]]) -> None:
    assert area(points, metric="val_loss", direction="min") is None


def test_what_is_not_finite_is_left_out_of_an_area() -> None:
    whole = area(curve(0.8, NAN, 0.4), metric="val_loss", direction="min")
    assert whole == area([curve(0.8, 0.6, 0.4)[k] for k in (0, 2)], metric="val_loss", direction="min")


def test_a_cell_is_as_fast_as_its_fastest_feasible_trial() -> None:
    records = [record(1, 40), record(2, 30), record(0, None), record(3, 20, "DIVERGED"), record(5, 30)]
    found = cell_speed("b4", 4, records)
    assert (found.n_trials, found.n_feasible, found.n_hit) == (5, 4, 3)
    assert (found.steps, found.examples, found.winner) == (30.0, 120.0, 2)


def test_the_fewest_seconds_may_be_of_another_trial() -> None:
    found = cell_speed("b4", 4, [record(1, 40, seconds=3.0), record(2, 30, seconds=5.0), record(3, 35)])
    assert (found.winner, found.seconds, found.seconds_winner) == (2, 3.0, 1)
    assert math.isnan(cell_speed("b4", 4, [record(1, 40)]).seconds)


@pytest.mark.parametrize("records", [[], [record(0, None)], [record(0, 20, "OOM")], [record(0, None, "PRUNED")]])
def test_a_cell_that_never_arrives_takes_infinitely_long(records: list[Convergence]) -> None:
    found = cell_speed("b4", 4, records)
    assert (found.steps, found.examples, found.seconds, found.low, found.high) == (INF,) * 5
    assert (found.n_hit, found.winner, found.seconds_winner) == (0, None, None)


def test_misses_widen_the_interval_but_failures_say_nothing() -> None:
    hits = [record(n, 10.0 * n) for n in (1, 2, 3)]
    assert cell_speed("b4", 4, [*hits, record(4, None, "FAILED")]).high == cell_speed("b4", 4, hits).high == 20.0
    assert cell_speed("b4", 4, [record(1, 10), *[record(n, None, "DIVERGED") for n in range(2, 9)]]).high == INF


@pytest.mark.parametrize("count", [1, 2, 5, 30, 500])
def test_the_bootstrap_distribution_of_the_minimum_sums_to_1(count: int) -> None:
    found = minimum_distribution(count)
    assert len(found) == count and min(found) >= 0.0 and sum(found) == pytest.approx(1.0, abs=1e-12)


def test_the_distribution_of_the_minimum_is_that_of_drawing_again() -> None:
    random = np.random.default_rng(0)
    drawn = random.integers(0, 6, size=(40_000, 6)).min(axis=1)
    shares = np.bincount(drawn, minlength=6) / len(drawn)
    exact = minimum_distribution(6)
    error = [4.0 * math.sqrt(p * (1.0 - p) / len(drawn)) + 1e-4 for p in exact]
    assert all(abs(share - p) <= e for share, p, e in zip(shares, exact, error, strict=True))


@pytest.mark.parametrize(
    ("hits", "interval"),
    [
        # Of three: P(smallest) = 1 - (2/3)^3 = .704, P(smallest two) = 1 - (1/3)^3 = .963.
        ([3.0, 1.0, 2.0], (1.0, 2.0)),
        ([1.0, INF], (1.0, INF)),
        ([1.0, 1.0, 1.0], (1.0, 1.0)),
        ([5.0], (5.0, 5.0)),
        ([], (INF, INF)),
    ],
)
def test_the_selection_interval_is_exact(hits: list[float], interval: tuple[float, float]) -> None:
    assert selection_interval(hits) == interval


def test_quantiles_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="`low` and `high` must be quantiles .* but got 0.9 and 0.1"):
        selection_interval([1.0], low=0.9, high=0.1)
