"""Intervals, tests and numbers of runs against known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tracking.analysis.statistics import (
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
    values = np.random.default_rng(1).normal(size=(200, 2, 4))
    values[:, 0] -= 2.0
    for a, b in values.tolist():
        low, high = welch_interval(a, b)
        assert (welch_p(a, b) < 0.05) == (not low <= 0.0 <= high)


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
