"""Verdicts on configurations re-run on fresh seeds: seldom wrong, and "no difference" where there is none to see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tracking.analysis.statistics import detectable, holm, welch_p
from tracking.analysis.verdicts import Verdict, compare

INF, NAN = math.inf, math.nan


def simulated(
    draws: int, configurations: int, runs: int, *, seed: int, gap: float = 0.0
) -> list[dict[str, list[float]]]:
    """Unit-normal runs of equal configurations; the first one's mean is better (less) by `gap`."""
    values = np.random.default_rng(seed).normal(size=(draws, configurations, runs))
    values[:, 0] -= gap
    names = "abcdefgh"[:configurations]
    return [dict(zip(names, one.tolist(), strict=True)) for one in values]


@pytest.mark.parametrize(("configurations", "runs"), [(2, 5), (4, 5), (2, 20), (4, 20)])
def test_equal_configurations_are_seldom_told_apart(configurations: int, runs: int) -> None:
    verdicts = [compare(one, direction="min")[1] for one in simulated(200, configurations, runs, seed=7)]
    assert np.mean([all(verdict.outcome != "better" for verdict in found) for found in verdicts]) >= 0.9


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_gap_of_three_standard_deviations_is_found(direction: str) -> None:
    flip = 1.0 if direction == "min" else -1.0
    found = [
        compare({name: [flip * value for value in values] for name, values in one.items()}, direction=direction)
        for one in simulated(200, 2, 5, seed=8, gap=3.0)
    ]
    assert np.mean([best == "a" and verdict.outcome == "better" for best, (verdict,) in found]) >= 0.95


def test_twenty_seeds_find_the_gap_among_four() -> None:
    for one in simulated(10, 4, 20, seed=9, gap=3.0):
        best, verdicts = compare(one, direction="min")
        assert best == "a" and [verdict.against for verdict in verdicts] == ["b", "c", "d"]
        assert {(verdict.outcome, verdict.meaning) for verdict in verdicts} == {
            ("better", "significant and meaningful")
        }


def test_better_means_that_the_interval_excludes_0_at_holms_level() -> None:
    for one in simulated(80, 4, 6, seed=10, gap=1.5):
        _, verdicts = compare(one, direction="min")
        p_values = [welch_p(one[_best(one)], one[verdict.against]) for verdict in verdicts]
        adjusted = holm(p_values)
        for verdict, p_value in zip(verdicts, adjusted, strict=True):
            assert verdict.p_value == p_value
            assert (verdict.outcome == "better") == (p_value < 0.05) == (not verdict.low <= 0.0 <= verdict.high)
            assert 0.95 <= verdict.confidence <= 1.0 - 0.05 / 3 + 1e-12


def _best(runs: dict[str, list[float]]) -> str:
    return min(runs, key=lambda name: float(np.mean(runs[name])))


def only(runs: dict[str, Sequence[float]], **options: float) -> Verdict:
    """The one verdict on two configurations whose metric is a loss."""
    _, (verdict,) = compare(runs, direction="min", **options)
    return verdict


def test_a_difference_has_the_sign_of_the_metric() -> None:
    low = only({"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9]})
    best, (high,) = compare({"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9]}, direction="max")
    assert low.against == "b" and low.difference == pytest.approx(-4.0) and low.high < 0.0
    assert (best, high.against) == ("b", "a") and high.difference == pytest.approx(4.0)
    assert low.p_better == high.p_better == 1.0


def test_close_runs_are_equivalent_and_few_noisy_ones_undecided() -> None:
    random = np.random.default_rng(11)
    noise = random.normal(size=30)
    close = only({"a": noise.tolist(), "b": (noise[::-1] + 0.01).tolist()})
    assert (close.outcome, close.within_delta, close.meaning) == ("equivalent", True, "not significant")
    assert close.delta == pytest.approx(noise.std(ddof=1)) and close.detectable < 0.75 * close.delta
    noisy = only({"a": [1.0, 2.0, 3.0], "b": [1.1, 2.1, 3.1]})
    assert noisy.outcome == "no detectable difference"
    assert noisy.detectable == pytest.approx(detectable(1.0, 3)) and noisy.low < 0.0 < noisy.high


def test_a_detectable_difference_may_still_be_within_the_users_delta() -> None:
    runs: dict[str, Sequence[float]] = {"a": [1.0, 1.01, 0.99, 1.0], "b": [1.1, 1.11, 1.09, 1.1]}
    verdict = only(runs, delta=0.5)
    assert (verdict.outcome, verdict.within_delta, verdict.delta) == ("better", True, 0.5)
    assert not only(runs, delta=0.05).within_delta


def test_one_run_decides_nothing() -> None:
    verdict = only({"a": [1.0], "b": [2.0, 2.1, 2.2]})
    assert verdict.reason == "needs at least 2 runs of each configuration, but `a` has 1"
    assert (verdict.outcome, verdict.low, verdict.high, verdict.p_value) == ("no detectable difference", -INF, INF, 1.0)
    single = only({"a": [1.0], "b": [2.0]})
    assert math.isnan(single.delta) and single.detectable == INF


@pytest.mark.parametrize("lost", [INF, NAN, -INF])
def test_runs_that_diverged_are_worst_and_compared_by_ranks(lost: float) -> None:
    runs = {"a": [1.0, 1.1, 1.2, 0.9, 1.05, 1.15], "b": [0.1, 0.2, lost, 0.3, lost, 0.1]}
    best, (verdict,) = compare(runs, direction="min")
    assert (best, verdict.difference, verdict.outcome) == ("a", -INF, "no detectable difference")
    assert verdict.reason == "compared by ranks, without an interval: 2 of 6 runs of `b` diverged"
    best, (verdict,) = compare({"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [lost] * 5}, direction="max")
    assert (best, verdict.outcome) == ("a", "better") and verdict.p_value == pytest.approx(2 / 252)
    assert (verdict.low, verdict.high, verdict.difference) == (-INF, INF, INF)


def test_runs_that_never_differ_are_no_certainty() -> None:
    verdict = only({"a": [0.5, 0.5], "b": [0.6, 0.6]})
    assert verdict.outcome == "no detectable difference" and verdict.p_value == pytest.approx(1 / 3)
    assert verdict.reason == "compared by ranks, without an interval: runs of `a` and of `b` never differ"
    assert only({"a": [0.5] * 5, "b": [0.6] * 5}).outcome == "better"


def test_a_configuration_alone_has_no_verdict_and_the_first_of_equals_is_best() -> None:
    assert compare({"a": [1.0, 2.0]}, direction="min") == ("a", [])
    assert compare({"b": [1.0, 2.0], "a": [2.0, 1.0]}, direction="max")[0] == "b"


@pytest.mark.parametrize(
    ("runs", "delta", "message"),
    [
        ({}, None, "`runs` must hold at least one configuration"),
        ({"a": []}, None, "and each at least one run"),
        ({"a": [1.0]}, 0.0, "`delta` must be a finite number greater than 0, but got 0.0"),
        ({"a": [1.0]}, NAN, "`delta` must be a finite number greater than 0, but got nan"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(
    runs: dict[str, list[float]], delta: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(runs, direction="min", delta=delta)


def test_a_comparison_repeats_to_the_last_bit() -> None:
    (runs,) = simulated(1, 3, 25, seed=12)
    assert compare(runs, direction="min") == compare(runs, direction="min")
