"""One cell of the grid: what the curves of its trials say, and what they add up to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracking.analysis.convergence import CellSpeed, Convergence, cell_speed, convergence
from tracking.analysis.curves import loss
from tracking.analysis.data import StudyData, counts, is_number
from tracking.analysis.rates import Optimum, rate_optimum
from tracking.rows import Row

ALONE = "steps x step time alone"
"""The `time_mode` of a row whose seconds are those of a training that has its worker for itself."""
SEARCHED_RATES = 3
"""A cell with fewer different rates than this was not tuned: nothing is fitted to it (methodology, trap 1)."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell of the grid and what its trials add up to."""

    name: str
    batch_size: int
    method: str
    optimizer: str
    schedule: str
    trials: Sequence[Row]
    records: Sequence[Convergence]
    speed: CellSpeed
    optimum: Optimum | None
    """None without a learning rate of ours."""
    bounds: tuple[float, float] | None
    best: Row | None
    searched: bool
    """Whether its rate was searched, so that it may be compared with other cells."""
    step_seconds: float | None
    """Seconds of one step of a training that runs alone."""

    @property
    def steps(self) -> float:
        """Steps to the target; infinity: never."""
        return self.speed.steps

    @property
    def seconds(self) -> float:
        """Seconds to the target of a training alone: steps times step time."""
        return self.steps * self.step_seconds if self.step_seconds is not None else math.nan

    @property
    def edge(self) -> str:
        """`low`, `high` or `infeasible` where the best rate lies at the end of what was searched."""
        return self.optimum.edge if self.optimum is not None else ""

    @property
    def winner(self) -> Row | None:
        """The trial that reached the target first."""
        return next((row for row in self.trials if row["number"] == self.speed.winner), None)


def records_of(data: StudyData, rows: Sequence[Row]) -> dict[int, Convergence]:
    """What each trial's curve says, by trial number."""
    metrics = {"direction": "min", **data.metrics}
    numbered = {row["number"]: (row, data.curves.get(row["number"], ())) for row in rows}
    return {
        number: convergence(row, curve, metrics=metrics, target=data.target)
        for number, (row, curve) in numbered.items()
    }


def cell_of(data: StudyData, name: str, rows: Sequence[Row], records: Mapping[int, Convergence]) -> CellResult:
    """The result of a cell, from its trials (at least one) and what their curves say."""
    first = rows[0]
    optimizers = (data.space.get("search") or {}).get("optimizers") or {}
    method = first["schedule"] if len(optimizers) == 1 else f"{first['optimizer']} {first['schedule']}"
    bounds = _bounds(data, name, rows)
    mine = [records[row["number"]] for row in rows]
    rates = {row["learning_rate"] for row in rows if is_number(row.get("learning_rate"))}
    return CellResult(
        name=name,
        batch_size=first["batch_size"],
        method=method,
        optimizer=first["optimizer"],
        schedule=first["schedule"],
        trials=rows,
        records=mine,
        speed=cell_speed(name, first["batch_size"], mine),
        optimum=None if bounds is None else _optimum(data, rows, bounds),
        bounds=bounds,
        best=data.best(rows),
        searched=len(rates) >= SEARCHED_RATES,
        step_seconds=_step_seconds(data, first, rows),
    )


def _bounds(data: StudyData, cell: str, rows: Sequence[Row]) -> tuple[float, float] | None:
    """What was asked where the ledger knows it, widened to what was tried: an extended range is in the rows only."""
    tried = [row["learning_rate"] for row in rows if is_number(row.get("learning_rate"))]
    asked = data.bounds.get(cell, ())
    return (min(*tried, *asked), max(*tried, *asked)) if len(tried) + len(asked) > 1 else None


def _optimum(data: StudyData, rows: Sequence[Row], bounds: tuple[float, float]) -> Optimum:
    judged = [row for row in rows if counts(row) and is_number(row.get("learning_rate"))]
    lost = [row["learning_rate"] for row in rows if row["status"] == "DIVERGED" and is_number(row.get("learning_rate"))]
    return rate_optimum(
        [row["learning_rate"] for row in judged],
        [loss(row["value"], data.direction) for row in judged],
        bounds=bounds,
        infeasible_rates=lost,
    )


def _step_seconds(data: StudyData, first: Row, rows: Sequence[Row]) -> float | None:
    measured = (data.probes.get("steps") or {}).get(f"{first['batch_size']}-{first['optimizer']}")
    if is_number(measured):
        return float(measured)
    alone = [row for row in rows if row.get("time_mode") == ALONE] or rows
    seconds = [row["seconds"] / row["steps"] for row in alone if row.get("seconds") and row.get("steps")]
    return statistics.median(seconds) if seconds else None
