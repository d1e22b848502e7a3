"""The bundle: a study's best configuration as one file, complete enough to train from it alone, and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import optimizers, schedules, standalone
from models.config import OWN_OPTIMIZER, Accelerator, ClassConfig, DataConfig, MetricsConfig, Precision, TrainConfig
from pipelines import rules
from pipelines.recipe_file import RecipeError, error_of
from pipelines.schema import build
from pipelines.yaml_source import BAD, read_yaml, write_yaml
from search.trial import TrialConfig, TrialResult
from tracking.credentials import without_credentials

VERSION = 1
"""Of the bundle's form; a later version of Regatta reads earlier ones."""
SHOWN = 3
"""Factors of the schedule written out at both ends, against which the formula is checked on reading."""
NAME = "best.yaml"


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


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises:
        RecipeError: all that is wrong with it, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            [f"--config: `{path}` must be a bundle, a file such as runs/STUDY/{NAME}: {error}."]
        ) from error
    draft = read_yaml(text, lambda line: f"{path}:{line}")
    values = draft.values if isinstance(draft.values, dict) else {}
    version = values.get("bundle")
    if not draft.mistakes and version != VERSION:
        rule = "is missing: this is no bundle" if version is None else f"must be {VERSION}, but got {version!r}"
        raise RecipeError([f"{draft.place_of('bundle')}: `bundle` {rule}. `regatta search` writes bundles."])

    def report(name: str, sentence: str) -> None:
        draft.report(name, sentence.replace("the recipe", "the bundle"))

    bundle = BAD if draft.values is BAD else build(Bundle, draft.values, "", report)
    if isinstance(bundle, Bundle) and not draft.mistakes:
        for sentence in bundle.mistakes():
            draft.report(sentence.split("`")[1], sentence)
    if draft.mistakes:
        raise error_of(draft.mistakes)
    assert isinstance(bundle, Bundle), "a draft without mistakes is a bundle"
    return bundle


def to_yaml(bundle: Bundle) -> str:
    """The file's text; read again, it is the same bundle."""
    return write_yaml(dataclasses.asdict(bundle))


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


def _close(written: Sequence[float], found: Sequence[float]) -> bool:
    return len(written) == len(found) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(written, found, strict=True)
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
