"""What the fuzz tests share: cases made from the schema of recipes, damage to bytes, and the rule of answers."""

from __future__ import annotations

import copy
import dataclasses
import io
import re
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from models import optimizers, schedules
from pipelines.cli import main
from pipelines.options import names_of
from pipelines.recipe import Recipe
from search.config import SAMPLERS

NAMES = [
    "../../x",
    "/etc/passwd",
    "a\0b",
    "x" * 600,
    "a%b",
    "-x",
    "--config",
    "Ünï",
    "a b",
    "",
    ".",
    "..",
    "con",
    "a/b",
]
"""Names that must lead nowhere."""
NUMBERS = [0, 1, -1, 2, 7, 64, 2**31, 2**63, 10**30, 10**400, -(2**63), 0.5, 1.0, -0.0, 1e-300, 1e308, 0.1, 1e-9]
TRICKS = [
    "*a", "&a [*a]", "<<: *b", "<<: {name: b}", "!!python/object/apply:os.getcwd []", "!!binary aGk=",
    "!!set {a, b}", "!!omap [a: 1]", "? [1, 2]\n: 3", "{1: 2}", ".nan", "-.inf", "1:30", "0o17", "1_000",
    "2020-01-01", "|\n  text", "%YAML 9.9", "'open", "\"\\x0\"", "---\nname: two", "...", "\t", "\ufeff",
    "[[[[[[", "{" * 300, "- " * 200, "a: " * 50, "=", "~", "@x", "`x`", "9" * 5000, "0x" + "f" * 400, "1e999",
    "\u2028", "\x85", "!<tag:yaml.org,2002:int> x", "!!int x", "!!float []", "!!null x",
    "&a [1, 1, 1]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
]  # fmt: skip
"""Pieces of YAML that do more, or less, than hold a value."""


def examples(count: int) -> settings:
    """So many cases, the same ones at every call."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=checks,
        print_blob=False,
    )


def answer(argv: Sequence[str]) -> tuple[int, str]:
    """What the command line answers, and what it prints: success, or sentences with exit 2 and nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv)
    told = err.getvalue()
    assert code in (0, 2), f"{argv}: exit {code}"
    if code:
        lines = told.splitlines()
        assert lines and not out.getvalue(), f"{argv} is refused without a sentence, or only after something else"
        assert all(is_sentence(line) for line in lines), told
    return code, out.getvalue()


def is_sentence(line: str) -> bool:
    """Whether a line of an answer says what is wrong with what: a name in backticks, or a place."""
    return bool(re.match(r"regatta: (--[\w.+]+: |[^ ]*:\d+: |.*`[^`]+`|.*/)", line))


# From the schema

_words = st.sampled_from([*NAMES, "null", "true", "adam", "val_loss", "models.data.Digits", "a.B", "1", "0.5"])
_scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(), st.floats(), _words)
junk = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_words | st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Anything that YAML can hold."""
_ranges = st.fixed_dictionaries(
    {},
    optional={
        "low": st.sampled_from(NUMBERS),
        "high": st.sampled_from(NUMBERS),
        "log": st.booleans(),
        "step": st.sampled_from(NUMBERS),
        "values": st.lists(_scalars, max_size=3),
    },
)
_ARGUMENTS = [
    *(argument for name in optimizers.OPTIMIZERS for argument in optimizers.arguments(name)),
    *(argument for name in schedules.SCHEDULES for argument in schedules.arguments(name)),
]


def _axis(names: Sequence[str]) -> st.SearchStrategy[Any]:
    names_of_axis = st.sampled_from(names)
    arguments = st.dictionaries(st.sampled_from(_ARGUMENTS), st.one_of(_scalars, _ranges), max_size=3)
    return st.one_of(st.lists(names_of_axis, max_size=3), st.dictionaries(names_of_axis, arguments, max_size=3))


_parameters = st.dictionaries(
    st.sampled_from(["training.warmup", "training.gradient_clip", "training.epochs", "model.init_args.x.y", "data..z"]),
    _ranges,
    max_size=2,
)
_KNOWN: Mapping[str, st.SearchStrategy[Any]] = {
    "search.optimizers": _axis([*optimizers.OPTIMIZERS, "own"]),
    "search.schedules": _axis(list(schedules.SCHEDULES)),
    "search.parameters": _parameters,
    "search.sampler": st.sampled_from([*SAMPLERS, "optuna.samplers.TPESampler", "os.system"]),
}
"""Settings whose annotation says less than what they may be."""


def fitting(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation's type, sensible or not."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return st.fixed_dictionaries({}, optional={name: fitting(hint) for name, hint in hints.items()})
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if one is type(None) else fitting(one) for one in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Sequence:
        return st.lists(fitting(arguments[0]), max_size=4)
    if origin is Mapping:
        return st.dictionaries(_words, fitting(arguments[1]), max_size=2)
    plain: Mapping[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.one_of(st.integers(0, 70), st.sampled_from([n for n in NUMBERS if isinstance(n, int)])),
        float: st.one_of(st.floats(0, 2), st.sampled_from(NUMBERS)),
        str: _words,
    }
    return plain.get(annotation, junk)


SETTINGS = {name: get_type_hints(owner)[field.name] for name, owner, field in names_of(Recipe)}
"""Every setting of a recipe and its annotation, so that a new one is fuzzed without anybody's doing."""
BASE = {
    "name": "fuzz",
    "model": {
        "class_path": "models.task.Classifier",
        "init_args": {"network": {"class_path": "models.nets.MLP", "init_args": {"features": 64, "classes": 10}}},
    },
    "data": {"class_path": "models.data.Digits"},
    "search": {"batch_sizes": [64], "trials": 2},
}


