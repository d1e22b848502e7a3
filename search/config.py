"""The configuration of a search: the grid, the ranges, and how many trials."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from search.priors import PriorConfig
from search.promotion import Rule

MOST_STEPS = 2.0**53
"""Up to here every whole number is a float: further ones could not be told from each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeConfig:
    """What a searched parameter may be: `low` to `high`, or one of `values`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    """Uniform in the logarithm."""
    step: float | None = None
    """Distance between neighbouring values; null: continuous, or 1 where both bounds are whole numbers."""
    values: Sequence[Any] | None = None
    """The choices, instead of bounds."""

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are proposed: both bounds are written as such."""
        return (
            isinstance(self.low, int)
            and isinstance(self.high, int)
            and (self.step is None or self.step == int(self.step))
        )

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if self.values is not None:
            yield from self._mistakes_of_values()
        elif self.low is None or self.high is None:
            yield "a range must have `low` and `high`, or `values`."
        elif not (math.isfinite(self.low) and math.isfinite(self.high)):
            yield f"`low` and `high` must be finite, but got {self.low} and {self.high}."
        else:
            yield from self._mistakes_of_bounds(self.low, self.high)

    def _mistakes_of_values(self) -> Iterator[str]:
        values = list(self.values or ())
        if self.low is not None or self.high is not None or self.step is not None or self.log:
            yield "`values` must stand alone, without `low`, `high`, `log` and `step`."
        if not values:
            yield "`values` must have at least one entry, but it is empty."
        if len({repr(value) for value in values}) < len(values):
            yield f"`values` must differ from each other, but got {values}."
        if any(isinstance(value, dict | list | tuple) for value in values):
            yield f"`values` must be numbers, strings, booleans or null, but got {values}."

    def _mistakes_of_bounds(self, low: float, high: float) -> Iterator[str]:
        if low >= high:
            yield f"`low` must be less than `high`, but got {low} and {high}."
        elif not math.isfinite(high - low):
            yield f"`low` and `high` must lie a finite distance apart, but got {low} and {high}."
        if self.log and low <= 0:
            yield f"`low` must be greater than 0 with `log: true`, but got {low}."
        if self.step is not None:
            yield from self._mistakes_of_step(low, high, self.step)

    def _mistakes_of_step(self, low: float, high: float, step: float) -> Iterator[str]:
        if self.log:
            yield "`step` must be left out with `log: true`."
        if not step > 0:
            yield f"`step` must be greater than 0, but got {step}."
        elif not (high - low) / step < MOST_STEPS:
            yield f"`step` must divide the range into less than 2^53 values, but got {step}."
        elif abs((high - low) / step - round((high - low) / step)) > 1e-9:
            yield f"`step` must divide the range from {low} to {high}, but got {step}."


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRateConfig:
    """Where to look for the learning rate of each batch size: around a centre that a rule moves, or between bounds."""

    rule: Literal["linear", "sqrt", "adam_sde", "none", "absolute"] | None = None
    """How the centre moves with the batch size; null: the optimizer's own (linear for sgd, sqrt for the others).

    adam_sde: sqrt, with betas and epsilon of adam and adamw moving too; theirs are meant at `reference_batch_size`.
    """
    centre: float | None = None
    """Middle of the range at `reference_batch_size`; null: the optimizer's own."""
    reference_batch_size: int = 64
    """The batch size at which `centre` is meant, and with `rule: adam_sde` the betas and epsilon."""
    factor: float = 16.0
    """The range reaches from centre / factor to centre x factor."""
    highest: float | None = None
    """No centre lies above this (linear scaling ends at the stability limit); null: the optimizer's own."""
    low: float | None = None
    """Lower bound with `rule: absolute`."""
    high: float | None = None
    """Upper bound with `rule: absolute`."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        absolute = self.rule == "absolute"
        if absolute != (self.low is not None) or absolute != (self.high is not None):
            yield "`low` and `high` must both be set with `rule: absolute`, and only with it."
        for name in ("centre", "highest", "low", "high"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                yield f"`{name}` must be greater than 0 and finite, but got {value}."
        if self.low is not None and self.high is not None and self.low >= self.high:
            yield f"`low` must be less than `high`, but got {self.low} and {self.high}."
        if not 1 < self.factor < float("inf"):
            yield f"`factor` must be greater than 1 and finite, but got {self.factor}."
        if self.reference_batch_size < 1:
            yield f"`reference_batch_size` must be at least 1, but got {self.reference_batch_size}."


MOST_TRIALS = 1_000_000
"""More than any search comes to the end of, and few enough to be proposed in memory."""
SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "qmc", "random", "grid")
"""Samplers by name; any other is an import path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionConfig:
    """At which rungs trials pause, and which of them go on; for the strategy `tune`."""

    rule: Rule = "halving"
    """Which paused trials go on: halving, hyperband, median; none: every trial is trained to its end."""
    eta: int = 3
    """One of so many goes on from a rung, which lies at so many times the progress of the one before."""
    rungs: int = 2
    """How many: 2 with `eta: 3` lie at 1/9 and 1/3 of the training."""
    within: Sequence[Literal["batch_size", "optimizer", "schedule"]] = ("batch_size", "optimizer", "schedule")
    """Only trials that agree in these are compared: half-way, a schedule that decays late looks worse than it is, and
    so does a large batch."""
    pooled: bool = True
    """Whether groups have anything in common (halving, hyperband). Whoever leads all of them at a rung goes on at once;
    and those that have sent fewer than `eta` trials to a later rung share a quota there with others of their batch
    size: one of `eta` of them goes on, the best of its group. Otherwise it waits until the end, or until `eta` of its
    group have come."""
    rescale: bool = False
    """Whether a schedule is stretched anew at every rung, so that each rung ends a complete short training: then
    schedules can be compared, but what was promoted had its rate raised again half-way."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        for name, least in (("eta", 2), ("rungs", 1)):
            if getattr(self, name) < least:
                yield f"`{name}` must be at least {least}, but got {getattr(self, name)}."
        if len(set(self.within)) < len(self.within):
            yield f"`within` must name each at most once, but got {list(self.within)}."


@dataclass(frozen=True, kw_only=True, slots=True)
class StopConfig:
    """When a search with the strategy `tune` no longer pays."""

    improvement: float = 0.01
    """Share of the best value. The last `patience` complete trials must have brought more, or the search ends."""
    patience: int = 20
    """Complete trials in a row that are looked at; trials given up at a rung do not count."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if not 0 <= self.improvement < 1:
            yield f"`improvement` must be a share in [0, 1), but got {self.improvement}."
        if self.patience < 1:
            yield f"`patience` must be at least 1, but got {self.patience}."


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """The grid of cells, what is sampled in each, and how many trials."""

    strategy: Literal["compare", "tune"] = "compare"
    """`compare`: a grid of cells, each with its own Optuna study and the same number of trials. `tune`: one study over
    all of it, for the best configuration."""
    batch_sizes: Sequence[int] = (16, 32, 64, 128, 256, 512)
    """Batch sizes of the grid, examples per optimizer step."""
    optimizers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"sgd": {}})
    """Optimizers of the grid: name to arguments; an argument is a value or a range. `own`: the module's own."""
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"constant": {}, "cosine": {}})
    """Schedules of the grid: name to arguments; an argument is a value or a range."""
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    """The range of the peak learning rate."""
    trials: int = 12
    """Quasi-random trials in each cell; with `tune`, all trials."""
    refine: int = 2
    """Trials in each cell around the best, once the quasi-random ones have ended; not with `tune`."""
    extend: bool = True
    """Whether a cell whose best lies at an edge of its range is extended, once."""
    objectives: Sequence[str] | None = None
    """What `tune` looks for: the metric of `metrics.objective`, steps_to_target, examples_to_target, seconds_to_target,
    cost (seconds of the whole training); several: their Pareto front. null: the metric."""
    choose: Literal["first", "knee"] = "first"
    """Which trial of a front becomes the best configuration: best in the first objective, or nearest to the ideal."""
    sampler: str = "tpe"
    """Who proposes with `tune`: tpe, gp, cmaes, nsga2, qmc, random, grid, or the import path of an Optuna sampler."""
    sampler_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of that sampler."""
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    """Which trials are trained to their end with `tune`."""
    enqueue: Sequence[Mapping[str, Any]] = ()
    """Configurations that `tune` asks first, parameter to value; what one leaves out is the middle of its range."""
    priors: Mapping[str, PriorConfig] = field(default_factory=dict)
    """What is expected of a parameter with `tune`: its name to `centre` and `confidence`."""
    from_study: str | None = None
    """An earlier study whose results `tune` begins with where they lie in this space; null: none."""
    law: str | None = None
    """An earlier `compare` whose law of the learning rate says where `tune` looks for it; null: none."""
    seconds: float | None = None
    """Seconds of search after which running trials pause and the search ends; with more, it goes on. null: no limit."""
    examples: int | None = None
    """Examples trained on, by all trials together, after which it ends likewise; null: no limit."""
    device_seconds: float | None = None
    """Seconds of training, validation and checkpoints, summed over the devices of all workers (on GPUs, GPU-seconds),
    after which it ends likewise; an array counts once. null: no limit."""
    stop: StopConfig | None = None
    """When `tune` no longer pays, as in {improvement: 0.01, patience: 20}: it ends once that many complete trials have
    improved the best value by less than that share. null: never."""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """More to search: dotted name (`model.init_args.width`) to range."""
    seed: int = 0
    """Seed of the proposals."""
    arrays: Literal["auto", "off", "require"] = "auto"
    """Whether trials of one shape train side by side in one process; auto: where that was measured to be faster."""
    accumulate: bool = False
    """Whether a batch that does not fit into memory is trained in smaller parts whose gradients make one step; false:
    its size and larger ones are closed."""
    audit: float = 0.0
    """Share of the trials trained side by side that are trained once more, alone, to compare."""
    probes: Sequence[Literal["noise", "sharpness", "memory"]] = ("noise", "sharpness")
    """What is measured on the best configurations at the end; memory starts a process for each batch size."""
    keep_checkpoints: int = 3
    """How many of the best finished trials keep their checkpoint."""
    segment_seconds: float = 10.0
    """A trial pauses into a checkpoint after about this many seconds of training."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        yield from self._mistakes_of_batch_sizes()
        for name, least in (("trials", 1), ("refine", 0), ("seed", 0), ("keep_checkpoints", 1)):
            if getattr(self, name) < least:
                yield f"`{name}` must be at least {least}, but got {getattr(self, name)}."
        for name in ("batch_sizes", "optimizers", "schedules"):
            if not getattr(self, name):
                yield f"`{name}` must have at least one entry, but it is empty."
        if not 0.0 <= self.audit <= 1.0:
            yield f"`audit` must be a share in [0, 1], but got {self.audit}."
        if self.sampler not in SAMPLERS and "." not in self.sampler:
            yield f"`sampler` must be one of {', '.join(SAMPLERS)}, or an import path, but got {self.sampler!r}."
        yield from self._mistakes_of_limits()

    def _mistakes_of_limits(self) -> Iterator[str]:
        for name in ("trials", "refine"):
            if getattr(self, name) > MOST_TRIALS:
                yield f"`{name}` must be at most {MOST_TRIALS:,}, but got {getattr(self, name)}."
        for name in ("segment_seconds", "seconds", "examples", "device_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                yield f"`{name}` must be greater than 0, but got {value}."
        if self.stop is not None:
            if self.strategy != "tune" or self.objectives is not None:
                yield "`stop` must be left out with `strategy: compare` and with `objectives`: it judges by the metric."
            yield from (sentence.replace("`", "`stop.", 1) for sentence in self.stop.mistakes())

    def _mistakes_of_batch_sizes(self) -> Iterator[str]:
        for size in self.batch_sizes:
            if size < 1:
                yield f"`batch_sizes` must be at least 1, but got {size}."
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            yield f"`batch_sizes` must differ from each other, but got {list(self.batch_sizes)}."
