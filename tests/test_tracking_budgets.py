"""What a budget buys, held against small cases with exact answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tracking.analysis.budgets import (
    aggregate,
    expected_best,
    expected_best_band,
    expected_running_time,
    kaplan_meier,
    performance_profile,
    times_to_target,
)
from tracking.analysis.convergence import Convergence, Hit

INF = math.inf
SCORES = [0.8, 0.6, 0.9, 0.7, 0.85]


def test_expected_running_time_counts_the_time_of_misses() -> None:
    assert expected_running_time([100, 200, 1000, 1000], [True, True, False, False]) == 1150
    assert expected_running_time([100, 200], [False, False]) == INF
    assert expected_running_time([], []) == INF


def test_misses_take_part_in_the_median_of_minima() -> None:
    assert aggregate([[10, 12, INF, INF, 30], [INF] * 5, [9, 50, INF, 14, 11]]) == 10
    assert aggregate([[INF], [], [3.0]]) == INF
    with pytest.raises(ValueError, match="at least one study"):
        aggregate([])


def test_performance_profiles_score_as_the_exact_integral() -> None:
    found = performance_profile({"a": [10, 20, 30, INF], "b": [12, 10, 90, 100]})
    assert [round(found[name].score, 6) for name in "ab"] == [0.666667, 0.816667]
    assert found["a"].ratios == (1.0, 2.0, 1.0, INF) and found["b"].ratios == pytest.approx((1.2, 1.0, 3.0, 1.0))
    assert [found["a"].share(within) for within in (1.0, 1.9, 2.0, 1e9)] == [0.5, 0.5, 0.75, 0.75]
    steps = np.linspace(1.0, 4.0, 300_001)
    assert np.mean([found["b"].share(step) for step in steps[::100]]) == pytest.approx(found["b"].score, abs=1e-3)


def test_a_task_that_nobody_solves_counts_for_nobody() -> None:
    assert performance_profile({"a": [1.0, INF], "b": [2.0, INF]})["a"].score == 0.5


@pytest.mark.parametrize("times", [{}, {"a": []}, {"a": [0.0]}, {"a": [math.nan]}])
def test_times_that_are_no_times_are_refused(times: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="`times` must give every method a positive time"):
        performance_profile(times)


def test_a_diverged_trial_is_a_true_never_and_a_pruned_one_is_censored_at_its_last_step() -> None:
    hit = Hit(step=40, examples=0, seconds=0, value=0, after=0, sustained=40, interpolated=40)
    records = [
        Convergence(number=0, status="COMPLETE", hit=hit, censored_at=100, censoring=""),
        Convergence(number=1, status="COMPLETE", hit=None, censored_at=100, censoring="budget"),
        Convergence(number=2, status="PRUNED", hit=None, censored_at=25, censoring="pruned"),
        Convergence(number=3, status="DIVERGED", hit=None, censored_at=5, censoring="diverged"),
        Convergence(number=4, status="DIVERGED", hit=hit, censored_at=60, censoring=""),
    ]
    assert times_to_target(records) == ([40, 100, 25, INF, INF], [True, False, False, False, False])


@pytest.mark.parametrize("seed", range(20))
def test_kaplan_meier_agrees_with_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    times, events = random.integers(1, 12, size=15).astype(float), random.random(15) < 0.6
    found = kaplan_meier(times.tolist(), events.tolist())
    curve = stats.ecdf(stats.CensoredData(uncensored=times[events], right=times[~events])).sf
    grid = np.arange(0.0, times.max())
    assert found.horizon == times.max()
    assert found.restricted_mean == pytest.approx(curve.evaluate(grid).sum())
    reached = curve.quantiles[curve.probabilities <= 0.5 + 1e-12]
    assert found.median == (reached[0] if len(reached) else INF)


@pytest.mark.parametrize(
    ("times", "events", "median", "mean"),
    [
        ([1, 2, 3, 4], [1, 1, 1, 1], 2, 2.5),
        ([1, 2, 3, INF], [1, 1, 1, 0], 2, (1 + 0.75 + 0.5)),
        ([10, 20, INF, INF, INF], [1, 1, 0, 0, 0], INF, 10 + 0.8 * 10),
        ([5, 10, 10], [0, 1, 0], 10, 10),
        ([INF, INF], [0, 0], INF, INF),
        ([7, 8], [0, 0], INF, 8),
    ],
)
def test_survival_of_small_tables(times: list[float], events: list[int], median: float, mean: float) -> None:
    found = kaplan_meier(times, [bool(event) for event in events])
    assert found.median == median and found.restricted_mean == pytest.approx(mean)


def test_the_mean_is_restricted_to_the_horizon() -> None:
    assert kaplan_meier([1, 2, 3, 4], [True] * 4, horizon=2.0).restricted_mean == pytest.approx(1.75)
    assert kaplan_meier([1, 2], [True, True], horizon=9.0).restricted_mean == pytest.approx(1.5)
    assert kaplan_meier([1, INF], [True, False], horizon=9.0).restricted_mean == pytest.approx(1 + 0.5 * 8)


@pytest.mark.parametrize(
    ("times", "events", "message"),
    [
        ([], [], "at least 1"),
        ([1.0], [True, True], "equally many"),
        ([INF], [True], "finite where an event happened"),
        ([math.nan], [False], "must be numbers"),
        ([1.0, 2.0], [True, False], "`horizon` must be at most 2, the longest time watched, but got 9"),
        ([2.0], [False], "`horizon` must be at most 2, the longest time watched, but got 9"),
    ],
)
def test_survival_beyond_what_was_watched_is_refused(times: list[float], events: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kaplan_meier(times, events, horizon=9.0)


def test_the_expected_best_of_n_is_the_worked_case() -> None:
    assert expected_best(SCORES, direction="max") == pytest.approx([0.77, 0.845, 0.875, 0.89, 0.90], abs=1e-12)
    plugged = expected_best(SCORES, direction="max", with_replacement=True)
    assert plugged == pytest.approx([0.77, 0.83, 0.8564, 0.87032, 0.878672], abs=1e-12)
    losses = [1.0 - score for score in SCORES]
    assert expected_best(losses, direction="min") == pytest.approx([0.23, 0.155, 0.125, 0.11, 0.10], abs=1e-12)


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    values = np.random.default_rng(0).normal(size=8).tolist()
    for n, found in enumerate(expected_best(values, direction="max"), start=1):
        assert found == pytest.approx(np.mean([max(chosen) for chosen in itertools.combinations(values, n)]))


@pytest.mark.parametrize("with_replacement", [False, True])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_expected_best_is_monotone(direction: str, with_replacement: bool) -> None:
    random = np.random.default_rng(2)
    for count in (1, 2, 7, 40, 300):
        found = expected_best(
            random.normal(size=count).tolist(), direction=direction, with_replacement=with_replacement
        )
        gains = np.diff(found) * (1 if direction == "max" else -1)
        assert len(found) == count and (gains >= -1e-12).all()


def test_more_draws_than_trials_are_refused() -> None:
    assert len(expected_best(SCORES, direction="max", upto=2)) == 2
    assert expected_best([], direction="min") == []
    for replaced in (False, True):
        with pytest.raises(ValueError, match=r"`upto` must be at most 5 .* but got 6"):
            expected_best(SCORES, direction="max", upto=6, with_replacement=replaced)


def test_trials_without_a_value_are_worst_until_no_draw_can_miss_the_others() -> None:
    assert expected_best([1.0, 2.0, INF, math.nan], direction="min") == pytest.approx([INF, INF, 1.25, 1.0])
    assert expected_best([1.0, math.nan], direction="max") == pytest.approx([-INF, 1.0])
    assert expected_best([INF, INF], direction="min") == [INF, INF]


def test_a_thousand_trials_overflow_nothing() -> None:
    values = np.random.default_rng(3).normal(size=1000)
    found = expected_best(values.tolist(), direction="min")
    assert found[0] == pytest.approx(values.mean()) and found[-1] == pytest.approx(values.min())
    assert np.isfinite(found).all()


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_band_holds_the_curve_and_ends_in_order(direction: str) -> None:
    values = np.random.default_rng(4).normal(size=30).tolist()
    best = expected_best(values, direction=direction, upto=15)
    low, high = expected_best_band(values, direction=direction, upto=15)
    assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
    assert expected_best_band([], direction=direction) == ([], [])
    infinite = expected_best_band([*values[:3], math.nan], direction=direction)
    assert not np.isnan(infinite).any()