def one_setting() -> st.SearchStrategy[tuple[str, Any]]:
    """A setting and a value: four times in five one of its type, else anything."""
    values = {name: _KNOWN[name] if name in _KNOWN else fitting(hint) for name, hint in SETTINGS.items()}
    return st.sampled_from(sorted(SETTINGS)).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(*4 * [values[name]], junk))
    )


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """The values of a recipe: a sound one with one to four settings changed; now and then a section is broken."""
    tree: dict[str, Any] = copy.deepcopy(BASE)
    for name, value in draw(st.lists(one_setting(), min_size=1, max_size=4)):
        _put(tree, name.split("."), value)
    if draw(st.integers(0, 9)) == 0:
        _put(tree, [draw(st.sampled_from(sorted({name.split(".")[0] for name in SETTINGS} | {"nmae"})))], draw(junk))
    return tree


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *way, last = path
    for key in way:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def written(tree: Mapping[str, Any]) -> str:
    """A tree as any YAML writer leaves it."""
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    return text


# Damage


@st.composite
def edited(draw: st.DrawFn) -> Callable[[Any], Any]:
    """A change somewhere in plain values: an entry replaced by anything, removed, or added."""
    ways, value, kind = draw(st.lists(st.integers(0, 40), max_size=5)), draw(junk), draw(st.integers(0, 4))

    def change(tree: Any) -> Any:
        here, holder, key = tree, None, None
        for way in ways:
            keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
            if not keys:
                break
            holder, key = here, keys[way % len(keys)]
            here = holder[key]
        if holder is None:
            return value
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder["another"] = value
        else:
            holder[key] = value
        return tree

    return change


_WOUNDS = ("flip", "cut", "drop", "zero", "double", "insert", "append")


def wounded(content: bytes, wound: str, at: int, piece: bytes) -> bytes:
    """Bytes with one wound: cut short, or a piece of it flipped, dropped, zeroed, doubled or put there."""
    before, hit, after = content[:at], content[at : at + len(piece)], content[at + len(piece) :]
    if wound == "flip":
        return before + bytes(one ^ other for one, other in zip(hit, piece, strict=False)) + after
    if wound == "append":
        return content + piece
    middle = {"cut": b"", "drop": b"", "zero": bytes(len(hit)), "double": hit + hit, "insert": piece + hit}[wound]
    return before + middle + (b"" if wound == "cut" else after)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with one to four wounds."""
    for _ in range(draw(st.integers(1, 4))):
        piece = draw(st.one_of(st.binary(min_size=1, max_size=30), st.sampled_from(TRICKS).map(str.encode)))
        content = wounded(content, draw(st.sampled_from(_WOUNDS)), draw(st.integers(0, len(content))), piece)
    return content
