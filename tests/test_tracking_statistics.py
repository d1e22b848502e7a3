"""Comparisons of configurations: intervals and tests against known answers, and verdicts on simulated seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from tracking.analysis.statistics import (
    Verdict,
    compare,
    detectable,
    holm,
    meaning,
    noether_runs,
    paired_interval,
    probability_better,
    sign_flip_p,
    welch_interval,
    welch_p,
)

INF, NAN = math.inf, math.nan
PAIRED_A = [0.912, 0.915, 0.909, 0.918, 0.911, 0.914, 0.916, 0.910]
PAIRED_B = [0.910, 0.911, 0.908, 0.915, 0.912, 0.909, 0.913, 0.909]


def simulated(
    draws: int, configurations: int, runs: int, *, seed: int, gap: float = 0.0
) -> list[dict[str, list[float]]]:
    """Unit-normal runs of equal configurations; the first one's mean is better (less) by `gap`."""
    values = np.random.default_rng(seed).normal(size=(draws, configurations, runs))
    values[:, 0] -= gap
    names = "abcdefgh"[:configurations]
    return [dict(zip(names, one.tolist(), strict=True)) for one in values]


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    for m, n in ((2, 2), (5, 5), (3, 9), (30, 4)):
        a, b = random.normal(size=m), random.normal(0.5, 3.0, size=n)
        known = stats.ttest_ind(a, b, equal_var=False)
        assert welch_p(a.tolist(), b.tolist()) == pytest.approx(known.pvalue)
        for confidence in (0.9, 0.95, 0.99):
            expected = known.confidence_interval(confidence)
            found = welch_interval(a.tolist(), b.tolist(), confidence=confidence)
            assert found == pytest.approx((expected.low, expected.high))


def test_an_interval_excludes_0_exactly_where_p_is_below_its_level() -> None:
    for runs in simulated(200, 2, 4, seed=1, gap=2.0):
        low, high = welch_interval(runs["a"], runs["b"])
        assert (welch_p(runs["a"], runs["b"]) < 0.05) == (not low <= 0.0 <= high)


def test_values_without_spread_have_an_interval_of_no_width() -> None:
    assert welch_interval([0.1] * 3, [0.1] * 5) == (0.0, 0.0)
    assert (welch_p([0.1] * 3, [0.1] * 5), welch_p([0.1] * 3, [0.2] * 5)) == (1.0, 0.0)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, INF], [1.0, 2.0]), ([], [])])
def test_means_that_have_no_interval_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 finite values each"):
        welch_interval(a, b)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        # Times 3, 2, 1 from the smallest on, never falling below one before.
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_steps_down(raw: list[float], adjusted: list[float]) -> None:
    assert holm(raw) == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("a", "b", "direction", "p"),
    [
        ([1.0, 2.0], [3.0, 4.0], "min", 1.0),
        ([1.0, 2.0], [3.0, 4.0], "max", 0.0),
        ([1.0, 3.0], [2.0, 3.0], "min", (1 + 1 + 0 + 0.5) / 4),
        ([1.0], [1.0], "min", 0.5),
        ([1.0, INF], [2.0, NAN], "min", (1 + 1 + 0 + 0.5) / 4),
        ([1.0, -INF], [2.0, NAN], "max", (0 + 1 + 0 + 0.5) / 4),
    ],
)
def test_the_probability_of_being_better_counts_pairs(a: list[float], b: list[float], direction: str, p: float) -> None:
    found, low, high = probability_better(a, b, direction=direction)
    assert found == p and low <= found <= high


def test_the_bootstrap_of_that_probability_is_the_plain_one() -> None:
    random = np.random.default_rng(4)
    a, b = random.normal(size=12), random.normal(0.4, size=9)
    drawn = [
        np.mean(random.choice(a, 12)[:, None] < random.choice(b, 9))
        for _ in range(4000)
    ]  # fmt: skip
    _, low, high = probability_better(a.tolist(), b.tolist(), direction="min")
    assert (low, high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.03)


def test_the_worked_pairs() -> None:
    deltas = [a - b for a, b in zip(PAIRED_A, PAIRED_B, strict=True)]
    assert np.mean(deltas) == pytest.approx(0.00225)
    assert paired_interval(PAIRED_A, PAIRED_B) == pytest.approx((0.000654, 0.003846), abs=5e-7)
    assert sign_flip_p(deltas) == 0.03125
    with pytest.raises(ValueError, match="equally many and at least 2, but got 2 and 1"):
        paired_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("pairs", "floor"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (20, 2 / 2**20)])
def test_few_pairs_can_never_be_significant(pairs: int, floor: float) -> None:
    assert sign_flip_p([0.1 * (k + 1) for k in range(pairs)]) == floor


def test_sign_flips_are_all_changes_of_sign() -> None:
    deltas = np.random.default_rng(5).normal(0.3, size=9)
    sums = [abs(np.dot(signs, deltas)) for signs in itertools.product((-1, 1), repeat=9)]
    assert sign_flip_p(deltas.tolist()) == np.mean(np.array(sums) >= abs(deltas.sum()) - 1e-12)


def test_many_pairs_are_drawn_instead() -> None:
    deltas = np.random.default_rng(6).normal(0.25, size=60).tolist()
    assert sign_flip_p(deltas) == pytest.approx(stats.ttest_1samp(deltas, 0.0).pvalue, abs=0.01)
    assert 0.0 < sign_flip_p([1.0] * 60) < 1e-4
    with pytest.raises(ValueError, match="`deltas` must hold at least one number"):
        sign_flip_p([])


@pytest.mark.parametrize(("gamma", "runs"), [(0.75, 29), (0.9, 12), (0.6, 181)])
def test_noether_says_how_many_runs(gamma: float, runs: int) -> None:
    assert noether_runs(gamma) == runs


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_a_probability_that_no_runs_can_find_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"`gamma` must be a probability in \(0.5, 1\)"):
        noether_runs(gamma)


@pytest.mark.parametrize(("runs", "sds"), [(5, 1.77), (10, 1.25)])
def test_the_detectable_difference_in_standard_deviations(runs: int, sds: float) -> None:
    assert detectable(1.0, runs) == pytest.approx(sds, abs=0.005)
    assert detectable(3.0, runs) == pytest.approx(3.0 * detectable(1.0, runs))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.5, 0.9, "not significant"),
        (0.51, 0.75, "significant, not meaningful"),
        (0.51, 0.76, "significant and meaningful"),
    ],
)
def test_bouthilliers_three_outcomes(low: float, high: float, said: str) -> None:
    assert meaning(low, high) == said


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
