"""Convergence of trials and cells: hits, brackets, censoring, areas, and steps to target with the search's luck."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tracking.analysis.convergence import (
    Convergence,
    Hit,
    cell_speed,
    convergence,
    first_hit,
    minimum_distribution,
    selection_interval,
)
from tracking.analysis.curves import Span, area, span

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
    return convergence(trial(status, **more), points, metrics=METRICS, target=0.5, reference=0.1)


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
    found = convergence(trial(), curve(0.9, 0.4), metrics=METRICS, target=None, reference=0.1)
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
    found = convergence(trial(), points, metrics=metrics, target=0.8, reference=0.1)
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


@pytest.mark.parametrize(("select", "gap"), [("best", 0.1), ("final", 0.35)])
def test_the_gap_is_that_of_the_evaluation_a_trial_is_judged_by(select: str, gap: float) -> None:
    points = curve(0.9, 0.2, 0.4)
    for point, value in zip(points, (0.8, 0.1, 0.05), strict=True):
        point["train_eval_loss"] = value
    found = convergence(trial(), points, metrics={**METRICS, "select": select}, target=0.5, reference=0.1)
    assert found.gap == pytest.approx(gap)


def test_the_running_training_loss_makes_no_gap() -> None:
    assert converge(curve(0.9, 0.4)).gap is None


def test_the_area_of_a_straight_line_over_examples_is_one_half() -> None:
    values = np.linspace(1.0, 0.0, 11)[1:]
    found = area(curve(*values.tolist()), metric="val_loss", scale=Span(start=1.0, best=0.0), logarithmic=False)
    assert found == pytest.approx(0.5)


def test_the_area_is_the_integral_over_the_logarithm_of_epochs() -> None:
    # Share 0.5 after one epoch, 1 after three: ln 2 is half of the axis ln 4.
    points = [curve(0.5, 0.25, 0.0)[k] for k in (0, 2)]
    found = area(points, metric="val_loss", scale=Span(start=1.0, best=0.0))
    assert found == pytest.approx((0.5 * 0.25) + (0.5 * 0.75))


def test_a_raw_area_sees_what_the_best_so_far_forgives() -> None:
    scale, points = Span(start=1.0, best=0.0), curve(0.2, 0.9, NAN, 0.2)
    best, raw = (area(points, metric="val_loss", scale=scale, best_so_far=way) for way in (True, False))
    assert best is not None and raw is not None and 0.0 < raw < best < 1.0


def test_areas_stay_within_0_and_1_and_know_no_direction() -> None:
    for row in np.random.default_rng(1).normal(size=(50, 8)):
        losses, scores = curve(*row.tolist()), curve(*(-row).tolist())
        for smooth in (True, False):
            low = area(losses, metric="val_loss", scale=Span(start=1.0, best=-1.0), best_so_far=smooth)
            high = area(scores, metric="val_loss", scale=Span(start=-1.0, best=1.0), best_so_far=smooth)
            assert low is not None and 0.0 <= low <= 1.0 and low == high


@pytest.mark.parametrize("scale", [Span(start=0.4, best=0.4), Span(start=0.4, best=NAN)])
def test_a_scale_of_no_length_gives_no_area(scale: Span) -> None:
    assert area(curve(0.4, 0.3), metric="val_loss", scale=scale) is None


def test_a_faster_trial_has_the_larger_area_on_the_scale_of_the_study() -> None:
    curves = [curve(0.2, 0.15, 0.1), curve(0.9, 0.5, 0.1), curve(1e9)]
    scale = span(curves, metric="val_loss", direction="min")
    assert scale == Span(start=0.9, best=0.1)
    fast, slow = (
        convergence(trial(), points, metrics=METRICS, target=0.5, reference=scale).area for points in curves[:2]
    )
    assert fast is not None and slow is not None and fast > slow
    assert span([[], curve(NAN), curve(0.3)], metric="val_loss", direction="min") is None


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
