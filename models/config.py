"""The configuration of training: what a recipe says of it, and the flat `TrainConfig` of one trial."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["min", "max"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
Accelerator = Literal["auto", "cpu", "gpu"]

OWN_OPTIMIZER = "own"
"""The name under `search.optimizers` that keeps the module's own `configure_optimizers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassConfig:
    """A class by its import path, and the arguments to build it with."""

    class_path: str
    """Import path of the class, `package.module.Class`."""
    init_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor; a nested `class_path`/`init_args` is built first."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if "." not in self.class_path:
            yield f"`class_path` must be an import path such as `package.module.Class`, but got {self.class_path!r}."


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A LightningDataModule by its import path, and where the batch size goes."""

    class_path: str
    """Import path of the LightningDataModule."""
    init_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, without the batch size."""
    batch_size_arg: str = "batch_size"
    """The constructor argument that takes the batch size."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if "." not in self.class_path:
            yield f"`class_path` must be an import path such as `package.module.Class`, but got {self.class_path!r}."
        if self.batch_size_arg in self.init_args:
            yield (
                f"`init_args.{self.batch_size_arg}` must be left out: the batch size is searched. "
                "Set `search.batch_sizes` instead."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How every trial trains: budget, precision, and what is not searched."""

    epochs: int = 15
    """Passes over the training set."""
    min_steps: int = 0
    """Large batches take few steps an epoch; no trial takes fewer optimizer steps than this."""
    evaluations: int | None = None
    """Validations in one training, evenly spaced in steps; null: as many as `epochs`."""
    warmup: float = 0.0
    """Share of the steps over which the rate rises linearly to its peak, in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay, in the form that the optimizer has (L2 for sgd, adam and rmsprop; decoupled for adamw)."""
    gradient_clip: float | None = None
    """Largest gradient norm; null: no clipping."""
    accumulate: int = 1
    """Forward passes whose gradients make one step; the batch size counts all their examples."""
    precision: Precision = "32-true"
    """Lightning's precision."""
    devices: int = 1
    """Devices that train one trial together."""
    accelerator: Accelerator = "auto"
    """What a trial trains on; auto: a GPU where the worker sees one."""
    seed: int = 0
    """Root of the seeds of initialization, data order and dropout."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        for name, least in (("epochs", 1), ("min_steps", 0), ("accumulate", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                yield f"`{name}` must be at least {least}, but got {value}."
        if self.evaluations is not None and self.evaluations < 1:
            yield f"`evaluations` must be at least 1, but got {self.evaluations}. Leave it out for one an epoch."
        if not 0.0 <= self.warmup < 1.0:
            yield f"`warmup` must be a share of the training in [0, 1), but got {self.warmup}."
        if not 0.0 <= self.weight_decay < float("inf"):
            yield f"`weight_decay` must be a finite number of at least 0, but got {self.weight_decay}."
        if self.gradient_clip is not None and not 0.0 < self.gradient_clip < float("inf"):
            yield f"`gradient_clip` must be greater than 0, but got {self.gradient_clip}. Leave it out for no clipping."
        if self.devices != 1:
            yield f"`devices` must be 1 in a search (one device a trial), but got {self.devices}."


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """Which of the numbers that the module logs decides, and what counts as having arrived."""

    objective: str = "val_loss"
    """The validation metric that decides."""
    direction: Direction = "min"
    """Whether a small or a large objective is good."""
    select: Literal["best", "final"] = "best"
    """Which value of its curve a trial is judged by."""
    target: float | None = None
    """The value of `target_metric` to reach; null: no target."""
    easier_target: float | None = None
    """A second value, easier to reach, since what batch size pays depends on the target; it changes no training."""
    calibrate: bool = False
    """Set both targets before the search: the median best of five trainings of the tuned smallest batch size."""
    target_metric: str | None = None
    """The metric that the target is about; null: the objective."""
    target_direction: Direction | None = None
    """Whether the target is reached from above (min) or from below (max); null: the objective's direction."""
    train_loss: str | None = None
    """The name under which the module logs its training loss; null: what `training_step` returns."""

    @property
    def target_name(self) -> str:
        """The metric that the target is about."""
        return self.target_metric or self.objective

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if not self.objective:
            yield "`objective` must name a metric that the module logs, but it is empty."
        if self.target is not None and not abs(self.target) < float("inf"):
            yield f"`target` must be a finite number, but got {self.target}."
        if self.target is not None and self.calibrate:
            yield f"`target` must be left out with `calibrate: true`, which finds it, but got {self.target}."
        if self.target is None and self.target_metric is not None and not self.calibrate:
            yield f"`target_metric` is {self.target_metric!r}, but no `target` is set. Set it, or leave both out."
        if self.easier_target is not None:
            yield from self._mistakes_of_easier_target(self.easier_target)

    def _mistakes_of_easier_target(self, easier: float) -> Iterator[str]:
        falling = (self.target_direction or self.direction) == "min"
        if self.target is None:
            yield f"`easier_target` is {easier}, but no `target` is set. Set it, or leave both out."
        elif not abs(easier) < float("inf"):
            yield f"`easier_target` must be a finite number, but got {easier}."
        elif (easier <= self.target) if falling else (easier >= self.target):
            rule = "greater than" if falling else "less than"
            yield f"`easier_target` must be {rule} `target` ({self.target}), to be reached first, but got {easier}."


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that changes the result of one training, as plain JSON values: equal ones train equal models."""

    model: Mapping[str, Any]
    """`{class_path, init_args}` of the LightningModule."""
    data: Mapping[str, Any]
    """`{class_path, init_args, batch_size_arg}` of the LightningDataModule."""
    batch_size: int
    """Examples in one optimizer step: per device x devices x accumulation."""
    learning_rate: float | None
    """Peak rate; None with the module's own optimizer."""
    optimizer: str
    optimizer_args: Mapping[str, Any]
    schedule: str
    schedule_args: Mapping[str, Any]
    warmup: float
    weight_decay: float
    epochs: int
    min_steps: int
    evaluations: int
    gradient_clip: float | None
    accumulate: int
    precision: str
    devices: int
    accelerator: str
    seed_init: int
    seed_order: int
    seed_dropout: int
    objective: str
    direction: Direction
    target_metric: str
    train_loss: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for another process or the ledger."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration that `to_json` wrote."""
        return cls(**values)


FREE_IN_ARRAYS = (
    "learning_rate",
    "optimizer_args",
    "schedule",
    "schedule_args",
    "warmup",
    "weight_decay",
    "gradient_clip",
    "seed_init",
    "seed_order",
    "seed_dropout",
)
"""What members of one array may differ in."""


def array_key(config: TrainConfig) -> str:
    """Trials of equal key may share an array, if they are `fusable` at all."""
    free = set(FREE_IN_ARRAYS)
    if config.schedule == "batch_growth":
        free -= {"schedule", "schedule_args"}
    return json.dumps({k: v for k, v in config.to_json().items() if k not in free}, sort_keys=True)
