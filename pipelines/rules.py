"""The rules between the sections of a recipe, and those of optimizers and schedules in it: a sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from models import optimizers, schedules
from models.config import OWN_OPTIMIZER, ClassConfig, DataConfig, MetricsConfig, TrainingConfig
from pipelines.range_rules import ends_of, mistakes_of_axis, mistakes_of_range, mistakes_of_type
from pipelines.schema import under
from search.config import SearchConfig
from search.space import COUPLED, TRAINING_PARAMETERS, adam_sde, learning_rate_range
from tracking.analysis.objectives import COLUMNS, COST, TO_TARGET

_TREES = ("model.init_args.", "data.init_args.")
_OF_OPTIMIZER = ("warmup", "weight_decay")
"""Fields of `training` that go into the optimizer and schedule which Regatta builds."""
_GIVEN_BY_USER = {"models.text.Text": "a UTF-8 text file to learn", "models.hub.HuggingFace": "a dataset's name"}
"""Datamodules that nothing can be said of before their `path` is given."""


_BY_CLOCK = ("seconds_to_target", COST)
"""Objectives that of a trial in an array tell of all its members together."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def mistakes_of_name(field: str, value: str) -> Iterator[str]:
    """Yield a sentence if a name could not be that of a folder, or would lead out of the state folder."""
    if not _SLUG.fullmatch(value):
        yield (
            f"`{field}` must be 1 to 64 lower-case letters, digits, `.`, `_` or `-`, beginning with a letter or digit, "
            f"but got {value!r}. It names a folder."
        )


def mistakes_of_data(data: DataConfig) -> Iterator[str]:
    """Yield a sentence if a ready datamodule lacks what no default could stand for."""
    meaning = _GIVEN_BY_USER.get(data.class_path)
    if meaning and data.init_args.get("path") is None:
        yield (
            f"`data.init_args.path` must be {meaning}, but got null. "
            "Give it in the recipe, or as `--data.init_args.path PATH`."
        )


def mistakes_of_knowledge(search: SearchConfig) -> Iterator[str]:
    """Yield a sentence for everything known before the search that it could not use."""
    given = [name for name in ("enqueue", "priors", "from_study", "law") if getattr(search, name)]
    for name in given if search.strategy == "compare" else ():
        yield f"`search.{name}` must be left out with the strategy compare. Set `search.strategy: tune`."
    if len(search.enqueue) > search.trials:
        most = f"{search.trials} entries (`search.trials`)"
        yield f"`search.enqueue` must have at most {most}, but got {len(search.enqueue)}."
    if search.priors and search.sampler == "grid":
        yield "`search.priors` must be left out with the sampler grid, which tries every place once."
    for name, prior in search.priors.items():
        yield from (under(f"search.priors.{name}", sentence) for sentence in prior.mistakes())
    yield from _mistakes_of_earlier(search)


def _mistakes_of_earlier(search: SearchConfig) -> Iterator[str]:
    if search.from_study and search.sampler in ("cmaes", "nsga2", "qmc", "random", "grid"):
        yield (
            f"`search.from_study` must be left out with the sampler {search.sampler}, which learns from its own "
            "proposals at most. Set `search.sampler: tpe`, or give the best in `search.enqueue`."
        )
    if search.from_study and search.objectives:
        yield "`search.from_study` must be left out with `search.objectives`. Give the best in `search.enqueue`."
    if search.law and (search.learning_rate.rule == "absolute" or "learning_rate" in search.priors):
        yield (
            "`search.law` must be left out with `search.priors.learning_rate` and with `search.learning_rate.rule` "
            "absolute, which say themselves where the best rate lies."
        )


