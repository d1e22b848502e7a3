"""What keeps a study's numbers from being trusted: each check says what was found, and what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracking.analysis.cell_checks import Cell, Check, beware, edge, hits, infeasible
from tracking.analysis.judging import rank

if TYPE_CHECKING:
    from tracking.analysis.convergence import Convergence

Row = Mapping[str, Any]

LEAST_RATES = 3
"""Different rates without which a cell was not tuned."""
LEAST_TRIALS = 12
"""Quasi-random rates of a cell. With 10, the critical batch size of the noisy quadratic model comes out a third low."""
LEAST_EVALUATIONS = 20
"""Evaluations before the hit; with fewer, a first crossing says more of the intervals than of the training."""
EASY = 5
"""A target that all reach before this evaluation tells nothing apart."""
EARLY = 0.1
"""A best evaluation within this share of the training: the rest of it was for nothing."""
DRAWN = ("COMPLETE", "PRUNED", "DIVERGED", "OOM")
"""Statuses of trials that say something of their configuration."""
SHARED_TIME = "array"
"""The `time_mode` of seconds that several trials spent together."""


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
        Cell(name=name, rows=rows, records=records, curves=curves, bounds=bounds.get(name), sign=sign)
        for name, rows in drawn.items()
    ]
    if strategy == "tune":
        return [*_aimed(cells), *(check for cell in _winners(cells, sign) for check in edge(cell)), *_timing(cells)]
    found = [check for cell in cells for check in (*edge(cell), *infeasible(cell))]
    found += [*_tuning(cells), *_unequal(cells), *_too_few(cells), *_progress(cells), *_timing(cells)]
    if metrics.get("target") is not None:
        found += [*_target(cells), *(check for cell in cells for check in hits(cell)), *_resolution(cells)]
    return found


def _aimed(cells: Sequence[Cell]) -> Iterator[Check]:
    counts = [len(cell.rows) for cell in cells]
    if counts:
        yield beware(
            "unequal",
            f"These trials lie where a sampler expected the best (`search.strategy: tune`), {min(counts)} to "
            f"{max(counts)} to a cell, and most ended at a rung: what the panels say of batch sizes, rates and "
            "schedules against each other is biased. To compare those, search with `search.strategy: compare`.",
        )


def _winners(cells: Sequence[Cell], sign: float) -> list[Cell]:
    """The cell with the trial to take."""
    known = [(rank(cell.best, sign), index) for index, cell in enumerate(cells) if cell.best is not None]
    return [cells[index] for _, index in sorted(known)[:1]]


def _tuning(cells: Sequence[Cell]) -> Iterator[Check]:
    """Nothing is said of modules whose optimizer is their own: they have no rate of ours."""
    rates = {cell.name: len({*cell.rates(diverged=False), *cell.rates(diverged=True)}) for cell in cells if cell.rows}
    untuned = [name for name, count in rates.items() if 0 < count < LEAST_RATES]
    if untuned and len(rates) > 1:
        yield beware(
            "tuning",
            f"Fewer than {LEAST_RATES} learning rates were tried in {_listed(untuned)}, which says nothing of what "
            "these batch sizes can do: let `search.learning_rate` be searched in every cell.",
        )


def _explored(cells: Sequence[Cell]) -> dict[str, int]:
    """Quasi-random trials of each cell; those added beyond an edge or around the best are its own affair."""
    return {cell.name: sum(row.get("phase") == "explore" for row in cell.rows) for cell in cells}


def _unequal(cells: Sequence[Cell]) -> Iterator[Check]:
    counts = _explored(cells)
    if counts and min(counts.values()) < max(counts.values()):
        fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        yield beware(
            "unequal",
            f"The cells have between {counts[fewest]} ({fewest}) and {counts[most]} ({most}) quasi-random trials, and "
            "the best of more is better by chance: let the search end.",
        )


def _too_few(cells: Sequence[Cell]) -> Iterator[Check]:
    counts = _explored(cells)
    short = [name for name, count in counts.items() if count < LEAST_TRIALS]
    if short:
        least = min(counts.values())
        yield beware(
            "trials",
            f"{len(short)} of {len(counts)} cells have fewer than {LEAST_TRIALS} quasi-random trials (the fewest: "
            f"{least}), which makes a critical batch size come out too small: raise `search.trials`.",
        )


def _progress(cells: Sequence[Cell]) -> Iterator[Check]:
    """Where in its training the best trial of each cell was best. A schedule that decays is best at the end anyway."""
    places = [(cell.name, cell.best, cell.records[cell.best["number"]].best_progress) for cell in cells if cell.best]
    early = [name for name, _, place in places if place is not None and place < EARLY]
    late = [
        name for name, row, place in places if place is not None and place >= 1 and row.get("schedule") == "constant"
    ]
    if early:
        yield beware(
            "progress",
            f"The best trial of {_listed(early)} is best within the first {EARLY:.0%} of its training: "
            "lower `training.epochs`, or regularise more.",
        )
    if late:
        yield beware(
            "progress",
            f"The best trial of {_listed(late)} still improves at its last evaluation: raise `training.epochs` to see "
            "where it ends.",
            note=True,
        )


def _timing(cells: Sequence[Cell]) -> Iterator[Check]:
    modes = Counter(row.get("time_mode") for cell in cells for row in cell.rows if row.get("time_mode"))
    if modes[SHARED_TIME]:
        yield beware(
            "timing",
            f"The seconds of {modes[SHARED_TIME]} of {modes.total()} trials were spent side by side with others, so "
            "that they compare with nothing: compare steps, or set `search.arrays: off`.",
        )
    elif len(modes) > 1:
        counted = " and ".join(f"{count} as {mode}" for mode, count in modes.most_common())
        yield beware(
            "timing",
            f"Seconds come from two sources, {counted}: compare steps, or set `search.arrays: off`.",
            note=True,
        )


def _target(cells: Sequence[Cell]) -> Iterator[Check]:
    cells = [cell for cell in cells if cell.rows]
    arrived = [cell for cell in cells if cell.hits]
    before = [cell.evaluations for cell in arrived]
    if cells and not arrived:
        yield beware(
            "target",
            f"None of the {len(cells)} cells reaches the target: set an easier `metrics.target`, or train longer.",
        )
    elif len(arrived) == 1 and len(cells) > 1:
        yield beware(
            "target",
            f"Only 1 of {len(cells)} cells, {arrived[0].name}, reaches the target, so that it compares nothing: "
            "set an easier `metrics.target`.",
        )
    elif arrived and len(arrived) == len(cells) and all(count is not None and count + 1 < EASY for count in before):
        yield beware(
            "target",
            f"Every cell reaches the target before its evaluation number {EASY}: "
            "set a harder `metrics.target`, or raise `training.evaluations`.",
        )


def _resolution(cells: Sequence[Cell]) -> Iterator[Check]:
    before = {cell.name: count for cell in cells if (count := cell.evaluations) is not None}
    coarse = {name: count for name, count in before.items() if count < LEAST_EVALUATIONS}
    if coarse:
        fewest = min(coarse, key=coarse.__getitem__)
        yield beware(
            "resolution",
            f"{len(coarse)} of {len(before)} cells reach the target after fewer than {LEAST_EVALUATIONS} evaluations "
            f"(the fewest: {coarse[fewest]}, {fewest}), so that steps to target are only known to within the distance "
            "between two: raise `training.evaluations`.",
        )


def _listed(names: Sequence[str]) -> str:
    """The first three names, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
