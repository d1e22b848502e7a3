"""By what configurations are compared once they have been trained again on fresh seeds: the rule that chose them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search.trial import TrialResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One figure of a training, and what else the search was for."""

    name: str
    """The metric, another objective, or the distance from the best of each."""
    direction: str
    of: Callable[[TrialResult], float | None]
    """The figure of a complete training; infinity where it never came to one."""
    objectives: Callable[[TrialResult], Mapping[str, float]] = lambda _: {}
    """Of a search with objectives of its own, what a training came to in each, as far as it has come to them."""
