"""The search space: the grid of cells, the ranges sampled in each, and the way from a point to a `TrainConfig`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models import optimizers
from models.config import OWN_OPTIMIZER, ClassConfig, DataConfig, MetricsConfig, TrainConfig, TrainingConfig
from models.seeds import derive
from search.config import LearningRateConfig, RangeConfig, SearchConfig
from search.knowledge import Knowledge

EDGE = 0.1
"""A best value within this share of its range from a bound (in logarithms where the range is) lies at the edge.

The share is larger where few trials lie far apart: see `edge_of`.
"""
EXTENSION = 0.25
"""An edge is moved outwards by this share of the range."""
COUPLED = ("beta1", "beta2", "epsilon")
"""Arguments of Adam that the rule `adam_sde` derives for each batch size."""
TRAINING_PARAMETERS = ("warmup", "weight_decay", "gradient_clip")
"""Fields of `training` that can be searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One point of the grid, with the ranges that are sampled in it."""

    name: str
    batch_size: int
    optimizer: str
    schedule: str
    ranges: Mapping[str, RangeConfig]
    """Sampled parameters by name: `learning_rate`, `optimizer.beta1`, `schedule.final`, `model.init_args.width`, ..."""

    @property
    def kind(self) -> tuple[int, str]:
        """What the trials of an array have in common: batch size and optimizer."""
        return self.batch_size, self.optimizer

    @property
    def axes(self) -> dict[str, Any]:
        """The grid's coordinates, as parameters of every trial of the cell."""
        return {"batch_size": self.batch_size, "optimizer": self.optimizer, "schedule": self.schedule}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """Everything that proposals are made from; a pure function of the recipe."""

    model: ClassConfig
    data: DataConfig
    training: TrainingConfig
    metrics: MetricsConfig
    search: SearchConfig
    knowledge: Knowledge = field(default_factory=Knowledge)
    """What is taken over from earlier studies."""

    def cells(self) -> list[Cell]:
        """The grid, smallest batch first: its trials take longest, so that they do not come last."""
        return [
            self._cell(batch_size, optimizer, schedule)
            for batch_size in sorted(self.search.batch_sizes)
            for optimizer in self.search.optimizers
            for schedule in self.search.schedules
        ]

    def _cell(self, batch_size: int, optimizer: str, schedule: str) -> Cell:
        ranges: dict[str, RangeConfig] = {}
        if optimizer != OWN_OPTIMIZER:
            ranges["learning_rate"] = self._rates(optimizer, batch_size)
        for prefix, arguments in (
            ("optimizer", self.search.optimizers[optimizer]),
            ("schedule", self.search.schedules[schedule]),
        ):
            ranges |= {f"{prefix}.{name}": RangeConfig(**value) for name, value in arguments.items() if is_range(value)}
        ranges |= {name: RangeConfig(**value) for name, value in self.search.parameters.items()}
        return Cell(
            name=f"b{batch_size}-{optimizer}-{schedule}",
            batch_size=batch_size,
            optimizer=optimizer,
            schedule=schedule,
            ranges=ranges,
        )

    def _rates(self, optimizer: str, batch_size: int) -> RangeConfig:
        low, high = self.knowledge.rates.get(f"{batch_size}-{optimizer}", (None, None))
        if low is None:
            return learning_rate_range(self.search.learning_rate, optimizer, batch_size)
        return RangeConfig(low=low, high=high, log=True)

    def train_config(self, cell: Cell, sampled: Mapping[str, Any], *, index: int) -> TrainConfig:
        """The training of one trial; its seeds come from (study seed, cell, index)."""
        search, training, metrics = self.search, self.training, self.metrics
        own = {name: sampled.get(f"training.{name}", getattr(training, name)) for name in TRAINING_PARAMETERS}
        trees = self._trees(sampled)
        return TrainConfig(
            model={"class_path": self.model.class_path, **trees["model"]},
            data={"class_path": self.data.class_path, "batch_size_arg": self.data.batch_size_arg, **trees["data"]},
            batch_size=cell.batch_size,
            learning_rate=sampled.get("learning_rate"),
            optimizer=cell.optimizer,
            optimizer_args=self._optimizer_args(cell, sampled),
            schedule=cell.schedule,
            schedule_args=_arguments("schedule", search.schedules[cell.schedule], sampled),
            epochs=training.epochs,
            min_steps=training.min_steps,
            evaluations=training.evaluations or training.epochs,
            accumulate=training.accumulate,
            precision=training.precision,
            devices=training.devices,
            accelerator=training.accelerator,
            objective=metrics.objective,
            direction=metrics.direction,
            target_metric=metrics.target_name,
            train_loss=metrics.train_loss,
            **own,
            **{
                f"seed_{source}": derive(search.seed, training.seed, cell.name, index, source)
                for source in ("init", "order", "dropout")
            },
        )

    def _trees(self, sampled: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The arguments of model and data, what was sampled in its place; the recipe's own are not written to."""
        trees = copy.deepcopy(
            {"model": {"init_args": self.model.init_args}, "data": {"init_args": self.data.init_args}}
        )
        for name, value in sampled.items():
            if name.startswith(("model.", "data.")):
                set_dotted(trees, name, value)
        return trees

    def _optimizer_args(self, cell: Cell, sampled: Mapping[str, Any]) -> dict[str, Any]:
        given = _arguments("optimizer", self.search.optimizers[cell.optimizer], sampled)
        rate = self.search.learning_rate
        if rate.rule != "adam_sde":
            return given
        # Defaults too: at another batch size they are others.
        known = {**optimizers.arguments(cell.optimizer), **given}
        return adam_sde(known, batch_size=cell.batch_size, reference=rate.reference_batch_size)


def is_range(value: Any) -> bool:
    """Whether an argument in a recipe is a range to search rather than a value."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"low", "high", "log", "step", "values"}


def learning_rate_range(config: LearningRateConfig, optimizer: str, batch_size: int) -> RangeConfig:
    """The learning rates to search at one batch size: a factor around a centre that the declared rule moves.

    Rules: linear, Goyal et al. 2017; square root, Malladi et al. 2022, who move Adam's betas and epsilon along with it
    (`adam_sde`). All end at `highest`.
    """
    if config.rule == "absolute":
        return RangeConfig(low=config.low, high=config.high, log=True)
    defaults = optimizers.OPTIMIZERS[optimizer]
    kappa = batch_size / config.reference_batch_size
    if config.centre is None:
        # The optimizer's own centre is meant at batch size 64, whatever the reference.
        kappa = batch_size / 64
    root = math.sqrt(kappa)
    growth = {"linear": kappa, "sqrt": root, "adam_sde": root, "none": 1.0}[config.rule or defaults.rule]
    centre = min((config.centre or defaults.centre) * growth, config.highest or defaults.highest)
    return RangeConfig(low=_round(centre / config.factor), high=_round(centre * config.factor), log=True)


def adam_sde(settings: Mapping[str, Any], *, batch_size: int, reference: int) -> dict[str, Any]:
    """Arguments of Adam at a batch size, from those at `reference`: the same SDE (Malladi et al. 2022, without decay).

    With kappa = batch_size / reference, 1 - beta becomes kappa (1 - beta), epsilon is divided by sqrt(kappa); the
    learning rate, which is searched, goes with sqrt(kappa).

    Raises:
        ValueError: if a beta would be 0 or less, where no such Adam exists.
    """
    kappa = batch_size / reference
    # Rounded: 0.9 at ten times the batch is 0, and not the 2e-16 that is left of it in binary.
    betas = {name: round(1 - kappa * (1 - settings[name]), 12) for name in ("beta1", "beta2")}
    for name, value in betas.items():
        if value <= 0:
            raise ValueError(
                f"`search.batch_sizes` must be less than {reference / (1 - settings[name]):.6g} with "
                f"`search.learning_rate.rule` adam_sde and a `{name}` of {settings[name]} at batch size {reference}, "
                f"but got {batch_size}, where `{name}` would be {value:.6g}. Raise `{name}` or "
                "`search.learning_rate.reference_batch_size`, or leave out large batches."
            )
    return {**settings, **betas, "epsilon": settings["epsilon"] / math.sqrt(kappa)}


def _round(value: float) -> float:
    """Three significant digits: bounds that a person can read and type."""
    return float(f"{value:.3g}")


def value_at(extent: RangeConfig, u: float) -> Any:
    """The value at a point u in [0, 1) of a range: the inverse of its (log-)uniform distribution function."""
    if extent.values is not None:
        return list(extent.values)[min(int(u * len(extent.values)), len(extent.values) - 1)]
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    step = extent.step or (1 if extent.is_integer else None)
    if extent.log:
        low, high = (extent.low - 0.5, extent.high + 0.5) if extent.is_integer else (extent.low, extent.high)
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        # Rounding may lead out of the range, and Optuna refuses a trial outside of its own.
        return min(max(round(value) if extent.is_integer else value, extent.low), extent.high)
    if step is None:
        return extent.low + u * (extent.high - extent.low)
    count = round((extent.high - extent.low) / step) + 1
    value = min(extent.low + min(int(u * count), count - 1) * step, extent.high)
    return int(value) if extent.is_integer else value


def values_in(extent: RangeConfig) -> float:
    """How many different values a range has; infinity where it is continuous."""
    if extent.values is not None:
        return len(extent.values)
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    step = extent.step or (1 if extent.is_integer else None)
    return math.inf if step is None else round((extent.high - extent.low) / step) + 1


def variants(ranges: Mapping[str, RangeConfig]) -> float:
    """How many models and data sets a cell's trials may have: those of different ones never train side by side."""
    return math.prod(values_in(extent) for name, extent in ranges.items() if name.startswith(("model.", "data.")))


def edge_of(extent: RangeConfig, value: float, *, trials: int) -> str | None:
    """`low` or `high` if the best of `trials` values spread over a range lies at that edge of it, otherwise None.

    Fewer than ten lie more than `EDGE` apart: then the edge is as wide as the place that each has for itself, so that
    the outermost counts. One or two tell nothing but the nearer edge.
    """
    if extent.values is not None or extent.low is None or extent.high is None:
        return None
    scale = math.log if extent.log else float
    share = (scale(value) - scale(extent.low)) / (scale(extent.high) - scale(extent.low))
    width = min(max(EDGE, 1 / trials), 0.5)
    return "low" if share <= width else "high" if share >= 1 - width else None


def beyond(extent: RangeConfig, edge: str) -> RangeConfig:
    """The stretch that extends a logarithmic range at one edge."""
    assert extent.log and extent.low and extent.high, "only logarithmic ranges are extended"
    reach = (extent.high / extent.low) ** EXTENSION
    if edge == "low":
        return RangeConfig(low=_round(extent.low / reach), high=extent.low, log=True)
    return RangeConfig(low=extent.high, high=_round(extent.high * reach), log=True)


def _arguments(prefix: str, arguments: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: sampled[f"{prefix}.{name}"] if is_range(value) else copy.deepcopy(value)
        for name, value in arguments.items()
    }


def set_dotted(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set one leaf of a nest of mappings, making those on the way that are missing."""
    *path, leaf = name.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[leaf] = value


def parameter_names(cells: list[Cell]) -> Iterator[str]:
    """Every sampled parameter of a grid, each once, in order of appearance."""
    yield from dict.fromkeys(name for cell in cells for name in cell.ranges)
