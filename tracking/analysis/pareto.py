"""Several objectives at once: which points none is better than, how crowded they lie, and the order that follows.

Pure functions of points in which every coordinate is a loss: smaller is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = Sequence[float]


@dataclass(frozen=True, slots=True)
class Score:
    """What a trial came to in each objective."""

    losses: tuple[float, ...]
    """Infinity in an objective that it has not come to: a target that it never reached."""
    metric: float
    """The metric's own loss: it ranks what has not arrived, and decides between equals."""

    @property
    def arrived(self) -> bool:
        """Whether it has come to something in every objective."""
        return all(map(math.isfinite, self.losses))

    @property
    def stand_in(self) -> tuple[float, ...]:
        """The losses, with the metric's in place of those that it has not come to: compared among its like only."""
        return tuple(loss if math.isfinite(loss) else self.metric for loss in self.losses)


def dominates(one: Point, other: Point) -> bool:
    """Whether a point is nowhere worse than another, and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def layers(points: Sequence[Point]) -> list[list[int]]:
    """Indices by non-dominated layer, the front first: every point is dominated by one of the layer before its own.

    Efficient non-dominated sort (Zhang et al. 2015, ENS-BS): in lexicographic order no later point dominates an
    earlier one, so the layers that dominate a point are the first ones, and are found by bisection.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(points)), key=lambda index: (tuple(points[index]), index)):
        low, high = 0, len(found)
        while low < high:
            middle = (low + high) // 2
            # From the end: in two objectives the last one decides.
            if any(dominates(points[other], points[index]) for other in reversed(found[middle])):
                low = middle + 1
            else:
                high = middle
        if low == len(found):
            found.append([])
        found[low].append(index)
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """How far apart the neighbours of each point lie, in units of the range (Deb et al. 2002); at an end, infinity."""
    distances = [0.0] * len(points)
    for values in zip(*points, strict=True):
        order = sorted(range(len(points)), key=lambda index: (values[index], index))
        extent = values[order[-1]] - values[order[0]]
        if not extent > 0:
            continue
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distances[here] += (values[after] - values[before]) / extent
    return distances


def arranged(scores: Sequence[Score]) -> list[int]:
    """Indices, best first: by layer, in a layer the least crowded first, then by the metric, then as they came.

    What has not arrived comes after all that has, compared by its metric: censored, never a made-up number.
    """
    order: list[int] = []
    for arrived in (True, False):
        members = [index for index, score in enumerate(scores) if score.arrived is arrived]
        points = [scores[index].losses if arrived else scores[index].stand_in for index in members]
        for layer in layers(points):
            apart = crowding([points[place] for place in layer])
            ranked = sorted((-far, scores[members[p]].metric, members[p]) for far, p in zip(apart, layer, strict=True))
            order += [index for *_, index in ranked]
    return order


def front(scores: Sequence[Score]) -> list[int]:
    """Indices of those that have arrived and that none is better than; by their first objective."""
    members = [index for index, score in enumerate(scores) if score.arrived]
    found = layers([scores[index].losses for index in members])
    return [members[place] for place in found[0]] if found else []


def distances(points: Sequence[Point], among: Sequence[Point]) -> list[float]:
    """How far each point lies from the ideal, the best of every objective, in units of the range of `among`.

    The nearest of a front is its knee; an objective in which `among` does not differ counts nothing.
    """
    columns = list(zip(*among, strict=True))
    lows = [min(values) for values in columns]
    extents = [(max(values) - low) or math.inf for values, low in zip(columns, lows, strict=True)]
    return [math.hypot(*((a - low) / extent for a, low, extent in zip(p, lows, extents, strict=True))) for p in points]
