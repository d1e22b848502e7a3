"""Promotion at rungs: who goes on, who waits, and that a late one can still overtake."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from search.promotion import Rule, Standing, bracket_of, last_chance, promoted, rungs


def standing(number: int, *losses: float, resting: bool = True, group: str = "a", bracket: int = 0) -> Standing:
    """Groups named by one letter are of one pool; others of that named before their slash."""
    pool = group.rpartition("/")[0]
    return Standing(number=number, group=group, bracket=bracket, losses=losses, resting=resting, pool=pool)


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


# Groups too small for a share of their own


def sent(first: int, group: str, *losses: float) -> list[Standing]:
    """Three trials of a group, of which the best has gone on to the second rung, and come to something there."""
    best = standing(first, 0.1, *losses, group=group)
    return [best, standing(first + 1, 0.2, group=group), standing(first + 2, 0.3, group=group)]


def on(*groups: list[Standing], rule: Rule = "halving") -> list[int]:
    """Who goes on where small groups have a share together; whoever leads them all is gone already."""
    leader = standing(99, -1.0, -1.0, resting=False, group="far/away")
    return promoted([leader, *(one for group in groups for one in group)], rule=rule, eta=3, pooled=True)


def test_of_three_small_groups_at_a_later_rung_the_best_goes_on() -> None:
    three = [sent(0, "a", 0.5), sent(10, "b", 0.4), sent(20, "c", 0.6)]
    assert on(*three[:2]) == [] and on(*three) == [10]
    alone = [one for group in three for one in group]
    assert promoted(alone, rule="halving", eta=3) == []


def test_one_of_eta_of_all_of_them_goes_on_and_no_more() -> None:
    groups = [sent(10 * index, letter, 0.1 * index) for index, letter in enumerate("abcdefg")]
    assert on(*groups) == [0, 10]
    groups[0][0] = standing(0, 0.1, 0.0, resting=False)
    assert on(*groups) == [10]


def test_pools_have_a_share_each() -> None:
    apart = [sent(10 * index, group, 0.5) for index, group in enumerate(("64/a", "64/b", "128/a", "128/b"))]
    assert on(*apart) == []
    assert on(*apart, sent(40, "64/c", 0.6)) == [0]


def test_at_the_first_rung_nobody_goes_on_before_eta_of_a_group_have_come() -> None:
    pairs = [[standing(n, 0.1, group=letter), standing(n + 3, 0.2, group=letter)] for n, letter in enumerate("abc")]
    assert on(*pairs) == []


def test_whom_its_own_group_shows_to_be_poor_does_not_go_on() -> None:
    others = [sent(10, "b", 0.5), sent(20, "c", 0.6)]
    # Alone at its rung, it was let past the first one as the last chance of its group, before better ones came.
    late = [standing(0, 0.9, 0.1), standing(1, 0.2, resting=False), standing(2, 0.3)]
    assert on(late, *others) == [10]
    # With a better one of its own group beside it, it is not the best of them.
    both = [standing(0, 0.1, 0.4), standing(1, 0.2, 0.3), *(standing(number, 0.5) for number in range(2, 6))]
    assert on(both, *others) == [1]
    gone = [standing(0, 0.1, 0.4), standing(1, 0.2, 0.3, resting=False), *both[2:]]
    assert on(gone, *others) == []
    broken = [sent(0, "a", math.inf), *others]
    assert on(*broken) == [10]


def test_with_enough_of_its_own_a_group_has_its_own_share_alone() -> None:
    own = [standing(number, 0.01 * number, 0.01 * number) for number in range(3)]
    own += [standing(number, 0.9) for number in range(3, 9)]
    assert on(own, sent(10, "b", 0.5), sent(20, "c", 0.6)) == [0]


def test_brackets_are_apart_and_the_median_needs_no_share() -> None:
    later = [standing(n, 0.5, 0.1 * n, bracket=1, group="a") for n in range(2)]
    assert on(later, sent(10, "b", 0.5), sent(20, "c", 0.6), rule="hyperband") == []
    pairs = [sent(0, "a", 0.5), sent(10, "b", 0.4), sent(20, "c", 0.6)]
    assert set(on(*pairs, rule="median")) >= {0, 10, 20}


# Whoever leads all groups


def alone(*losses: float) -> list[Standing]:
    """Trials of a group each, at their first rung."""
    return [standing(number, loss, group=f"{number}/own") for number, loss in enumerate(losses)]


@pytest.mark.parametrize("rule", ["halving", "hyperband"])
def test_whoever_leads_all_groups_goes_on_at_once_when_it_has_left_enough_behind(rule: Rule) -> None:
    three = alone(0.5, 0.4, 0.6)
    assert promoted(three[:2], rule=rule, eta=3, pooled=True) == []
    assert promoted(three, rule=rule, eta=3, pooled=True) == [1]
    assert promoted(three, rule=rule, eta=3) == []
    # What diverged was left behind as well, and leads nobody.
    assert promoted(alone(math.inf, 0.4, math.inf), rule=rule, eta=3, pooled=True) == [1]
    assert promoted(alone(math.inf, math.inf, math.inf), rule=rule, eta=3, pooled=True) == []


def test_a_leader_goes_on_from_later_rungs_too_unless_another_was_better_there() -> None:
    others = alone(0.5, 0.6, 0.7)
    leader = standing(9, 0.4, 0.3, group="9/own")
    assert promoted([*others, leader], rule="halving", eta=3, pooled=True) == [9]
    better = standing(8, 0.3, 0.2, resting=False, group="8/own")
    assert promoted([*others, leader, better], rule="halving", eta=3, pooled=True) == []


def test_only_a_new_best_leads_once_the_leader_has_gone() -> None:
    gone = standing(9, 0.3, resting=False, group="9/own")
    assert promoted([*alone(0.5, 0.4, 0.6), gone], rule="halving", eta=3, pooled=True) == []
    assert promoted([*alone(0.5, 0.2, 0.6), gone], rule="halving", eta=3, pooled=True) == [1]


def test_a_leader_is_named_once_where_its_own_group_lets_it_go_too() -> None:
    group = [standing(number, 0.1 * number, group="a") for number in range(3)]
    assert promoted(group, rule="halving", eta=3, pooled=True) == [0]


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
