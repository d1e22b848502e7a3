"""What trials that wait are expected to come to."""

from __future__ import annotations

import math

import pytest

from search.foreseen import Course, foreseen


def test_a_complete_trial_is_what_it_is() -> None:
    assert foreseen({0: Course("16", [0.5, 0.3, 0.1])}, stages=3) == {0: 0.1}


def test_one_that_waits_falls_as_those_did_that_went_on() -> None:
    gone = {number: Course("16", [0.5, 0.5 - 0.1 * number, 0.4 - 0.1 * number]) for number in (1, 2, 3)}
    found = foreseen({**gone, 8: Course("16", [0.9]), 9: Course("16", [0.45, 0.25])}, stages=3)
    assert found[8] == pytest.approx(0.9 - 0.2 - 0.1)
    assert found[9] == pytest.approx(0.25 - 0.1)


def test_a_pool_has_its_own_fall_once_enough_of_it_have_gone_on() -> None:
    small = {number: Course("16", [0.5, 0.4]) for number in range(4)}
    large = {number: Course("512", [0.5, 0.1]) for number in (10, 11)}
    waits = {20: Course("512", [0.6])}
    assert foreseen({**small, **large, **waits}, stages=2)[20] == pytest.approx(0.5)
    assert foreseen({**small, **large, 12: Course("512", [0.6, 0.2]), **waits}, stages=2)[20] == pytest.approx(0.2)


def test_before_anyone_has_gone_on_the_last_loss_stands() -> None:
    assert foreseen({0: Course("16", [0.5]), 1: Course("16", [0.4])}, stages=3) == {0: 0.5, 1: 0.4}


def test_a_poor_one_that_has_ended_is_no_better_than_good_ones_that_wait() -> None:
    found = foreseen({0: Course("16", [0.9, 0.8]), 1: Course("16", [0.3]), 2: Course("16", [0.4])}, stages=2)
    assert sorted(found, key=found.__getitem__) == [1, 2, 0]


def test_what_is_not_finite_is_left_out_and_says_nothing_of_others() -> None:
    broken = {0: Course("16", [math.inf]), 1: Course("16", []), 2: Course("16", [math.inf, 0.2])}
    found = foreseen({**broken, 3: Course("16", [0.5])}, stages=2)
    assert found == {2: 0.2, 3: 0.5}
