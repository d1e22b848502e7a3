"""What a user expects of a parameter before the search: a centre and a confidence, and how much they count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

HALVED_AFTER = 16
"""Proposals after which a prior counts half as much: a wrong one costs 23 of them at most, whatever its confidence."""
SPREAD = 0.1
"""Standard deviation around the centre, as a share of the range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig:
    """Where a parameter's best value is expected, and how surely."""

    centre: Any
    """The value expected; of a learning rate, at `search.learning_rate.reference_batch_size`."""
    confidence: float = 0.5
    """Share of the first proposals that are drawn around it, in (0, 1]."""

    def mistakes(self) -> Iterator[str]:
        """Yield one sentence for every rule broken; names are relative to this object."""
        if not 0.0 < self.confidence <= 1.0:
            yield f"`confidence` must be a share in (0, 1], but got {self.confidence}. Leave out a prior without any."


def share(confidence: float, number: int) -> float:
    """The share of proposals that a prior draws, at the proposal of this number: halved after every `HALVED_AFTER`.

    A prior that fades as proposals are made is that of Hvarfner et al. 2022 (piBO), whose regret stays bounded under a
    wrong one; that it draws some proposals and leaves the others alone, that of Mallik et al. 2023 (PriorBand).
    """
    return float(confidence * 0.5 ** (number / HALVED_AFTER))


def around(place: float, generator: random.Random) -> float:
    """A place in [0, 1] near another one: normal, cut off at both ends."""
    bell = NormalDist(place, SPREAD)
    low, high = bell.cdf(0.0), bell.cdf(1.0)
    drawn = bell.inv_cdf(low + (high - low) * (1e-9 + (1 - 2e-9) * generator.random()))
    return min(max(drawn, 0.0), 1.0)
