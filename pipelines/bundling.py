"""From a trial of a study to its bundle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models import optimizers, schedules, standalone
from models.config import ClassConfig, DataConfig, MetricsConfig, TrainConfig
from pipelines.bundle import (
    SHOWN,
    VERSION,
    BatchSection,
    BudgetSection,
    Bundle,
    FiguresSection,
    FingerprintSection,
    MlflowSection,
    OptimizerSection,
    ScheduleSection,
    SeedsSection,
)
from search.trial import TrialConfig, TrialResult
from tracking.credentials import without_credentials


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a bundle says besides its trial: the study, and what was noted of data, machine and versions."""

    name: str
    study: str
    metrics: MetricsConfig
    noted: Mapping[str, Any] | None
    """`origin` of `models.preflight.check`; None for a study of an earlier version."""
    versions: Mapping[str, str]
    verification: Mapping[str, Any] | None
    mlflow: MlflowSection | None


def bundle_of(trial: TrialConfig, result: TrialResult, origin: Origin, *, standalone_files: str) -> Bundle:
    """The bundle of one complete trial."""
    train = trial.train
    noted = origin.noted or {}
    found = noted.get("fingerprint")
    assert result.value is not None, "only complete trials are bundled"
    return Bundle(
        bundle=VERSION,
        name=origin.name,
        study=origin.study,
        trial=trial.number,
        cell=trial.cell,
        model=ClassConfig(**train.model),
        data=DataConfig(**train.data),
        batch=BatchSection(
            size=train.batch_size,
            per_device=train.batch_size // (train.devices * train.accumulate),
            devices=train.devices,
            accumulate=train.accumulate,
        ),
        optimizer=OptimizerSection(
            name=train.optimizer,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            args={**optimizers.arguments(train.optimizer), **train.optimizer_args},
        ),
        schedule=_schedule(train, steps=result.steps),
        budget=BudgetSection(
            epochs=train.epochs,
            min_steps=train.min_steps,
            evaluations=train.evaluations,
            steps=result.steps,
            examples=result.examples,
        ),
        precision=train.precision,  # type: ignore[arg-type]
        accelerator=train.accelerator,  # type: ignore[arg-type]
        gradient_clip=train.gradient_clip,
        seeds=SeedsSection(init=train.seed_init, order=train.seed_order, dropout=train.seed_dropout),
        metrics=origin.metrics,
        figures=FiguresSection(
            value=result.value,
            seconds=result.seconds,
            best=_finite(result.best),
            final=_finite(result.final),
            checkpoint=result.checkpoint,
        ),
        verification=_plain(origin.verification),
        fingerprint=None if found is None else FingerprintSection(**found),
        code=noted.get("code"),
        hardware=noted.get("hardware"),
        versions=origin.versions,
        mlflow=_public(origin.mlflow),
        standalone=standalone_files,
    )


def full_arguments(config: TrainConfig) -> dict[str, Any]:
    """A schedule's arguments with the defaults of those that were left out."""
    args = {**schedules.arguments(config.schedule), **config.schedule_args}
    if args.get("rate") is not None:
        # An exponential in steps has no final factor: its rule refuses one beside them.
        args.pop("final")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in args.items()}


def _schedule(train: TrainConfig, *, steps: int) -> ScheduleSection:
    args = full_arguments(train)
    factors = schedules.factors(train.schedule, args, steps=steps, warmup=train.warmup).tolist()
    return ScheduleSection(
        name=train.schedule,
        args=args,
        warmup=train.warmup,
        in_steps=standalone.in_steps(train.schedule, args, total=steps, warmup=train.warmup),
        first=factors[:SHOWN],
        last=factors[-SHOWN:],
    )


def _public(section: MlflowSection | None) -> MlflowSection | None:
    """The same without a password: a bundle is passed on."""
    if section is None or section.uri is None:
        return section
    return dataclasses.replace(section, uri=without_credentials(section.uri))


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """YAML of ours holds finite numbers only; a gradient's norm may be none."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _plain(value: Any) -> Any:
    """The same values, with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
