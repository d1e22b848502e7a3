"""The plan of one training, from its configuration and its data's size: steps, evaluations, rates, batch sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models import schedules
from models.build import ConfigError
from models.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a training will do, step by step; a pure function of its configuration and of the data's size."""

    batch_sizes: list[int]
    """Batch size (examples per optimizer step) of each epoch."""
    steps_of_epoch: list[int]
    """Optimizer steps of each epoch; the last epoch may be cut short by `total_steps`."""
    total_steps: int
    evaluations: tuple[int, ...]
    """Steps after which the validation set is evaluated, ascending, the last one being `total_steps`."""
    factors: np.ndarray
    """Factor on the peak rate used for each step, shape [total_steps]."""

    def end_of(self, progress: float) -> int:
        """The first evaluation at or past a share of the steps, to half a step: where a segment ends there."""
        # Rounded as the steps of evaluations are: one that is meant to lie at the rung is not missed by half a step.
        goal = round(progress * self.total_steps)
        return next(step for step in self.evaluations if step >= goal)


def steps_in_epoch(examples: int, batch_size: int, *, accumulate: int, drop_last: bool) -> int:
    """Optimizer steps of one pass: at the end of an epoch, Lightning steps with what has been accumulated so far."""
    micro = batch_size // accumulate
    batches = examples // micro if drop_last else math.ceil(examples / micro)
    return math.ceil(batches / accumulate)


def plan_training(config: TrainConfig, *, examples: int, drop_last: bool, steps_per_epoch: int | None = None) -> Plan:
    """Lay out a training.

    Args:
        examples: size of the training set.
        drop_last: whether the loader leaves out an incomplete last batch.
        steps_per_epoch: optimizer steps of an epoch, where a loader that is not ours decides.

    Raises:
        ConfigError: if an epoch has no step.
    """
    first = steps_per_epoch or steps_in_epoch(
        examples, config.batch_size, accumulate=config.accumulate, drop_last=drop_last
    )
    if first < 1:
        raise ConfigError(
            f"`batch_size` must leave a step in an epoch of {examples} examples, but got {config.batch_size}. Lower it."
        )
    epochs = max(config.epochs, math.ceil(config.min_steps / first))
    batch_sizes, steps = [config.batch_size] * epochs, [first] * epochs
    if config.schedule == "batch_growth":
        batch_sizes = schedules.growth_plan(
            config.schedule_args, epochs=epochs, batch_size=config.batch_size, train_size=examples
        )
        steps = [
            steps_in_epoch(examples, size, accumulate=config.accumulate, drop_last=drop_last) for size in batch_sizes
        ]
        total = sum(steps)
    else:
        total = max(config.epochs * first, config.min_steps)
    return Plan(
        batch_sizes=batch_sizes,
        steps_of_epoch=steps,
        total_steps=total,
        evaluations=evaluation_steps(total, config.evaluations),
        factors=schedules.factors(config.schedule, config.schedule_args, steps=total, warmup=config.warmup),
    )


def evaluation_steps(total: int, count: int) -> tuple[int, ...]:
    """Steps after which to evaluate: `count` of them, as evenly spaced as whole steps allow, the last at the end."""
    return tuple(sorted({max(1, round(total * k / count)) for k in range(1, count + 1)}))
