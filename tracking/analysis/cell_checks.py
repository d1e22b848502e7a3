"""What keeps a single cell's numbers from being trusted; `checks` puts it beside what concerns the whole study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tracking.analysis.data import is_number
from tracking.analysis.judging import rank
from tracking.analysis.rates import edge_of

if TYPE_CHECKING:
    from tracking.analysis.convergence import Convergence

Row = Mapping[str, Any]

LEAST_HITS = 3
"""Trials that reach the target, for the fewest steps among them to be more than one trial's luck."""
INFEASIBLE_SHARE = 0.5
"""Share of diverged trials from which a range is searched in the wrong place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something to beware of."""

    name: str
    """tuning, edge, infeasible, memory, hits, resolution, progress, target, unequal, trials or timing."""
    cell: str | None
    """None: it concerns the study."""
    sentence: str
    """What was found, in numbers, and the remedy."""
    severity: Literal["warning", "note"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell's trials that say something of their configuration, and what was measured of them."""

    name: str
    rows: Sequence[Row]
    records: Mapping[int, Convergence]
    curves: Mapping[int, Sequence[Row]]
    bounds: tuple[float, float] | None
    sign: float
    """-1 where a large objective is good, otherwise 1."""

    @property
    def best(self) -> Row | None:
        """The feasible trial to take; ties go to the lower number."""
        judged = [row for row in self.rows if self.records[row["number"]].feasible and is_number(row.get("value"))]
        return min(judged, key=lambda row: (rank(row, self.sign), row["number"]), default=None)

    @property
    def hits(self) -> int:
        """Feasible trials that reached the target."""
        return sum(math.isfinite(self.records[row["number"]].arrival) for row in self.rows)

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the fastest trial before its hit; None if none arrived."""
        first = min((self.records[row["number"]] for row in self.rows), key=lambda record: record.arrival, default=None)
        if first is None or math.isinf(first.arrival):
            return None
        return len([point for point in self.curves.get(first.number, ()) if point["step"] < first.arrival])

    def rates(self, *, diverged: bool) -> list[float]:
        """Learning rates of the trials that diverged, or of the others; empty where the module has its own."""
        rows = [row for row in self.rows if (row["status"] == "DIVERGED") == diverged]
        return [row["learning_rate"] for row in rows if row.get("learning_rate")]

    def share(self, status: str) -> float:
        """Share of the trials that have a status."""
        return sum(row["status"] == status for row in self.rows) / len(self.rows) if self.rows else 0.0


def beware(name: str, sentence: str, *, cell: str | None = None, note: bool = False) -> Check:
    """A warning, or a mere note; without a cell, it concerns the study."""
    return Check(name=name, cell=cell, sentence=sentence, severity="note" if note else "warning")


def edge(cell: Cell) -> Iterator[Check]:
    """Whether its best learning rate lies at an end of what was tried."""
    best = cell.best
    if best is None or not best.get("learning_rate"):
        return
    rate, lost = best["learning_rate"], cell.rates(diverged=True)
    kind = edge_of(rate, bounds=cell.bounds, tried=cell.rates(diverged=False), lost=lost)
    if kind == "infeasible":
        above = min(other for other in lost if other > rate)
        yield beware(
            "edge",
            f"The best learning rate of {cell.name}, {rate:.3g}, lies right below one that diverged ({above:.3g}): "
            "raise `search.refine` to look closer between the two.",
            cell=cell.name,
            note=True,
        )
    elif kind and cell.bounds:
        end, side = (cell.bounds[0], "lower") if kind == "low" else (cell.bounds[1], "upper")
        yield beware(
            "edge",
            f"The best learning rate of {cell.name}, {rate:.3g}, lies at the {side} end of its range ({end:.3g}), so "
            "that the optimum may lie beyond: raise `search.learning_rate.factor`, or move its `centre`.",
            cell=cell.name,
        )


def infeasible(cell: Cell) -> Iterator[Check]:
    """Whether many of its trials diverged, or any ran out of memory."""
    diverged, lost = cell.share("DIVERGED"), cell.share("OOM")
    if diverged > INFEASIBLE_SHARE:
        yield beware(
            "infeasible",
            f"{diverged:.0%} of the {len(cell.rows)} trials of {cell.name} diverged: "
            "lower `search.learning_rate.centre`, or set `highest`.",
            cell=cell.name,
        )
    if lost > 0:
        yield beware(
            "memory",
            f"{lost:.0%} of the {len(cell.rows)} trials of {cell.name} ran out of memory: "
            "leave this batch size out, or train it with `training.accumulate`.",
            cell=cell.name,
            note=True,
        )


def hits(cell: Cell) -> Iterator[Check]:
    """Whether too few of its trials reached the target."""
    if cell.rows and cell.hits < LEAST_HITS:
        yield beware(
            "hits",
            f"{cell.hits} of the {len(cell.rows)} trials of {cell.name} reach the target, but fewer than {LEAST_HITS} "
            "leave its steps to target to luck: raise `search.trials`, or set an easier `metrics.target`.",
            cell=cell.name,
        )
