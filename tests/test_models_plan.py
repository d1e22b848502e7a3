"""The plan of a training: as many steps, evaluations and batch sizes as its configuration and its data say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers import config_of

from models.build import ConfigError
from models.config import TrainConfig
from models.plan import Plan, evaluation_steps, plan_training, steps_in_epoch


def plan_of(**changes: Any) -> Plan:
    examples, drop_last = changes.pop("examples", 100), changes.pop("drop_last", False)
    config: TrainConfig = config_of(SimpleNamespace(__name__="user"), **changes)  # type: ignore[arg-type]
    return plan_training(config, examples=examples, drop_last=drop_last)


@pytest.mark.parametrize(
    ("examples", "batch_size", "accumulate", "drop_last", "steps"),
    [
        (100, 8, 1, False, 13),
        (100, 8, 1, True, 12),
        (100, 8, 2, False, 13),  # 25 batches of 4: Lightning steps at the odd one too
        (96, 8, 2, True, 12),
        (100, 100, 1, True, 1),
        (100, 60, 3, False, 2),
        (5, 8, 1, True, 0),
    ],
)
def test_steps_of_an_epoch(examples: int, batch_size: int, accumulate: int, drop_last: bool, steps: int) -> None:
    assert steps_in_epoch(examples, batch_size, accumulate=accumulate, drop_last=drop_last) == steps


@pytest.mark.parametrize(
    ("changes", "total", "epochs"),
    [
        ({}, 39, 3),
        ({"min_steps": 39}, 39, 3),
        ({"min_steps": 40}, 40, 4),
        ({"batch_size": 100, "min_steps": 10}, 10, 10),
        ({"drop_last": True}, 36, 3),
    ],
)
def test_a_training_is_as_long_as_its_epochs_and_its_least_steps(
    changes: dict[str, Any], total: int, epochs: int
) -> None:
    plan = plan_of(**changes)
    assert (plan.total_steps, len(plan.steps_of_epoch), len(plan.factors)) == (total, epochs, total)
    assert sum(plan.steps_of_epoch) >= total > sum(plan.steps_of_epoch[:-1])


def test_batch_growth_plans_fewer_steps_for_larger_batches() -> None:
    plan = plan_of(schedule="batch_growth", schedule_args={"milestones": [0.3, 0.6], "factor": 4.0})
    assert (plan.batch_sizes, plan.steps_of_epoch, plan.total_steps) == ([8, 32, 100], [13, 4, 1], 18)


@pytest.mark.parametrize(
    ("total", "count", "steps"),
    [(39, 3, (13, 26, 39)), (39, 1, (39,)), (5, 2, (2, 5)), (3, 7, (1, 2, 3)), (10, 4, (2, 5, 8, 10))],
)
def test_evaluations_are_even_and_the_last_one_is_at_the_end(total: int, count: int, steps: tuple[int, ...]) -> None:
    assert evaluation_steps(total, count) == steps


@pytest.mark.parametrize(
    ("progress", "step"), [(0.01, 13), (1 / 3, 13), (0.34, 13), (0.35, 26), (2 / 3, 26), (1.0, 39)]
)
def test_a_segment_ends_at_the_first_evaluation_at_or_past_its_rung_to_half_a_step(progress: float, step: int) -> None:
    assert plan_of().end_of(progress) == step


def test_an_epoch_without_a_step_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="`batch_size` must leave a step in an epoch of 5 examples, but got 8"):
        plan_of(examples=5, drop_last=True)
