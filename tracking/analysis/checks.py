"""What keeps a study's numbers from being trusted: each check says what was found, and what to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tracking.analysis.data import is_number
from tracking.analysis.rates import edge_of

if TYPE_CHECKING:
    from tracking.analysis.convergence import Convergence

Row = Mapping[str, Any]

LEAST_RATES = 3
"""Different rates without which a cell was not tuned."""
LEAST_TRIALS = 12
"""Quasi-random rates of a cell. With 10, the critical batch size of the noisy quadratic model comes out a third low."""
LEAST_HITS = 3
"""Trials that reach the target, for the fewest steps among them to be more than one trial's luck."""
LEAST_EVALUATIONS = 20
"""Evaluations before the hit; with fewer, a first crossing says more of the intervals than of the training."""
EASY = 5
"""A target that all reach before this evaluation tells nothing apart."""
INFEASIBLE_SHARE = 0.5
"""Share of diverged trials from which a range is searched in the wrong place."""
EARLY = 0.1
"""A best evaluation within this share of the training: the rest of it was for nothing."""
DRAWN = ("COMPLETE", "PRUNED", "DIVERGED", "OOM")
"""Statuses of trials that say something of their configuration."""
SHARED_TIME = "array"
"""The `time_mode` of seconds that several trials spent together."""


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
class _Cell:
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
        """The feasible trial with the best objective; ties go to the lower number."""
        judged = [row for row in self.rows if self.records[row["number"]].feasible and is_number(row.get("value"))]
        return min(judged, key=lambda row: (self.sign * row["value"], row["number"]), default=None)

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


def checks(
    trials: Sequence[Row],
    curves: Mapping[int, Sequence[Row]],
    records: Mapping[int, Convergence],
    bounds: Mapping[str, tuple[float, float]],
    *,
    metrics: Mapping[str, Any],
    strategy: str = "compare",
) -> list[Check]:
    """Look for what misleads, cell by cell and then over the whole study; nothing found is an empty list.

    `curves` and `records` are by trial number, `bounds` are the rates searched by cell, `metrics` says the direction of
    the objective and whether there is a target. With the strategy `tune`, cells are not there to be compared: only the
    winner's is looked at.
    """
    drawn: dict[str, list[Row]] = {row["cell"]: [] for row in trials}
    for row in trials:
        if row["status"] in DRAWN and row["number"] in records:
            drawn[row["cell"]].append(row)
    sign = -1.0 if metrics.get("direction") == "max" else 1.0
    cells = [
        _Cell(name=name, rows=rows, records=records, curves=curves, bounds=bounds.get(name), sign=sign)
        for name, rows in drawn.items()
    ]
    if strategy == "tune":
        return [*_aimed(cells), *(check for cell in _winners(cells, sign) for check in _edge(cell)), *_timing(cells)]
    found = [check for cell in cells for check in (*_edge(cell), *_infeasible(cell))]
    found += [*_tuning(cells), *_unequal(cells), *_too_few(cells), *_progress(cells), *_timing(cells)]
    if metrics.get("target") is not None:
        found += [*_target(cells), *(check for cell in cells for check in _hits(cell)), *_resolution(cells)]
    return found


def _check(name: str, sentence: str, *, cell: str | None = None, note: bool = False) -> Check:
    return Check(name=name, cell=cell, sentence=sentence, severity="note" if note else "warning")


def _aimed(cells: Sequence[_Cell]) -> Iterator[Check]:
    counts = [len(cell.rows) for cell in cells]
    if counts:
        sentence = (
            f"These trials lie where a sampler expected the best (`search.strategy: tune`), {min(counts)} to "
            f"{max(counts)} to a cell, and most ended at a rung: what the panels say of batch sizes, rates and "
            "schedules against each other is biased. To compare those, search with `search.strategy: compare`."
        )
        yield Check(name="unequal", cell=None, sentence=sentence, severity="warning")


def _winners(cells: Sequence[_Cell], sign: float) -> list[_Cell]:
    """The cell with the best trial of all."""
    known = [(sign * cell.best["value"], index) for index, cell in enumerate(cells) if cell.best is not None]
    return [cells[index] for _, index in sorted(known)[:1]]


def _edge(cell: _Cell) -> Iterator[Check]:
    best = cell.best
    if best is None or not best.get("learning_rate"):
        return
    rate, lost = best["learning_rate"], cell.rates(diverged=True)
    edge = edge_of(rate, bounds=cell.bounds, tried=cell.rates(diverged=False), lost=lost)
    if edge == "infeasible":
        above = min(other for other in lost if other > rate)
        yield _check(
            "edge",
            f"The best learning rate of {cell.name}, {rate:.3g}, lies right below one that diverged ({above:.3g}): "
            "raise `search.refine` to look closer between the two.",
            cell=cell.name,
            note=True,
        )
    elif edge and cell.bounds:
        end, side = (cell.bounds[0], "lower") if edge == "low" else (cell.bounds[1], "upper")
        yield _check(
            "edge",
            f"The best learning rate of {cell.name}, {rate:.3g}, lies at the {side} end of its range ({end:.3g}), so "
            "that the optimum may lie beyond: raise `search.learning_rate.factor`, or move its `centre`.",
            cell=cell.name,
        )


def _infeasible(cell: _Cell) -> Iterator[Check]:
    diverged, lost = cell.share("DIVERGED"), cell.share("OOM")
    if diverged > INFEASIBLE_SHARE:
        yield _check(
            "infeasible",
            f"{diverged:.0%} of the {len(cell.rows)} trials of {cell.name} diverged: "
            "lower `search.learning_rate.centre`, or set `highest`.",
            cell=cell.name,
        )
    if lost > 0:
        yield _check(
            "memory",
            f"{lost:.0%} of the {len(cell.rows)} trials of {cell.name} ran out of memory: "
            "leave this batch size out, or train it with `training.accumulate`.",
            cell=cell.name,
            note=True,
        )


