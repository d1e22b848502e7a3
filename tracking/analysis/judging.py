"""Which of several trials is the one to take: by what is expected of it on a fresh seed, where that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def rank(row: Row, sign: float) -> tuple[bool, float]:
    """What trials are sorted by, the best first: those of which something is expected before those of which not.

    Args:
        row: a trial with a value.
        sign: -1 where a large objective is good, otherwise 1.
    """
    bound = row.get("expected_bound")
    return (True, sign * row["value"]) if bound is None else (False, sign * bound)


def figure(row: Row) -> float:
    """The value that a trial is named with: what is expected of it, or its own."""
    expected = row.get("expected")
    return float(row["value"] if expected is None else expected)


def behind(row: Row, first: Row, sign: float) -> float:
    """How much worse it is than another, in the objective; NaN where something is expected of one of them alone."""
    if (row.get("expected") is None) != (first.get("expected") is None):
        return math.nan
    return sign * (figure(row) - figure(first))
