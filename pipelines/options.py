"""The command line of a recipe: dotted overrides, put into its values one after the other, and the list of them for `--help`."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from pipelines.schema import default_of, is_required, optional, shown
from pipelines.yaml_source import BAD, Draft, Mistake, read_yaml

FLAGS = ("--config", "--print_config", "--help")
"""Options that are no key of a recipe."""
DOTTED_KEYS = "search.parameters"
"""The mapping whose keys are dotted names themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One `--name value` of the command line."""

    name: str
    """Dotted name of the key, without dashes."""
    text: str
    append: bool = False
    """Whether the value is added to what is there (`--name+ value`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """A command line, taken apart."""

    config: str | None
    overrides: Sequence[Override]
    mistakes: Sequence[Mistake]


def parse(argv: Sequence[str], recipe: Any) -> Arguments:
    """Take a command line apart: `--name value`, `--name=value` and `--name+ value`, with any key of the dataclass `recipe`."""
    config: str | None = None
    overrides: list[Override] = []
    mistakes: list[Mistake] = []
    for option, text in _pairs(argv):
        name, append = option.removeprefix("--").removesuffix("+"), option.endswith("+")
        if not option.startswith("--"):
            sentence = f"`{option}` is no option. Keys are set as in `--search.trials 24`."
        elif option != "--config" and leaf_of(recipe, name) is None:
            sentence = f"there is no option `{option}`{_nearest(name, recipe)} `--help` lists them all."
        elif text is None:
            sentence = "a value must follow, as in `--search.trials 24`."
        elif option == "--config" and config is not None:
            sentence = f"`--config` must be given once, but got {config!r} and {text!r}."
        else:
            config = text if option == "--config" else config
            overrides += [] if option == "--config" else [Override(name=name, text=text, append=append)]
            continue
        mistakes.append(Mistake(name, option if option.startswith("--") else "command line", sentence))
    return Arguments(config=config, overrides=overrides, mistakes=mistakes)


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their values; a value missing is None, and a stray word an option without dashes."""
    words = list(argv)
    while words:
        option, equals, text = words.pop(0).partition("=")
        if not option.startswith("--"):
            yield option + equals + text, None
        elif equals:
            yield option, text
        else:
            yield option, words.pop(0) if words and not words[0].startswith("--") else None


def leaf_of(recipe: Any, name: str) -> tuple[Any, list[str]] | None:
    """The annotation that a dotted name arrives at, and what of the name lies deeper, in a mapping; None: no such key."""
    annotation: Any = recipe
    keys = name.split(".")
    while keys and dataclasses.is_dataclass(annotation):
        annotation = get_type_hints(annotation).get(keys.pop(0))
    if annotation is None or (keys and get_origin(annotation) is not Mapping) or not all(keys):
        return None
    return annotation, keys


def names_of(recipe: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every key of a dataclass that is not a section: dotted name, dataclass and field."""
    hints = get_type_hints(recipe)
    for field in dataclasses.fields(recipe):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from names_of(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, recipe, field


def _nearest(name: str, recipe: Any) -> str:
    """The option that is nearest by its whole name, or else by its last part."""
    known = [*(option.removeprefix("--") for option in FLAGS), *(key for key, _, _ in names_of(recipe))]
    lasts = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    close = close or [lasts[last] for last in difflib.get_close_matches(name.rpartition(".")[2], lasts, n=1, cutoff=0.75)]
    return f"; did you mean `--{close[0]}`?" if close else "."


def apply(draft: Draft, override: Override, recipe: Any) -> None:
    """Put one override into a draft of the dataclass `recipe`."""
    place = f"--{override.name}{'+' if override.append else ''}"
    found = leaf_of(recipe, override.name)
    assert found is not None, f"{override.name} is a key of the recipe, or it would have been refused"
    value = _read(override, found[0], place, draft) if not found[1] else _read(override, Any, place, draft)
    if value is BAD:
        return
    holder = _holder(draft, override.name, recipe)
    if holder is None:
        draft.mistakes.append(Mistake(override.name, place, f"`{override.name}` lies in what is no mapping. Set that as a whole."))
        return
    within, key = holder
    if override.append:
        value = _joined(within.get(key), value)
    elif dataclasses.is_dataclass(found[0]) and isinstance(value, dict) and isinstance(within.get(key), dict):
        value = {**within[key], **value}
    if value is None and override.append:
        draft.mistakes.append(Mistake(override.name, place, f"`{override.name}` must be a list to be added to. Leave out the `+`."))
        return
    within[key] = value


def _read(override: Override, annotation: Any, place: str, draft: Draft) -> Any:
    """The value that an override's text stands for; BAD if it is none, which is then noted."""
    inner = optional(annotation) or annotation
    if inner is str and not (override.text == "null" and inner is not annotation):
        # A name of digits is a name: nobody quotes twice on a command line.
        draft.places[override.name] = place
        return override.text
    read = read_yaml(override.text, lambda _line: place, at=override.name)
    if read.mistakes and annotation is Any and override.text[:1] not in "[{!&*":
        read = Draft(values=override.text, places={override.name: place})
    for name in [name for name in draft.places if f"{name}.".startswith(f"{override.name}.")]:
        del draft.places[name]
    draft.places |= read.places
    draft.mistakes += read.mistakes
    return BAD if read.mistakes else read.values


def _holder(draft: Draft, name: str, recipe: Any) -> tuple[dict[str, Any], str] | None:
    """The mapping that a dotted name lies in, and its key there; mappings on the way are made, defaults filled in."""
    within, annotation, keys = draft.values, recipe, name.split(".")
    while True:
        key = _first_key(within, keys, ".".join(name.split(".")[: len(name.split(".")) - len(keys)]))
        keys = keys[key.count(".") + 1 :]
        hints = get_type_hints(annotation) if dataclasses.is_dataclass(annotation) else {}
        if key in hints and within.get(key) is None and not dataclasses.is_dataclass(hints[key]):
            default = default_of(annotation, key)
            within |= {} if default is None else {key: default}
        if not keys:
            return within, key
        if within.get(key) is None:
            within[key] = {}
        within, annotation = within[key], hints.get(key)
        if not isinstance(within, dict):
            return None


def _first_key(within: Mapping[str, Any], keys: Sequence[str], at: str) -> str:
    """The part of a dotted name that is one key here: one word, except where keys have dots themselves."""
    if at != DOTTED_KEYS:
        return keys[0]
    there = [".".join(keys[:end]) for end in range(1, len(keys)) if ".".join(keys[:end]) in within]
    return there[0] if there else ".".join(keys)


def _joined(old: Any, new: Any) -> Any:
    """A list with more at its end, or a grid's axis with one more name; None if the old value is neither."""
    more = new if isinstance(new, list) else [new]
    if isinstance(old, Mapping) and all(isinstance(name, str) for name in more):
        return {**old, **{name: {} for name in more}}
    if isinstance(old, list | tuple) or old is None:
        return [*(old or ()), *more]
    return None


def help_text(recipe: Any, *, command: str, about: str) -> str:
    """Every option with its meaning and default, by section; the defaults are those of a recipe that leaves the key out."""
    parser = ArgumentParser(prog=f"regatta {command}", description=about, usage=f"regatta {command} [--config RECIPE] [--KEY VALUE ...]")
    return parser.format_help()
