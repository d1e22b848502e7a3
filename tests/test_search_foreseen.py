"""What trials that wait are expected to come to."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from search.foreseen import WEIGHT, Course, foreseen


def test_a_complete_trial_is_what_it_is() -> None:
    assert foreseen({0: Course("16", [0.5, 0.3, 0.1])}, stages=3) == {0: 0.1}


def test_one_that_waits_falls_as_those_did_that_went_on_by_the_same_factor() -> None:
    gone = {number: Course("cosine", [0.5, 0.25, 0.05]) for number in (1, 2, 3)}
    found = foreseen({**gone, 8: Course("cosine", [0.9]), 9: Course("cosine", [0.5, 0.25])}, stages=3)
    assert found[8] == pytest.approx(0.9 / 10)
    assert found[9] == pytest.approx(0.25 / 5)


def test_of_a_metric_that_is_not_positive_the_difference_counts() -> None:
    gone = {number: Course("cosine", [-0.5, -0.75]) for number in (1, 2, 3)}
    assert foreseen({**gone, 8: Course("cosine", [0.0])}, stages=2)[8] == pytest.approx(-0.25)


def test_what_is_behind_catches_up_though_only_the_best_have_gone_on() -> None:
    """The logarithm halves from the rung on, and chance: found of all, though the worse half stopped."""
    chance = random.Random(0)
    rungs = {number: math.exp(chance.gauss(0.0, 0.5)) for number in range(400)}
    ends = {number: 0.1 * loss**0.5 * math.exp(chance.gauss(0.0, 0.2)) for number, loss in rungs.items()}
    middle = statistics.median(rungs.values())
    courses = {n: Course("cosine", [rungs[n], ends[n]] if rungs[n] < middle else [rungs[n]]) for n in rungs}
    stopped = [number for number in rungs if rungs[number] >= middle]
    found = foreseen(courses, stages=2)
    errors = [math.log(found[number] / ends[number]) for number in stopped]
    assert abs(statistics.fmean(errors)) < 0.05
    # By the factor of those that went on, they would come to half as much again as they do.
    factor = statistics.median(ends[number] / rungs[number] for number in rungs if rungs[number] < middle)
    assert statistics.fmean(math.log(factor * rungs[number] / ends[number]) for number in stopped) > 0.35


def test_the_more_of_a_pool_have_gone_on_the_more_its_own_fall_counts() -> None:
    others = {number: Course("constant", [0.5, 0.4]) for number in range(20)}
    waits = {99: Course("cosine", [0.5])}

    def fall(own: int) -> float:
        gone = {number: Course("cosine", [0.5, 0.1]) for number in range(20, 20 + own)}
        return foreseen({**others, **gone, **waits}, stages=2)[99]

    assert fall(0) == pytest.approx(0.4)
    assert fall(WEIGHT) == pytest.approx(math.sqrt(0.4 * 0.1))
    assert fall(1) > fall(WEIGHT) > fall(10) > 0.1


def test_a_line_never_falls() -> None:
    gone = {0: Course("cosine", [0.2, 0.9]), 1: Course("cosine", [0.9, 0.2]), 2: Course("cosine", [0.5, 0.3])}
    many = {10 * copy + number: course for copy in range(9) for number, course in gone.items()}
    found = foreseen({**many, 998: Course("cosine", [0.1]), 999: Course("cosine", [1.5])}, stages=2)
    assert found[998] == pytest.approx(found[999])


def test_before_anyone_has_gone_on_the_last_loss_stands() -> None:
    assert foreseen({0: Course("16", [0.5]), 1: Course("16", [0.4])}, stages=3) == {0: 0.5, 1: 0.4}


def test_a_poor_one_that_has_ended_is_no_better_than_good_ones_that_wait() -> None:
    found = foreseen({0: Course("16", [0.9, 0.8]), 1: Course("16", [0.3]), 2: Course("16", [0.4])}, stages=2)
    assert sorted(found, key=found.__getitem__) == [1, 2, 0]


def test_what_is_not_finite_is_left_out_and_says_nothing_of_others() -> None:
    broken = {0: Course("16", [math.inf]), 1: Course("16", []), 2: Course("16", [math.inf, 0.2])}
    found = foreseen({**broken, 3: Course("16", [0.5])}, stages=2)
    assert found == {2: 0.2, 3: 0.5}
