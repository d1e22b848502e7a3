"""YAML to plain values, each with its place in the text, and back: safe tags, no key twice, one reading of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

Place = Callable[[int], str]
"""What to call a line: `recipe.yaml:12`, or the option whose value it is."""


class _Bad:
    """The type of `BAD`."""

    def __repr__(self) -> str:
        return "..."


BAD: Final = _Bad()
"""In place of a value that is wrong; its mistake is reported."""

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
    |[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$""",
    re.X,
)
_DEEPEST = 100
"""Levels of nesting: far more than a recipe has, and few enough to be copied and written by recursion."""
_NOT_READ = ("int", "float", "timestamp", "merge", "value")


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's, but `1e-4` is a number (to it, text), `1:30` and `010` are none, and dates stay text, as in JSON."""
    tags = {f"tag:yaml.org,2002:{name}" for name in _NOT_READ}
    table = {
        first: [(tag, pattern) for tag, pattern in rows if tag not in tags]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+.0123456789":
        table.setdefault(first, []).extend([("tag:yaml.org,2002:int", _INTEGER), ("tag:yaml.org,2002:float", _FLOAT)])
    return table


# Reader and writer share the table: what would be read as a number is then quoted where it is text.
_Loader = type("_Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": _resolvers()})
_Dumper = type(
    "_Dumper",
    (yaml.SafeDumper,),
    {"yaml_implicit_resolvers": _resolvers(), "ignore_aliases": lambda _dumper, _data: True},
)
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


class Mistake(NamedTuple):
    """Something wrong: the dotted name it is about, where that was written, and the sentence."""

    name: str
    place: str
    sentence: str

    def __str__(self) -> str:
        """Place and sentence, as they are told."""
        return f"{self.place}: {self.sentence}"


@dataclass(kw_only=True)
class Draft:
    """A recipe's plain values on their way to a `Recipe`: where each came from, and what is wrong so far."""

    values: Any = None
    places: dict[str, str] = field(default_factory=dict)
    """Place of every dotted name that was written; the empty name is the whole."""
    mistakes: list[Mistake] = field(default_factory=list)

    def place_of(self, name: str) -> str:
        """Place of a dotted name, or of the nearest thing written around it."""
        while name not in self.places and name:
            name = name.rpartition(".")[0]
        return self.places.get(name, "")

    def is_written(self, name: str) -> bool:
        """Whether a dotted name, or something around it, was written."""
        return any(name == other or name.startswith(f"{other}.") for other in self.places if other)

    def report(self, name: str, sentence: str) -> None:
        """Note a mistake about a dotted name."""
        self.mistakes.append(Mistake(name, self.place_of(name), sentence))


def read_yaml(text: str, place: Place, *, at: str = "") -> Draft:
    """One document as a draft; `at` is the dotted name of the whole. Never raises: what is wrong is in `mistakes`."""
    draft = Draft(places={at: place(1)})
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _Reader(draft=draft, place=place, seen=set()).read(node, at)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        draft.mistakes.append(Mistake(at, place(mark.line + 1 if mark else 1), f"this is not YAML: {problem}."))
    except RecursionError:
        draft.mistakes.append(Mistake(at, place(1), "this is nested too deeply to be read."))
    return draft


def write_yaml(values: Any) -> str:
    """Plain values as YAML: keys in their order, short lists on one line."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _write_list(dumper: Any, values: list[Any] | tuple[Any, ...]) -> Any:
    flow = not any(isinstance(value, dict | list | tuple) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", list(values), flow_style=flow)


yaml.add_representer(list, _write_list, Dumper=_Dumper)
yaml.add_representer(tuple, _write_list, Dumper=_Dumper)


@dataclass(kw_only=True)
class _Reader:
    """Walks the nodes of one document, filling a draft."""

    draft: Draft
    place: Place
    seen: set[int]

    def read(self, node: Any, name: str) -> None:
        """Read the root node into the draft."""
        self.draft.values = self._value(node, name)

    def _wrong(self, node: Any, name: str, sentence: str) -> Any:
        self.draft.mistakes.append(Mistake(name, self.place(node.start_mark.line + 1), sentence))
        return BAD

    def _value(self, node: Any, name: str) -> Any:
        # A node met twice is an alias: it could contain itself, or double itself at every level.
        if id(node) in self.seen:
            self.draft.report(name, f"`{name}` must not be an alias (`*...`) of a value above. Write it out.")
            return BAD
        if name.count(".") > _DEEPEST:
            return self._wrong(node, name, "this is nested too deeply to be read.")
        self.draft.places.setdefault(name, self.place(node.start_mark.line + 1))
        self.seen.add(id(node))
        if node.tag == "tag:yaml.org,2002:map" and isinstance(node, yaml.MappingNode):
            return self._mapping(node, name)
        if node.tag == "tag:yaml.org,2002:seq" and isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{name}.{index}") for index, item in enumerate(node.value)]
        return self._scalar(node, name)

    def _mapping(self, node: Any, name: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":
                shown = key if isinstance(key, str) else key_node.id
                self._wrong(key_node, name, f"a key in {_where(name)} must be text, but got {shown}. Put it in quotes.")
                continue
            if not key.isprintable():
                self._wrong(key_node, name, f"a key in {_where(name)} must be printable text, but got {key[:40]!r}.")
                continue
            line = key_node.start_mark.line + 1
            inner = f"{name}.{key}" if name else key
            if key in lines:
                first = "on this line" if lines[key] == line else f"on line {lines[key]}"
                self._wrong(key_node, inner, f"`{key}` is set twice in {_where(name)}, first {first}. Keep one.")
                continue
            lines[key] = line
            self.draft.places[inner] = self.place(line)
            values[key] = self._value(value_node, inner)
        return values

    def _scalar(self, node: Any, name: str) -> Any:
        if node.tag not in _PLAIN or not isinstance(node, yaml.ScalarNode):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            return self._wrong(node, name, f"`{name}` has the tag `{tag}`, but recipes hold plain values only.")
        try:
            value = _Loader("").construct_object(node)
        except (ValueError, KeyError):
            return self._wrong(node, name, f"`{name}` cannot be read: {node.value[:40]!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            return self._wrong(node, name, f"`{name}` must be a finite number, but got {node.value}.")
        return value


def _where(name: str) -> str:
    return f"`{name}`" if name else "the recipe"
