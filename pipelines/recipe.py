"""The recipe: the whole typed, checked configuration of one run, from YAML and the command line, and back to YAML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, get_type_hints

from models.config import ClassConfig, DataConfig, MetricsConfig, TrainingConfig
from pipelines import rules
from pipelines.increments import is_increment, resolved
from pipelines.options import parse
from pipelines.overrides import apply
from pipelines.recipe_file import DEFAULT, RecipeError, draft_of, error_of, read_config
from pipelines.schema import build, shown, under
from pipelines.yaml_source import BAD, Draft, Mistake, write_yaml
from search.cluster_config import ClusterConfig
from search.config import SearchConfig
from tracking.config import TrackingConfig
from tracking.credentials import without_credentials

__all__ = ["Recipe", "RecipeError", "from_yaml_text", "load_recipe", "public", "to_yaml"]

_STAND_INS = {"name": "unnamed", "model": {"class_path": "a.Model"}, "data": {"class_path": "a.Data"}}
_AXES = ("optimizers", "schedules")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The whole configuration of one run."""

    name: str
    """Name of the recipe: lower-case letters, digits, `.`, `_` and `-`."""
    study: str | None = None
    """Name of the study, and of its folder in the state folder; null: the recipe's name."""
    model: ClassConfig
    data: DataConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def study_name(self) -> str:
        """Name of the study, and of its folder."""
        return self.study or self.name

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken, in a section or between them."""
        for name in ("name", "study"):
            value = getattr(self, name)
            if value is not None:
                yield from rules.mistakes_of_name(name, value)
        for section in _sections(Recipe):
            found = attrgetter(section)(self).mistakes()
            yield from (under(section, sentence) for sentence in found)
        yield from rules.mistakes_of_data(self.data)
        yield from rules.mistakes_of_grid(self.search, self.training)
        yield from rules.mistakes_of_knowledge(self.search)
        yield from rules.mistakes_of_parameters(self.search, self.model, self.data)
        yield from rules.mistakes_of_objectives(self.search, self.metrics)


def load_recipe(argv: Sequence[str]) -> Recipe:
    """The recipe that a command line asks for: `--config` (a path or a ready recipe), then its overrides in order.

    Raises:
        RecipeError: all that is wrong with it.
    """
    arguments = parse(argv, Recipe)
    try:
        draft = read_config(DEFAULT if arguments.config is None else arguments.config)
    except RecipeError as error:
        raise RecipeError([*map(str, arguments.mistakes), *error.mistakes]) from error
    _normalise(draft.values)
    # What is asked for on top of a study comes last: by then the recipe says which study.
    for override in sorted(arguments.overrides, key=is_increment):
        apply(draft, resolved(override, draft.values) if is_increment(override) else override, Recipe)
        _normalise(draft.values)
    return _finish(draft, more=arguments.mistakes)


def from_yaml_text(text: str, source: str) -> Recipe:
    """The recipe in a YAML text; `source` names it in messages.

    Raises:
        RecipeError: all that is wrong with it, with the lines.
    """
    draft = draft_of(text, source)
    _normalise(draft.values)
    return _finish(draft)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out: itself a recipe, which resolves to the same bytes."""
    return write_yaml(dataclasses.asdict(recipe))


def public(recipe: Recipe) -> Recipe:
    """The same without the password that its tracking URI may hold: what is kept with a study is passed on."""
    uri = recipe.tracking.uri
    if uri is None:
        return recipe
    tracking = dataclasses.replace(recipe.tracking, uri=without_credentials(uri))
    return dataclasses.replace(recipe, tracking=tracking)


def _sections(cls: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of the dataclasses within a dataclass."""
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield prefix + name
            yield from _sections(hint, f"{prefix}{name}.")


def _normalise(values: dict[str, Any]) -> None:
    """`optimizers: [sgd, adamw]` and `cosine:` without arguments become mappings of names to arguments."""
    search = values.get("search")
    if not isinstance(search, dict):
        return
    for axis in _AXES:
        named = search.get(axis)
        if isinstance(named, list) and all(isinstance(name, str) for name in named) and len(set(named)) == len(named):
            search[axis] = {name: {} for name in named}
        elif isinstance(named, dict):
            search[axis] = {name: {} if args is None else args for name, args in named.items()}


def _finish(draft: Draft, *, more: Sequence[Mistake] = ()) -> Recipe:
    """The recipe of a draft, or all its mistakes."""
    _refuse_unnamed(draft)
    recipe = build(Recipe, draft.values, "", draft.report)
    if recipe is BAD:
        # Its rules are checked all the same, with something neutral in place of what is missing.
        sound = {name: item for name, item in draft.values.items() if name not in _STAND_INS or _fits(name, item)}
        recipe = build(Recipe, {**_STAND_INS, **sound}, "", lambda _name, _sentence: None)
    doubtful = {mistake.name for mistake in draft.mistakes} | set(_meant(draft.mistakes))
    for sentence in recipe.mistakes():
        names = re.findall(r"`([^`]+)`", sentence)
        section = names[0].partition(".")[0]
        # What follows from a value that could not be read, or from a default in its place, is no mistake of its own.
        if not any(
            _overlap(name, other) for name in (*names, *(f"{section}.{x}" for x in names)) for other in doubtful
        ):
            draft.report(next((name for name in names if draft.is_written(name)), names[0]), sentence)
    mistakes = [*more, *draft.mistakes]
    if mistakes:
        raise error_of(mistakes)
    assert isinstance(recipe, Recipe), "a draft without mistakes is a recipe"
    return recipe


def _refuse_unnamed(draft: Draft) -> None:
    """Report axes of the grid that are no names, in the words of both forms that they may have."""
    search = draft.values.get("search")
    for axis in _AXES if isinstance(search, dict) else ():
        if axis in search and search[axis] is not BAD and not isinstance(search[axis], dict):
            rule = "must be a list of different names, or a mapping of names to their arguments"
            draft.report(f"search.{axis}", f"`search.{axis}` {rule}, but got {shown(search[axis])}.")
            search[axis] = BAD


def _fits(name: str, value: Any) -> bool:
    return build(get_type_hints(Recipe)[name], value, name, lambda _name, _sentence: None) is not BAD


def _overlap(name: str, other: str) -> bool:
    """Whether one dotted name is the other, or lies in it."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def _meant(mistakes: Iterable[Mistake]) -> Iterator[str]:
    """The names that unknown keys probably stand for."""
    for mistake in mistakes:
        if match := re.search(r"did you mean `([^`]+)`", mistake.sentence):
            yield f"{mistake.name.rpartition('.')[0]}.{match[1]}".lstrip(".")
