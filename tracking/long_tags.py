"""A text of any length in MLflow's tags, which are of limited length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count, takewhile

from tracking.runs import LONGEST


def parted(name: str, text: str) -> dict[str, str]:
    """A text as tags: what does not fit into the first goes on in tags numbered from 1."""
    longest = LONGEST["tag"]
    starts = range(0, len(text), longest)
    return {key: text[start : start + longest] for key, start in zip(_names(name), starts, strict=False)}


def joined(name: str, tags: Mapping[str, str]) -> str:
    """The text that `parted` wrote; empty if there is none."""
    return "".join(tags[key] for key in takewhile(tags.__contains__, _names(name)))


def _names(name: str) -> Iterator[str]:
    return chain([name], (f"{name}.{index}" for index in count(1)))
