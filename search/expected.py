"""What configurations are expected to come to on fresh seeds: every trial of a search, seen together.

The best value of many trainings is in part luck. How much of it is, the trials around it tell: a Gaussian process over
the space of the search finds how much two trainings of nearly the same configuration differ, and smooths that away.
Where they hardly differ, it leaves values as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from search.config import RangeConfig
from search.gaussian import fitted

FEWEST = 4
"""Complete trials below which nothing is expected but what they came to."""
MOST = 300
"""Trials that the process is told of: its time grows with their third power, and this many take about a second. They
are taken evenly over the search, never by their losses: of the best, only the lucky ones would be left."""
COMPLETE = 2 / 3
"""The part of them that are complete ones, where there are as many."""
BEYOND = 2.0
"""A loss counts as no worse than so many times as far from the median of complete ones as the best tenth is: how bad a
bad place is tells nothing of the good ones."""
WEAKER = 3.0
"""By how much more what was foreseen is doubted: lines miss the ends of neighbours by alike amounts, and many of them
together are no surer than a few."""
APART = 0.7
"""How far different values of a coordinate without order are apart, for each of the two."""


class Seen(NamedTuple):
    """A trial, complete or stopped."""

    point: Mapping[str, Any]
    loss: float
    """In the end, as it was or as it is foreseen; smaller is better."""
    doubt: float
    """The variance of what was foreseen of its loss, or of the logarithm where all losses are positive."""
    complete: bool


class Expectation(NamedTuple):
    """What a configuration comes to on a fresh seed, in the middle."""

    value: float
    """Of the objective."""
    bound: float
    """One standard error worse: of two that are expected to be alike the one that more is known of is the better."""


def noted(expected: Mapping[int, Expectation]) -> dict[str, list[float]]:
    """Plain JSON values, for the ledger's note of that name."""
    return {str(number): list(one) for number, one in expected.items()}


def expectations(
    trials: Mapping[int, Seen], extents: Mapping[str, RangeConfig], *, logarithmic: bool, sign: float = 1.0
) -> dict[int, Expectation]:
    """Those of all complete trials, by number; none where too few are complete.

    Args:
        trials: by number.
        extents: the coordinates of the space (`JointSpace.everything`).
        logarithmic: whether the process is one of the logarithms of losses.
        sign: of a loss in the objective; -1 where more is better.
    """
    complete = [number for number, one in trials.items() if one.complete]
    if len(complete) < FEWEST:
        return {}
    told = [trials[number] for number in _told(trials)]
    scale, back = (math.log, math.exp) if logarithmic else (float, float)
    middle, good = np.quantile([scale(trials[number].loss) for number in complete], (0.5, 0.1))
    process = fitted(
        np.array([_place(one.point, extents) for one in told]),
        np.minimum([scale(one.loss) for one in told], middle + BEYOND * (middle - good)),
        doubts=np.array([0.0 if one.complete else WEAKER * one.doubt for one in told]),
    )
    means, errors = process.at(np.array([_place(trials[number].point, extents) for number in complete]))
    return {
        number: Expectation(sign * back(mean), sign * back(mean + error))
        for number, mean, error in zip(complete, means.tolist(), errors.tolist(), strict=True)
    }


def _told(trials: Mapping[int, Seen]) -> list[int]:
    """Numbers of the trials that the process is told of."""
    if len(trials) <= MOST:
        return list(trials)
    complete = [number for number, one in trials.items() if one.complete]
    others = [number for number, one in trials.items() if not one.complete]
    told = _evenly(complete, max(round(COMPLETE * MOST), MOST - len(others)))
    return [*told, *_evenly(others, MOST - len(told))]


def _evenly(numbers: Sequence[int], count: int) -> Sequence[int]:
    """So many of them, or all."""
    return [numbers[index * len(numbers) // count] for index in range(count)] if len(numbers) > count else numbers


def _place(point: Mapping[str, Any], extents: Mapping[str, RangeConfig]) -> list[float]:
    """Where a point lies in the unit cube; a coordinate that it has not, in the middle."""
    return [share for name, extent in extents.items() for share in _shares(extent, point.get(name))]


def _shares(extent: RangeConfig, value: object) -> Sequence[float]:
    if extent.values is not None:
        return [APART * (value == one) for one in extent.values]
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    if not isinstance(value, int | float) or extent.high == extent.low:
        return [0.5]
    scale = math.log if extent.log else float
    return [(scale(value) - scale(extent.low)) / (scale(extent.high) - scale(extent.low))]