def mistakes_of_grid(search: SearchConfig, training: TrainingConfig) -> Iterator[str]:
    """Yield a sentence for everything wrong in the grid's axes and their arguments."""
    parts = training.accumulate
    odd = [size for size in search.batch_sizes if parts > 1 and size % parts]
    if odd:
        yield f"`search.batch_sizes` must be divisible by `training.accumulate` ({parts}), but got {odd}."
    yield from _mistakes_of_rescaling(search)
    broken = list(mistakes_of_axis("search.optimizers", search.optimizers, optimizers.mistakes))
    yield from broken
    if search.learning_rate.rule == "adam_sde" and not broken:
        yield from _mistakes_of_coupling(search)
    yield from mistakes_of_axis("search.schedules", search.schedules, schedules.mistakes)
    yield from _mistakes_of_rates(search)
    if OWN_OPTIMIZER not in search.optimizers:
        return
    if {name: dict(args) for name, args in search.schedules.items()} != {"constant": {}}:
        yield (
            f"`search.schedules` must be just `constant` with the optimizer `{OWN_OPTIMIZER}`, which keeps the "
            f"module's own schedule, but got {', '.join(search.schedules)}. Set `search.schedules: [constant]`."
        )
    if len(search.optimizers) == 1:
        yield from _mistakes_of_own(search, training)


def _mistakes_of_rescaling(search: SearchConfig) -> Iterator[str]:
    """Yield a sentence for what cannot be had with schedules that are stretched anew at every rung."""
    if search.strategy != "tune" or not search.promotion.rescale:
        return
    if "batch_growth" in search.schedules:
        yield (
            "`search.promotion.rescale` must be false with the schedule batch_growth, whose batch sizes follow the "
            "whole training. Leave one of them out."
        )
    if search.audit:
        yield (
            "`search.audit` must be 0 with `search.promotion.rescale`, because the audit trains in one go, but got "
            f"{search.audit}."
        )


def _mistakes_of_rates(search: SearchConfig) -> Iterator[str]:
    """Yield a sentence if the range of learning rates of a batch size and optimizer comes to none."""
    rate = search.learning_rate
    if any(size < 1 for size in search.batch_sizes) or any(rate.mistakes()):
        return  # A mistake of its own, told where it belongs.
    for name in (name for name in search.optimizers if name in optimizers.OPTIMIZERS):
        for size in search.batch_sizes:
            extent = learning_rate_range(rate, name, size)
            assert extent.low is not None and extent.high is not None, "a range of rates has bounds"
            if not 0.0 < extent.low < extent.high < float("inf"):
                yield (
                    f"`search.learning_rate` must come to rates greater than 0 and finite, but comes to "
                    f"{extent.low} to {extent.high} at batch size {size} with {name}."
                )
                return


def _mistakes_of_coupling(search: SearchConfig) -> Iterator[str]:
    """Yield a sentence for everything that the rule `adam_sde` cannot do with sound optimizers."""
    without = [name for name in search.optimizers if not set(COUPLED) <= set(optimizers.arguments(name))]
    if without:
        yield (
            "`search.learning_rate.rule` must not be adam_sde with optimizers that have no betas, "
            f"but got {', '.join(without)}. Keep adam and adamw alone, or leave the rule out."
        )
    found: list[str] = []
    for name in (name for name in search.optimizers if name not in without):
        settings = {**optimizers.arguments(name), **search.optimizers[name]}
        searched = [argument for argument in COUPLED if isinstance(settings[argument], Mapping)]
        found += (
            f"`search.optimizers.{name}.{argument}` must be a value with `search.learning_rate.rule` adam_sde, "
            "which derives it for each batch size, but got a range."
            for argument in searched
        )
        if not searched:
            found += _mistakes_of_betas(search, settings)
    # adam and adamw share their defaults.
    yield from dict.fromkeys(found)


def _mistakes_of_betas(search: SearchConfig, settings: Mapping[str, Any]) -> Iterator[str]:
    largest, reference = max(search.batch_sizes, default=0), search.learning_rate.reference_batch_size
    if largest < 1 or reference < 1:
        return  # A mistake of its own, told where it belongs.
    try:
        adam_sde(settings, batch_size=largest, reference=reference)
    except ValueError as error:
        yield str(error)


def _mistakes_of_own(search: SearchConfig, training: TrainingConfig) -> Iterator[str]:
    for name in _OF_OPTIMIZER:
        rule = f"must be left out with the optimizer `{OWN_OPTIMIZER}`, which the module builds itself"
        if getattr(training, name) != 0:
            yield f"`training.{name}` {rule}, but got {getattr(training, name)}."
        if f"training.{name}" in search.parameters:
            yield f"`search.parameters.training.{name}` {rule}. Search `model.init_args` instead."


