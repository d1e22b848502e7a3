"""Several objectives at once: layers, crowding and order agree with their definitions, and nothing censored leads."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest

from tracking.analysis.objectives import marked, objectives_of, score_of
from tracking.analysis.pareto import Score, arranged, crowding, distances, dominates, front, layers

NEVER = math.inf


def drawn(seed: int, *, count: int, objectives: int) -> list[tuple[float, ...]]:
    """Points of a coarse grid, so that there are ties and equal ones."""
    generator = random.Random(seed)
    return [tuple(float(generator.randrange(6)) for _ in range(objectives)) for _ in range(count)]


def peeled(points: Sequence[tuple[float, ...]]) -> list[set[int]]:
    """Layers by their definition: take away what none dominates, again and again."""
    left, found = set(range(len(points))), []
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        found.append(best)
        left -= best
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_layers_are_what_is_left_undominated_again_and_again(objectives: int, seed: int) -> None:
    points = drawn(seed, count=40, objectives=objectives)
    assert [set(layer) for layer in layers(points)] == peeled(points)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 2.0), (1.0, 3.0), True),
        ((1.0, 2.0), (1.0, 2.0), False),
        ((1.0, 3.0), (2.0, 2.0), False),
        ((1.0, NEVER), (2.0, NEVER), True),
        ((1.0,), (2.0,), True),
    ],
)
def test_to_dominate_is_to_be_nowhere_worse_and_somewhere_better(
    one: tuple[float, ...], other: tuple[float, ...], expected: bool
) -> None:
    assert dominates(one, other) is expected


def test_crowding_is_the_gap_between_neighbours_in_units_of_the_range() -> None:
    points = [(0.0, 10.0), (1.0, 6.0), (3.0, 2.0), (4.0, 0.0)]
    assert crowding(points) == [math.inf, 3 / 4 + 8 / 10, 3 / 4 + 6 / 10, math.inf]
    assert crowding([(1.0, 1.0)] * 3) == [0.0] * 3 and crowding([]) == []


@pytest.mark.parametrize("seed", range(8))
def test_the_order_never_puts_what_is_dominated_before_what_dominates_it(seed: int) -> None:
    points = drawn(seed, count=40, objectives=2)
    order = arranged([Score(point, 0.0) for point in points])
    assert sorted(order) == list(range(40))
    assert not any(dominates(points[late], points[early]) for early, late in itertools.combinations(order, 2))


def test_with_one_objective_the_order_is_that_of_its_values_then_of_the_metric() -> None:
    scores = [Score((3.0,), 0.1), Score((1.0,), 0.5), Score((NEVER,), 0.4), Score((1.0,), 0.2), Score((NEVER,), 0.3)]
    assert arranged(scores) == [3, 1, 0, 4, 2]


def test_what_never_arrived_comes_last_by_its_metric_and_is_not_on_the_front() -> None:
    cheap_but_never = Score((NEVER, 1.0), 0.9)
    scores = [cheap_but_never, Score((5.0, 9.0), 0.2), Score((NEVER, 2.0), 0.3), Score((6.0, 8.0), 0.1)]
    assert set(arranged(scores)[:2]) == {1, 3} and set(arranged(scores)[2:]) == {0, 2}
    assert front(scores) == [1, 3]
    assert front([cheap_but_never]) == [] and front([]) == []


def test_the_knee_is_nearest_to_the_ideal_whatever_the_units() -> None:
    points = [(x, 1.0 / x) for x in (0.1, 0.5, 1.0, 2.0, 10.0)]
    for unit in (1.0, 1e6):
        apart = distances([(x, unit * y) for x, y in points], [(x, unit * y) for x, y in points])
        assert min(range(5), key=apart.__getitem__) == 2
        assert apart[0] == apart[-1] == 1.0
    assert distances([(2.0, 7.0)], [(1.0, 7.0), (2.0, 7.0)]) == [1.0]


# From rows


ROW = {"number": 0, "status": "COMPLETE", "phase": "explore", "value": 0.5, "seconds": 4.0, "examples_to_target": 640}


@pytest.mark.parametrize(
    ("changes", "direction", "losses"),
    [
        ({}, "min", (0.5, 640.0, 4.0)),
        ({}, "max", (-0.5, 640.0, 4.0)),
        ({"examples_to_target": None}, "min", (0.5, NEVER, 4.0)),
        ({"value": None}, "max", (NEVER, 640.0, 4.0)),
        ({"seconds": math.nan}, "min", (0.5, 640.0, NEVER)),
    ],
)
def test_a_row_says_what_a_trial_came_to_in_each_objective(
    changes: dict[str, object], direction: str, losses: tuple[float, ...]
) -> None:
    names = ["val_loss", "examples_to_target", "cost"]
    assert score_of(ROW | changes, names, direction).losses == losses


def test_rows_say_whether_they_lie_on_the_front_where_there_is_one() -> None:
    metrics = {"objective": "val_loss", "direction": "min"}
    space = {"search": {"objectives": ["val_loss", "examples_to_target"]}}
    rows = [
        ROW,
        ROW | {"number": 1, "value": 0.4, "examples_to_target": 900},
        ROW | {"number": 2, "value": 0.6},
        ROW | {"number": 3, "value": 0.1, "status": "PRUNED"},
        ROW | {"number": 4, "value": 0.1, "phase": "confirm"},
    ]
    assert [row["front"] for row in marked(rows, space, metrics)] == [True, True, False, False, False]
    for one in ({}, None, {"search": {"objectives": ["examples_to_target"]}}, {"search": {"objectives": None}}):
        assert marked(rows, one, metrics) == rows
    assert objectives_of({}, metrics) == ["val_loss"]
