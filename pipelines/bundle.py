"""The bundle: a study's best configuration, complete enough to train from it alone, and its rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models import optimizers, schedules
from models.config import OWN_OPTIMIZER, Accelerator, ClassConfig, DataConfig, MetricsConfig, Precision, TrainConfig
from pipelines import rules

VERSION = 1
"""Of the bundle's form; a later version of Regatta reads earlier ones."""
SHOWN = 3
"""Factors of the schedule written out at both ends, against which the formula is checked on reading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSection:
    """Examples of one optimizer step, and how they come about: per device x devices x accumulation."""

    size: int
    per_device: int
    devices: int
    accumulate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSection:
    """The optimizer with every argument."""

    name: str
    learning_rate: float | None
    """Peak rate; null with the module's own optimizer."""
    weight_decay: float
    args: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSection:
    """The schedule, in shares of the training and in steps."""

    name: str
    args: Mapping[str, Any]
    warmup: float
    """Share of the steps over which the rate rises to its peak."""
    in_steps: Mapping[str, Any]
    """The same in optimizer steps, for readers: training goes by the shares."""
    first: Sequence[float]
    """Factors on the peak rate of the first steps."""
    last: Sequence[float]
    """Factors on the peak rate of the last steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetSection:
    """How long the training is."""

    epochs: int
    min_steps: int
    evaluations: int
    steps: int
    """Optimizer steps that epochs and `min_steps` come to."""
    examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsSection:
    """Where initialization, data order and dropout come from."""

    init: int
    order: int
    dropout: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FiguresSection:
    """What the trial came to in the search: one run, and the best of many."""

    value: float
    seconds: float
    best: Mapping[str, float]
    final: Mapping[str, float]
    checkpoint: str | None
    """Of its last step, where the search has kept one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FingerprintSection:
    """The data that the configuration was found on."""

    examples: int
    items: Sequence[str]
    """Type and shape of each tensor of an example."""
    digest: str | None
    """Of the training set; null where it cannot be told."""
    validation: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowSection:
    """Where the study's runs are, and those of its production training."""

    experiment: str
    uri: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """One configuration, everything that its training depends on, and where it comes from."""

    bundle: int
    name: str
    study: str
    trial: int
    cell: str
    model: ClassConfig
    data: DataConfig
    batch: BatchSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    budget: BudgetSection
    precision: Precision
    accelerator: Accelerator
    gradient_clip: float | None
    seeds: SeedsSection
    metrics: MetricsConfig
    figures: FiguresSection
    verification: Mapping[str, Any] | None
    """What fresh seeds made of it; null before `regatta verify`."""
    fingerprint: FingerprintSection | None
    code: Mapping[str, Mapping[str, str]] | None = None
    """Files and digests, or package and version, of the classes that are not Regatta's; null in bundles of before."""
    hardware: Mapping[str, Any] | None
    """What a worker of the search ran on."""
    versions: Mapping[str, str]
    mlflow: MlflowSection | None
    standalone: str
    """The folder of the files that need none of Regatta, or why there are none."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken, in a section or between them."""
        for field in ("name", "study"):
            yield from rules.mistakes_of_name(field, getattr(self, field))
        yield from self.data.mistakes()
        batch, product = self.batch, self.batch.per_device * self.batch.devices * self.batch.accumulate
        if batch.size != product or min(dataclasses.astuple(batch)) < 1:
            yield (
                f"`batch.size` must be `per_device` x `devices` x `accumulate`, but got {batch.size} and "
                f"{batch.per_device} x {batch.devices} x {batch.accumulate}."
            )
        own = self.optimizer.name == OWN_OPTIMIZER
        if (self.optimizer.learning_rate is None) != own:
            yield "`optimizer.learning_rate` must be a number, or null with the module's own optimizer."
        yield from optimizers.mistakes(self.optimizer.name, self.optimizer.args, where="optimizer.args")
        for name, value in dataclasses.asdict(self.budget).items():
            if value < (0 if name == "min_steps" else 1):
                yield f"`budget.{name}` must be a whole number of at least 1, but got {value}."
        yield from self._mistakes_of_schedule()

    def _mistakes_of_schedule(self) -> Iterator[str]:
        schedule, steps = self.schedule, self.budget.steps
        wrong = list(schedules.mistakes(schedule.name, schedule.args, where="schedule.args"))
        if not 0.0 <= schedule.warmup < 1.0:
            wrong.append(f"`schedule.warmup` must be a share in [0, 1), but got {schedule.warmup}.")
        yield from wrong
        if wrong or steps < 1:
            return
        factors = schedules.factors(schedule.name, schedule.args, steps=steps, warmup=schedule.warmup).tolist()
        for name, found in (("first", factors[:SHOWN]), ("last", factors[-SHOWN:])):
            written = list(getattr(schedule, name))
            if written and not _close(written, found):
                yield (
                    f"`schedule.{name}` must be {found}, which the schedule comes to in {steps} steps, but got "
                    f"{written}. Set it to [] where you have changed the schedule on purpose."
                )

    def train_config(self) -> TrainConfig:
        """The training as the models package takes it."""
        return TrainConfig(
            model=dataclasses.asdict(self.model),
            data=dataclasses.asdict(self.data),
            batch_size=self.batch.size,
            learning_rate=self.optimizer.learning_rate,
            optimizer=self.optimizer.name,
            optimizer_args=dict(self.optimizer.args),
            schedule=self.schedule.name,
            schedule_args=dict(self.schedule.args),
            warmup=self.schedule.warmup,
            weight_decay=self.optimizer.weight_decay,
            epochs=self.budget.epochs,
            min_steps=self.budget.min_steps,
            evaluations=self.budget.evaluations,
            gradient_clip=self.gradient_clip,
            accumulate=self.batch.accumulate,
            precision=self.precision,
            devices=self.batch.devices,
            accelerator=self.accelerator,
            seed_init=self.seeds.init,
            seed_order=self.seeds.order,
            seed_dropout=self.seeds.dropout,
            objective=self.metrics.objective,
            direction=self.metrics.direction,
            target_metric=self.metrics.target_name,
            train_loss=self.metrics.train_loss,
        )


def _close(written: Sequence[float], found: Sequence[float]) -> bool:
    return len(written) == len(found) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(written, found, strict=True)
    )