def _hits(cell: _Cell) -> Iterator[Check]:
    if cell.rows and cell.hits < LEAST_HITS:
        yield _check(
            "hits",
            f"{cell.hits} of the {len(cell.rows)} trials of {cell.name} reach the target, but fewer than {LEAST_HITS} "
            "leave its steps to target to luck: raise `search.trials`, or set an easier `metrics.target`.",
            cell=cell.name,
        )


def _tuning(cells: Sequence[_Cell]) -> Iterator[Check]:
    """Nothing is said of modules whose optimizer is their own: they have no rate of ours."""
    rates = {cell.name: len({*cell.rates(diverged=False), *cell.rates(diverged=True)}) for cell in cells if cell.rows}
    untuned = [name for name, count in rates.items() if 0 < count < LEAST_RATES]
    if untuned and len(rates) > 1:
        yield _check(
            "tuning",
            f"Fewer than {LEAST_RATES} learning rates were tried in {_listed(untuned)}, which says nothing of what "
            "these batch sizes can do: let `search.learning_rate` be searched in every cell.",
        )


def _explored(cells: Sequence[_Cell]) -> dict[str, int]:
    """Quasi-random trials of each cell; those added beyond an edge or around the best are its own affair."""
    return {cell.name: sum(row.get("phase") == "explore" for row in cell.rows) for cell in cells}


def _unequal(cells: Sequence[_Cell]) -> Iterator[Check]:
    counts = _explored(cells)
    if counts and min(counts.values()) < max(counts.values()):
        fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        yield _check(
            "unequal",
            f"The cells have between {counts[fewest]} ({fewest}) and {counts[most]} ({most}) quasi-random trials, and "
            "the best of more is better by chance: let the search end.",
        )


def _too_few(cells: Sequence[_Cell]) -> Iterator[Check]:
    counts = _explored(cells)
    short = [name for name, count in counts.items() if count < LEAST_TRIALS]
    if short:
        least = min(counts.values())
        yield _check(
            "trials",
            f"{len(short)} of {len(counts)} cells have fewer than {LEAST_TRIALS} quasi-random trials (the fewest: "
            f"{least}), which makes a critical batch size come out too small: raise `search.trials`.",
        )


def _progress(cells: Sequence[_Cell]) -> Iterator[Check]:
    """Where in its training the best trial of each cell was best. A schedule that decays is best at the end anyway."""
    places = [(cell.name, cell.best, cell.records[cell.best["number"]].best_progress) for cell in cells if cell.best]
    early = [name for name, _, place in places if place is not None and place < EARLY]
    late = [
        name for name, row, place in places if place is not None and place >= 1 and row.get("schedule") == "constant"
    ]
    if early:
        yield _check(
            "progress",
            f"The best trial of {_listed(early)} is best within the first {EARLY:.0%} of its training: "
            "lower `training.epochs`, or regularise more.",
        )
    if late:
        yield _check(
            "progress",
            f"The best trial of {_listed(late)} still improves at its last evaluation: raise `training.epochs` to see "
            "where it ends.",
            note=True,
        )


def _timing(cells: Sequence[_Cell]) -> Iterator[Check]:
    modes = Counter(row.get("time_mode") for cell in cells for row in cell.rows if row.get("time_mode"))
    if modes[SHARED_TIME]:
        yield _check(
            "timing",
            f"The seconds of {modes[SHARED_TIME]} of {modes.total()} trials were spent side by side with others, so "
            "that they compare with nothing: compare steps, or set `search.arrays: off`.",
        )
    elif len(modes) > 1:
        counted = " and ".join(f"{count} as {mode}" for mode, count in modes.most_common())
        yield _check(
            "timing",
            f"Seconds come from two sources, {counted}: compare steps, or set `search.arrays: off`.",
            note=True,
        )


def _target(cells: Sequence[_Cell]) -> Iterator[Check]:
    cells = [cell for cell in cells if cell.rows]
    arrived = [cell for cell in cells if cell.hits]
    before = [cell.evaluations for cell in arrived]
    if cells and not arrived:
        yield _check(
            "target",
            f"None of the {len(cells)} cells reaches the target: set an easier `metrics.target`, or train longer.",
        )
    elif len(arrived) == 1 and len(cells) > 1:
        yield _check(
            "target",
            f"Only 1 of {len(cells)} cells, {arrived[0].name}, reaches the target, so that it compares nothing: "
            "set an easier `metrics.target`.",
        )
    elif arrived and len(arrived) == len(cells) and all(count is not None and count + 1 < EASY for count in before):
        yield _check(
            "target",
            f"Every cell reaches the target before its evaluation number {EASY}: "
            "set a harder `metrics.target`, or raise `training.evaluations`.",
        )


def _resolution(cells: Sequence[_Cell]) -> Iterator[Check]:
    before = {cell.name: count for cell in cells if (count := cell.evaluations) is not None}
    coarse = {name: count for name, count in before.items() if count < LEAST_EVALUATIONS}
    if coarse:
        fewest = min(coarse, key=coarse.__getitem__)
        yield _check(
            "resolution",
            f"{len(coarse)} of {len(before)} cells reach the target after fewer than {LEAST_EVALUATIONS} evaluations "
            f"(the fewest: {coarse[fewest]}, {fewest}), so that steps to target are only known to within the distance "
            "between two: raise `training.evaluations`.",
        )


def _listed(names: Sequence[str]) -> str:
    """The first three names, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
