"""What trials that wait are expected to come to."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping

import pytest

from search.foreseen import FEW, PART, WEIGHT, Course, Outlook


def foreseen(courses: Mapping[int, Course], *, stages: int) -> dict[int, float]:
    """The end of each trial, from what all have come to."""
    outlook = Outlook(stages=stages)
    outlook.take(courses)
    return outlook.ends


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


def halved(numbers: range, *, factor: float = 0.5) -> dict[int, Course]:
    """Complete trials whose loss comes to this part of what it was at the rung."""
    return {number: Course("16", [1 + number / 1000, factor * (1 + number / 1000)]) for number in numbers}


def test_of_few_trials_lines_are_found_anew_with_each() -> None:
    outlook = Outlook(stages=2)
    outlook.take({**halved(range(100)), 100: Course("16", [1.0])})
    before = outlook.ends[100]
    assert outlook.take(halved(range(101, 300), factor=0.25)) >= {100}
    assert outlook.ends[100] < 0.9 * before


def test_of_many_trials_lines_stay_until_a_part_of_them_has_moved_on() -> None:
    many = 2 * FEW
    outlook = Outlook(stages=2)
    outlook.take({**halved(range(many)), many: Course("16", [1.0])})
    before = outlook.ends[many]
    part = int(PART * many)
    some = {number: Course("16", [1.0, 0.1]) for number in range(many + 1, many + part)}
    assert outlook.take({**some, many + part: Course("16", [1.0])}) == {*some, many + part}
    # The newcomer is foreseen as the one that has waited is.
    assert outlook.ends[many] == outlook.ends[many + part] == before
    assert many in outlook.take({number: Course("16", [1.0]) for number in range(3 * many, 3 * many + part)})
    assert outlook.ends[many] == outlook.ends[many + part] != before


def test_a_loss_without_a_logarithm_finds_lines_anew() -> None:
    outlook = Outlook(stages=2)
    outlook.take(halved(range(2 * FEW)))
    assert len(outlook.take({2 * FEW: Course("16", [-1.0])})) == 2 * FEW + 1
    assert outlook.ends[2 * FEW] < -0.5


def test_doubt_is_how_far_lines_missed_the_ends_of_complete_trials() -> None:
    outlook = Outlook(stages=3)
    outlook.take({number: Course("16", [1.0, 0.5, 0.25]) for number in range(40)})
    outlook.take({50: Course("16", [1.0]), 51: Course("16", [1.0, 0.5])})
    assert outlook.doubt(50) == pytest.approx(0) and outlook.logarithmic
    drawn = random.Random(0)
    outlook.take({number: Course("16", [1.0, 0.5, 0.25 * math.exp(drawn.gauss(0, 0.2))]) for number in range(40)})
    assert outlook.doubt(51) == pytest.approx(0.2**2, rel=0.5)
    assert outlook.doubt(0) == 0


def test_a_trial_that_broke_off_is_foreseen_no_more() -> None:
    outlook = Outlook(stages=2)
    outlook.take({0: Course("16", [0.5]), 1: Course("16", [0.4])})
    assert outlook.take({1: None}) >= {1} and outlook.ends == {0: 0.5}
