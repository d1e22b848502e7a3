"""Where priors let a proposal lie in the joint space: for each of its coordinates a coin, then a draw."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from models.seeds import derive
from search.config import RangeConfig
from search.joint import BATCH_SIZE, OPTIMIZER, RATE, SCHEDULE, JointSpace, Point, coordinate
from search.placing import holds, place_of
from search.priors import PriorConfig, around, share
from search.space import Cell, learning_rate_range, value_at


class Expected(NamedTuple):
    """A prior on one coordinate."""

    extent: RangeConfig
    centre: Any
    """The value of the coordinate."""
    confidence: float


class Priors:
    """The priors of a recipe; what they draw depends on the seed and on the number of the proposal alone."""

    def __init__(self, joint: JointSpace, priors: Mapping[str, PriorConfig], *, seed: int) -> None:
        """Find the coordinates that they are about.

        Raises:
            ValueError: with a sentence for every prior on what is not searched, or beyond its range.
        """
        self._seed = seed
        self._expected: dict[str, Expected] = {}
        self.described = [
            f"prior: {name} near {prior.centre} in {prior.confidence:.0%} of the first proposals, then in ever fewer"
            for name, prior in priors.items()
        ]
        mistakes: list[str] = []
        for name, prior in priors.items():
            found = _expected(joint, name, prior)
            self._expected |= found
            if not found:
                mistakes.append(_mistake(joint, name, prior))
        if mistakes:
            raise ValueError("\n".join(mistakes))

    def drawn(self, number: int) -> Point:
        """The coordinates that priors decide at this proposal: each by itself, fewer and fewer of them."""
        point: Point = {}
        for name, (extent, centre, confidence) in self._expected.items():
            generator = random.Random(derive(self._seed, "prior", name, number))
            if generator.random() < share(confidence, number):
                near = around(place_of(extent, centre), generator) if extent.values is None else None
                point[name] = centre if near is None else value_at(extent, near)
        return point


def _expected(joint: JointSpace, name: str, prior: PriorConfig) -> dict[str, Expected]:
    """The coordinates of a parameter whose range has the centre: a rate and an argument have one for each owner."""
    axes = joint.axes()
    if name in axes:
        known = {BATCH_SIZE: joint.sizes, **{axis: axes[axis].values for axis in (OPTIMIZER, SCHEDULE) if axis in axes}}
        if not holds(RangeConfig(values=known[name]), prior.centre):
            return {}
        centre = joint.sizes.index(prior.centre) if name == BATCH_SIZE else prior.centre
        return {name: Expected(axes[name], centre, prior.confidence)}
    return {
        coordinate(cell, name): Expected(
            joint.coordinates(cell)[coordinate(cell, name)],
            place_of(extent, prior.centre) if name == RATE else prior.centre,
            prior.confidence,
        )
        for cell in joint.cells.values()
        if (extent := _extent(joint, cell, name)) is not None and holds(extent, prior.centre)
    }


def _extent(joint: JointSpace, cell: Cell, name: str) -> RangeConfig | None:
    """The range of a parameter in a cell; of a rate, that at the batch size at which it is meant."""
    if name != RATE or name not in cell.ranges:
        return cell.ranges.get(name)
    rate = joint.space.search.learning_rate
    return learning_rate_range(rate, cell.optimizer, rate.reference_batch_size)


def _mistake(joint: JointSpace, name: str, prior: PriorConfig) -> str:
    known = list(dict.fromkeys([*joint.axes(), *(key for cell in joint.cells.values() for key in cell.ranges)]))
    if name not in known:
        return f"`search.priors.{name}` must be on what is searched, but that is only {', '.join(known)}."
    at = f" at batch size {joint.space.search.learning_rate.reference_batch_size}" if name == RATE else ""
    return f"`search.priors.{name}.centre` must lie in what is searched{at}, but got {prior.centre!r}."
