"""The trials on digits that the benchmarks of arrays train: each with a rate, a schedule and seeds of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.config import TrainConfig
from models.segment import SegmentResult

SCHEDULES = ("constant", "step", "exponential", "cosine")


def short_trials(
    network: Mapping[str, Any], data: Mapping[str, Any], width: int, *, batch_size: int, accelerator: str
) -> list[TrainConfig]:
    """So many trials of one epoch; `network` is a class path with arguments, `data` further arguments of the digits."""
    return [
        TrainConfig(
            model={"class_path": "models.task.Classifier", "init_args": {"network": network}},
            data={
                "class_path": "models.data.Digits",
                "init_args": {"validation": 0.2, "test": 0.0, **data},
                "batch_size_arg": "batch_size",
            },
            batch_size=batch_size,
            learning_rate=0.01 * (1 + index % 5),
            optimizer="sgd",
            optimizer_args={},
            schedule=SCHEDULES[index % len(SCHEDULES)],
            schedule_args={},
            warmup=0.0,
            weight_decay=0.0,
            epochs=1,
            min_steps=0,
            evaluations=1,
            gradient_clip=None,
            accumulate=1,
            precision="32-true",
            devices=1,
            accelerator=accelerator,
            seed_init=index,
            seed_order=1000 + index,
            seed_dropout=2000 + index,
            objective="val_loss",
            direction="min",
            target_metric="val_loss",
            train_loss=None,
        )
        for index in range(width)
    ]


def check_trained(results: Sequence[SegmentResult], tier: str) -> None:
    """Every trial must have come to its end in the tier that was meant: nothing else may be timed."""
    wrong = [result for result in results if result.status != "COMPLETE" or result.tags["tier"] != tier]
    assert not wrong, f"{wrong[0].status} {wrong[0].tags} {wrong[0].reason}"
