"""The command line of a recipe: which options there are, and the overrides that an actual one holds."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

from pipelines.yaml_source import Mistake

FLAGS = ("--config", "--print_config", "--help")
"""Options that are no key of a recipe."""


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
    """Take a command line apart: `--key value`, `--key=value`, `--key+ value`, for keys of the dataclass `recipe`."""
    config: str | None = None
    overrides: list[Override] = []
    mistakes: list[Mistake] = []
    for option, text in _pairs(argv):
        name, append = option.removeprefix("--").removesuffix("+"), option.endswith("+")
        if not option.startswith("--"):
            sentence = f"`{_on_one_line(option)}` is no option. Keys are set as in `--search.trials 24`."
        elif option != "--config" and leaf_of(recipe, name) is None:
            sentence = f"there is no option `{_on_one_line(option)}`{_nearest(name, recipe)} `--help` lists them all."
        elif text is None:
            sentence = "a value must follow, as in `--search.trials 24`."
        elif not _is_utf8(text):
            sentence = "the value must be text in UTF-8."
        elif option == "--config" and config is not None:
            sentence = f"`--config` must be given once, but got {config!r} and {text!r}."
        else:
            config = text if option == "--config" else config
            overrides += [] if option == "--config" else [Override(name=name, text=text, append=append)]
            continue
        place = _on_one_line(option) if option.startswith("--") else "command line"
        mistakes.append(Mistake(name, place, sentence))
    return Arguments(config=config, overrides=overrides, mistakes=mistakes)


def _on_one_line(word: str) -> str:
    """A word of the command line as a sentence quotes it."""
    return word if word.isprintable() else repr(word)[1:-1]


def _is_utf8(text: str) -> bool:
    """Whether a word of the command line was valid UTF-8: Python carries other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


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
    """The annotation that a dotted name arrives at, and what of it lies deeper in a mapping; None: no such key."""
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
    if not close:
        close = [lasts[last] for last in difflib.get_close_matches(name.rpartition(".")[2], lasts, n=1, cutoff=0.75)]
    return f"; did you mean `--{close[0]}`?" if close else "."