def mistakes_of_parameters(search: SearchConfig, model: ClassConfig, data: DataConfig) -> Iterator[str]:
    """Yield a sentence for everything wrong under `search.parameters`."""
    trees = {"model": model.init_args, "data": data.init_args}
    for name, value in search.parameters.items():
        place = f"search.parameters.{name}"
        broken = list(mistakes_of_range(value, place))
        yield from broken
        if name.startswith(_TREES):
            yield from _mistakes_of_path(name, trees, data.batch_size_arg)
        elif name.startswith("training.") and name.removeprefix("training.") in TRAINING_PARAMETERS:
            yield from () if broken else _mistakes_of_training(name.removeprefix("training."), value)
        else:
            fields = ", ".join(f"`training.{field}`" for field in TRAINING_PARAMETERS)
            yield f"`{place}` must begin with `model.init_args.` or `data.init_args.`, or be one of {fields}."


def _mistakes_of_path(name: str, trees: Mapping[str, Any], batch_size_arg: str) -> Iterator[str]:
    if name == f"data.init_args.{batch_size_arg}":
        yield f"`search.parameters.{name}` must be left out: `search.batch_sizes` searches the batch size."
    root, _, *path = name.split(".")
    if not all(path):
        yield f"`search.parameters.{name}` must name an argument, but a part between its dots is empty."
        return
    here = trees[root]
    for depth, key in enumerate(path[:-1]):
        if key == "init_args" and key not in here and "class_path" in here:
            return
        here = here.get(key)
        if not isinstance(here, Mapping):
            parent = ".".join([root, "init_args", *path[: depth + 1]])
            yield f"`search.parameters.{name}` must lie in the recipe, but `{parent}` is no mapping there."
            return


def _mistakes_of_training(field: str, value: Mapping[str, Any]) -> Iterator[str]:
    hint = get_type_hints(TrainingConfig)[field]
    for end in ends_of(value):
        found = mistakes_of_type(hint, end, field) or TrainingConfig(**{field: end}).mistakes()
        yield from (under("search.parameters.training", sentence) for sentence in found)


def mistakes_of_objectives(search: SearchConfig, metrics: MetricsConfig) -> Iterator[str]:
    """Yield a sentence for everything wrong in `search.objectives`."""
    if search.objectives is None:
        return
    names = list(search.objectives)
    known = (metrics.objective, *COLUMNS)
    unknown = [name for name in names if name not in known]
    if search.strategy != "tune":
        yield (
            f"`search.objectives` must be left out with `search.strategy` {search.strategy}, which ranks by the metric "
            f"and maps speed and cost anyway, but got {names}. Set `search.strategy: tune`."
        )
    if not names or len(set(names)) < len(names):
        yield f"`search.objectives` must name one or several, each once, but got {names}. Leave it out for the metric."
    if unknown:
        yield f"`search.objectives` must be of {', '.join(known)} (the metric first), but got {', '.join(unknown)}."
    if names == [COST]:
        yield (
            f"`search.objectives` must have another one beside {COST}, which alone asks for the shortest training, "
            f"however poor, but got {names}. Add `{metrics.objective}`."
        )
    yield from _mistakes_of_figures(search, metrics, names)


def _mistakes_of_figures(search: SearchConfig, metrics: MetricsConfig, names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence where an objective needs another setting to be measured."""
    aimed = [name for name in names if name in TO_TARGET]
    if aimed and metrics.target is None and not metrics.calibrate:
        yield f"`metrics.target` must be set with `search.objectives` {', '.join(aimed)}, but it is null."
    timed = [name for name in names if name in _BY_CLOCK]
    if timed and search.arrays != "off":
        yield (
            f"`search.arrays` must be off with `search.objectives` {', '.join(timed)}, because the clock of trials "
            f"side by side tells of all of them together, but got {search.arrays}. Set it, or take examples_to_target."
        )
