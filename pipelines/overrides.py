"""Overrides of the command line, put into the plain values of a recipe one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pipelines.options import Override, leaf_of
from pipelines.schema import default_of, optional
from pipelines.yaml_source import BAD, Draft, Mistake, read_yaml

DOTTED_KEYS = ("search.parameters", "search.priors")
"""The mappings whose keys are dotted names themselves."""


def apply(draft: Draft, override: Override, recipe: Any) -> None:
    """Put one override into a draft of the dataclass `recipe`; what is wrong with it becomes the draft's mistakes."""
    found = leaf_of(recipe, override.name)
    assert found is not None, f"`{override.name}` is a key of the recipe, or it would have been refused"
    annotation = Any if found[1] else found[0]
    place = f"--{override.name}{'+' if override.append else ''}"
    value = _read(draft, override, annotation, place)
    within, key = _holder(draft.values, override.name, recipe)
    if value is BAD:
        return
    if within is None:
        sentence = f"`{override.name}` cannot be set: `{key}` is no mapping. Set that as a whole."
        draft.mistakes.append(Mistake(override.name, place, sentence))
        return
    if override.append:
        value = _joined(within.get(key), value)
    elif dataclasses.is_dataclass(annotation) and isinstance(value, dict) and isinstance(within.get(key), dict):
        value = {**within[key], **value}
    if value is BAD:
        sentence = f"`{override.name}` must be a list to be added to. Leave out the `+` to replace it."
        draft.mistakes.append(Mistake(override.name, place, sentence))
        return
    within[key] = value


def _read(draft: Draft, override: Override, annotation: Any, place: str) -> Any:
    """The value that an override's text stands for; BAD if it is none, which is then noted."""
    if (optional(annotation) or annotation) is str and (override.text != "null" or annotation is str):
        # A name of digits is a name: nobody quotes twice on a command line.
        read = Draft(values=override.text, places={override.name: place})
    else:
        read = read_yaml(override.text, lambda _line: place, at=override.name)
        if read.mistakes and annotation is Any and override.text[:1] not in "[{!&*.":
            # A file's name need not be YAML.
            read = Draft(values=override.text, places={override.name: place})
    for name in [name for name in draft.places if name.startswith(f"{override.name}.")]:
        del draft.places[name]
    draft.places |= read.places
    draft.mistakes += read.mistakes
    return BAD if read.mistakes else read.values


def _holder(values: dict[str, Any], name: str, recipe: Any) -> tuple[dict[str, Any] | None, str]:
    """The mapping that a dotted name lies in, and its key there; mappings on the way are made, defaults filled in.

    (None, name of what is no mapping) where there is something else on the way.
    """
    within, annotation, done, left = values, recipe, "", name.split(".")
    while True:
        key = _first_key(within, left) if done in DOTTED_KEYS else left[0]
        left = left[key.count(".") + 1 :]
        hints = get_type_hints(annotation) if dataclasses.is_dataclass(annotation) else {}
        annotation, section = hints.get(key), annotation
        if within.get(key) is None and annotation is not None and not dataclasses.is_dataclass(annotation):
            default = default_of(section, key)
            within |= {} if default is None else {key: default}
        if not left:
            return within, key
        done = f"{done}.{key}".lstrip(".")
        if within.get(key) is None:
            within[key] = {}
        within = within[key]
        if not isinstance(within, dict):
            return None, done


def _first_key(within: Mapping[str, Any], words: Sequence[str]) -> str:
    """The key that a dotted name begins with, or else is as a whole, in a mapping whose keys have dots themselves."""
    starts = (".".join(words[:end]) for end in range(1, len(words)))
    return next((start for start in starts if start in within), ".".join(words))


def _joined(old: Any, new: Any) -> Any:
    """A list with more at its end, or a grid's axis with one more name; BAD if the old value is neither."""
    more = new if isinstance(new, list) else [new]
    if isinstance(old, Mapping) and all(isinstance(name, str) for name in more):
        return {**old, **{name: {} for name in more}}
    return [*(old or ()), *more] if old is None or isinstance(old, list | tuple) else BAD
