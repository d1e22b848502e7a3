"""The whole grid and all its ranges as one space, in which one sampler proposes: the space of the strategy `tune`.

A point of it names its coordinates so that they mean the same for every sampler: the batch size by its place among the
sizes, so that neighbours are neighbours; the learning rate by its place in the range that belongs to its batch size and
optimizer, so that the best place hardly moves with the batch size; an argument by the optimizer or schedule it is of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from search.config import RangeConfig
from search.space import Cell, SearchSpace, value_at, values_in

BATCH_SIZE, OPTIMIZER, SCHEDULE, RATE = "batch_size", "optimizer", "schedule", "learning_rate"
PLACE = RangeConfig(low=0.0, high=1.0)
"""Of a learning rate in its range: 0 the lowest, 1 the highest, even in the logarithm."""

Point = dict[str, Any]


@dataclass(slots=True)
class JointSpace:
    """Coordinates, and the way from a point to a cell and to what is sampled in it."""

    space: SearchSpace
    cells: Mapping[str, Cell] = field(init=False)
    sizes: list[int] = field(init=False)
    _axes: dict[str, RangeConfig] = field(init=False)
    _at: dict[tuple[int, str, str], Cell] = field(init=False)

    def __post_init__(self) -> None:
        search = self.space.search
        self.cells = {cell.name: cell for cell in self.space.cells()}
        self._at = {(cell.batch_size, cell.optimizer, cell.schedule): cell for cell in self.cells.values()}
        self.sizes = sorted(search.batch_sizes)
        every = {
            BATCH_SIZE: RangeConfig(low=0, high=len(self.sizes) - 1),
            OPTIMIZER: RangeConfig(values=list(search.optimizers)),
            SCHEDULE: RangeConfig(values=list(search.schedules)),
        }
        counts = {BATCH_SIZE: len(self.sizes), OPTIMIZER: len(search.optimizers), SCHEDULE: len(search.schedules)}
        self._axes = {name: extent for name, extent in every.items() if counts[name] > 1}

    def axes(self) -> dict[str, RangeConfig]:
        """The coordinates that every point has, but for axes of the grid with a single entry."""
        return dict(self._axes)

    def cell_of(self, point: Mapping[str, Any]) -> Cell:
        """The cell that a point lies in."""
        search = self.space.search
        return self.cell_at(
            batch_size=self.sizes[point.get(BATCH_SIZE, 0)],
            optimizer=point.get(OPTIMIZER, next(iter(search.optimizers))),
            schedule=point.get(SCHEDULE, next(iter(search.schedules))),
        )

    def cell_at(self, *, batch_size: int, optimizer: str, schedule: str) -> Cell:
        """The cell of these entries of the grid."""
        return self._at[batch_size, optimizer, schedule]

    def axes_of(self, cell: Cell) -> Point:
        """What the points of a cell have as coordinates of the axes."""
        every = {BATCH_SIZE: self.sizes.index(cell.batch_size), OPTIMIZER: cell.optimizer, SCHEDULE: cell.schedule}
        return {name: value for name, value in every.items() if name in self.axes()}

    def coordinates(self, cell: Cell) -> dict[str, RangeConfig]:
        """The coordinates that points of one cell have besides the axes."""
        return {coordinate(cell, name): PLACE if name == RATE else extent for name, extent in cell.ranges.items()}

    def everything(self) -> dict[str, RangeConfig]:
        """All coordinates of all cells, each once."""
        conditional = [self.coordinates(cell) for cell in self.cells.values()]
        return {**self.axes(), **{name: extent for found in conditional for name, extent in found.items()}}

    def sampled(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What a point means in its cell: parameters by the names of the cell's ranges."""
        cell = self.cell_of(point)
        return {
            name: value_at(extent, point[coordinate(cell, name)]) if name == RATE else point[coordinate(cell, name)]
            for name, extent in cell.ranges.items()
        }

    def reduced(self, point: Mapping[str, Any]) -> Point:
        """The coordinates that count where the point lies."""
        names = {*self.axes(), *self.coordinates(self.cell_of(point))}
        return {name: value for name, value in point.items() if name in names}

    def grid(self, levels: int) -> Iterator[Point]:
        """Every combination, once; a continuous range at so many places, evenly spread over it."""
        for cell in self.cells.values():
            known = self.axes_of(cell)
            own = self.coordinates(cell)
            for values in itertools.product(*(spread_over(extent, levels) for extent in own.values())):
                yield {**known, **dict(zip(own, values, strict=True))}


def coordinate(cell: Cell, name: str) -> str:
    """Rates of different optimizers differ by orders of magnitude: each has a coordinate of its own."""
    prefix, dot, rest = name.partition(".")
    if name == RATE:
        return f"{cell.optimizer}.{RATE}"
    if dot and prefix in (OPTIMIZER, SCHEDULE):
        return f"{cell.optimizer if prefix == OPTIMIZER else cell.schedule}.{rest}"
    return name


def spread_over(extent: RangeConfig, levels: int) -> list[Any]:
    """All values of a range, or `levels` of a continuous one or of one that has more."""
    count = min(levels, values_in(extent)) if extent.values is None else len(extent.values)
    # Twice the same where a logarithmic range of whole numbers is dense: each is taken once.
    return list(dict.fromkeys(value_at(extent, (index + 0.5) / count) for index in range(int(count))))
