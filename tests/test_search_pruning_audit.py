"""The replay of rungs on completed trainings: what it keeps, what it costs, and that it agrees with the rules."""

from __future__ import annotations

import math

import pytest

from search.promotion import Rule
from search.pruning_audit import Training, replay

AXES = ("batch_size", "optimizer", "schedule")


def training(first: float, second: float, final: float, *, size: int = 16) -> Training:
    group = {"batch_size": str(size), "optimizer": "sgd", "schedule": "cosine"}
    return Training(group=group, losses=[first, second], final=final)


STEADY = [training(place / 27, place / 27, place / 27) for place in range(27)]
"""As good at every rung as in the end."""


@pytest.mark.parametrize("rule", ["halving", "hyperband", "median"])
def test_where_rungs_say_what_comes_in_the_end_the_best_always_comes_through(rule: Rule) -> None:
    found = replay(STEADY, rule=rule, within=AXES)
    assert (found.kept, found.loss) == (1.0, 0.0)
    assert 1 / 9 < found.cost < 1.0


def test_halving_costs_what_its_rungs_add_up_to() -> None:
    """A ninth for all, up to a third for a third of them, the rest for a ninth: 1/9 + 2/27 + 2/27."""
    found = replay(STEADY, rule="halving", within=AXES)
    # Decided while they arrive, a few more go on than would at the end.
    assert 7 / 27 <= found.cost <= 0.4


def test_a_late_bloomer_is_stopped_and_what_that_costs_is_said() -> None:
    late = training(5.0, 5.0, -1.0)
    found = replay([*STEADY, late], rule="halving", within=AXES)
    assert (found.kept, found.loss) == (0.0, 1.0)


def test_groups_are_compared_within_themselves_alone() -> None:
    """A group that looks poor half-way and is best in the end comes through only where it is compared with itself."""
    slow = [training(9 + place, 9 + place, -9 + place, size=512) for place in range(9)]
    assert replay([*STEADY, *slow], rule="halving", within=AXES).kept == 1.0
    assert replay([*STEADY, *slow], rule="halving", within=()).kept == 0.0


def test_what_diverges_ends_at_its_rung_and_never_wins() -> None:
    broken = [training(0.0, math.inf, math.inf) for _ in range(9)]
    found = replay([*STEADY, *broken], rule="median", within=AXES)
    assert found.kept == 1.0
    alone = replay([*broken, training(1.0, 1.0, 1.0)], rule="hyperband", within=AXES)
    assert alone.cost <= 1.0 and alone.trainings == 10
