"""What an argument of a schedule or an optimizer may be, and the sentence for one that is not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Domain:
    """What an argument may be: the rule, as it ends the sentence "`x` must be ...", and its test."""

    rule: str
    accepts: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def interval(text: str) -> Domain:
    """The numbers of an interval in its usual notation: `[0, 1)` has 0 and lacks 1."""
    low, high = (float(end) for end in text[1:-1].split(","))
    inside = {low: text.startswith("["), high: text.endswith("]")}

    def accepts(value: Any) -> bool:
        return _is_number(value) and (low < value < high or inside.get(value, False))

    return Domain(f"a number in {text}", accepts)


def whole(low: int, high: float = math.inf) -> Domain:
    """The whole numbers from `low` to `high`."""
    rule = f"a whole number of at least {low}" if high == math.inf else f"a whole number from {low} to {high}"
    return Domain(rule, lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)


def optional(domain: Domain) -> Domain:
    """The same, or null."""
    return Domain(f"{domain.rule}, or null", lambda value: value is None or domain.accepts(value))


TRUTH = Domain("true or false", lambda value: isinstance(value, bool))


def unknown_name(name: str, known: Iterable[str], *, where: str) -> str:
    """The sentence for a name that does not exist: the nearest one, and all that do."""
    names = sorted(known)
    return f"`{where}` must be one of {', '.join(names)}, but got {name!r}.{_nearest(name, names)}"


def mistakes_of_arguments(args: Mapping[str, Any], domains: Mapping[str, Domain], *, where: str) -> Iterator[str]:
    """Yield one sentence for every argument that is unknown or outside its domain."""
    for name, value in args.items():
        if name not in domains:
            known = f"Its arguments are {', '.join(domains)}." if domains else "It takes no arguments."
            yield f"`{where}.{name}` must be left out: there is no such argument.{_nearest(name, domains)} {known}"
        elif not domains[name].accepts(value):
            yield f"`{where}.{name}` must be {domains[name].rule}, but got {value!r}."


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
