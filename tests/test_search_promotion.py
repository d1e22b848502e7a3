"""Promotion at rungs: who goes on, who waits, and that a late one can still overtake."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from search.promotion import Standing, bracket_of, last_chance, promoted, rungs


def standing(number: int, *losses: float, resting: bool = True, group: str = "a", bracket: int = 0) -> Standing:
    return Standing(number=number, group=group, bracket=bracket, losses=losses, resting=resting)


def test_rungs_are_a_factor_apart_and_end_below_the_whole() -> None:
    assert rungs(3, 2) == pytest.approx([1 / 9, 1 / 3])
    assert rungs(2, 3) == [0.125, 0.25, 0.5]


def test_one_of_eta_goes_on_and_only_once_enough_have_come() -> None:
    first = [standing(0, 0.5), standing(1, 0.4)]
    assert promoted(first, rule="halving", eta=3) == []
    third = [*first, standing(2, 0.6)]
    assert promoted(third, rule="halving", eta=3) == [1]


def test_a_paused_trial_is_promoted_later_when_others_turn_out_poorer() -> None:
    gone_on = standing(1, 0.4, resting=False)
    waits = standing(0, 0.5)
    assert promoted([gone_on, waits, standing(2, 0.6)], rule="halving", eta=3) == []
    later = [gone_on, waits, *(standing(number, 0.7) for number in range(2, 6))]
    assert promoted(later, rule="halving", eta=3) == [0]


def test_those_furthest_on_go_first() -> None:
    low = [standing(number, 0.1 * number) for number in range(3)]
    high = [standing(number, 0.1, 0.1 * number) for number in range(3, 6)]
    assert promoted([*low, *high], rule="halving", eta=3) == [3, 0, 1]


def test_groups_and_brackets_do_not_see_each_other() -> None:
    apart = [standing(0, 0.1), standing(1, 0.2, group="b"), standing(2, 0.3, group="c")]
    assert promoted(apart, rule="halving", eta=3) == []
    brackets = [standing(0, 0.1), standing(1, 0.2), standing(2, 0.3, 0.3, bracket=1)]
    assert promoted(brackets, rule="halving", eta=3) == []


def test_a_trial_that_diverged_counts_and_never_goes_on() -> None:
    broken = [standing(0, 0.5), standing(1, math.inf, resting=False), standing(2, math.inf, resting=False)]
    assert promoted(broken, rule="halving", eta=3) == [0]
    assert promoted([standing(number, math.inf) for number in range(6)], rule="halving", eta=3) == []
    assert last_chance([standing(0, math.inf), standing(1, math.inf)], eta=3) == []


def test_the_median_lets_through_what_is_no_worse() -> None:
    two = [standing(0, 0.1), standing(1, 0.9)]
    assert promoted(two, rule="median", eta=3) == [0, 1]
    four = [*two, standing(2, 0.2), standing(3, math.inf, resting=False)]
    assert promoted(four, rule="median", eta=3) == [0, 2]


def test_the_best_of_a_small_group_goes_on_when_nothing_else_is_left() -> None:
    small = [standing(0, 0.5), standing(1, 0.4)]
    assert last_chance(small, eta=3) == [1]
    assert last_chance([*small, standing(2, 0.6, resting=False)], eta=3) == []
    enough = [standing(number, 0.1 * number, resting=number > 0) for number in range(4)]
    assert last_chance(enough, eta=3) == []


@pytest.mark.parametrize(("eta", "count"), [(3, 2), (2, 3), (4, 1)])
def test_brackets_have_the_shares_of_hyperband(eta: int, count: int) -> None:
    """Li et al. 2018, table 1: with eta 3 and two rungs, 9 to 5 to 3 trials before rounding up: 9, 4.5 and 3."""
    many = 20_000
    found = Counter(bracket_of("hyperband", number, eta=eta, count=count) for number in range(many))
    weights: list[Any] = [eta ** (count - k) / (count + 1 - k) for k in range(count + 1)]
    for bracket, weight in enumerate(weights):
        assert found[bracket] / many == pytest.approx(weight / sum(weights), abs=2e-3)
    assert {bracket_of("halving", number, eta=eta, count=count) for number in range(50)} == {0}
